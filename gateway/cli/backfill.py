"""`telegram-gateway backfill`: has the running daemon fetch a chat's history, and shows how far it is."""

import asyncio
from datetime import UTC, datetime

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli.moments import MOMENT
from gateway.control import ControlClient
from gateway.database.aggregates import refresh_aggregates
from gateway.event import utc_now
from gateway.retention import refuse_beyond_retention
from gateway.settings import CHAT, Settings, load_settings
from gateway.telegram.history import BACKFILL_PATH, HistoryOrder
from gateway.telegram.history import Progress as HistoryProgress

_BEGINNING = datetime(2013, 1, 1, tzinfo=UTC)  # Telegram is not older


@click.command(name="backfill")
@click.option("--chat", required=True, help="The chat: its id, or @name.")
@click.option("--since", type=MOMENT, help="From this date on, or for this long back (90d).")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many message ids, the newest.")
@click.option("--account", help="The account that reads it; by default the first that can.")
def command(chat: str, since: datetime | None, limit: int | None, account: str | None) -> None:
    """Fetch a chat's history from before the gateway began, into all sinks.

    The daemon does the work, behind its live messages: interrupt this, or restart the daemon, and it goes on.
    Without --since, it reaches back as far as the database keeps messages.
    """
    if not CHAT.fullmatch(chat):
        raise click.BadParameter(f"{chat!r} is neither a chat id nor an @name", param_hint="--chat")
    settings = load_settings()
    if since is None:
        keeps = settings.db_retention if settings.enable_db else None
        since = None if keeps is None else utc_now() - keeps
    else:
        refuse_beyond_retention(settings, since)
    order = HistoryOrder(chat=chat, since=since, limit=limit, account=account)
    asyncio.run(_follow(settings, order))


async def _follow(settings: Settings, order: HistoryOrder) -> None:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(f"chat {order.chat}", total=None, rate="")
        async for line in ControlClient(settings.state_dir).stream(BACKFILL_PATH, order):
            progress = msgspec.convert(line, HistoryProgress)
            done = progress.total - progress.left
            speed = bar.tasks[0].speed
            rate = "" if speed is None else f"{speed:,.0f} ids/s"
            if not progress.connected:
                rate = "waiting for the connection to Telegram"
            bar.update(task, completed=done, total=progress.total, rate=rate)
    if settings.enable_db and progress.total:
        await refresh_aggregates(
            settings.db_direct_dsn.get_secret_value(),
            order.since or _BEGINNING,
            utc_now(),
            password=settings.db_password.get_secret_value() if settings.db_password else None,
        )
    absent = progress.absent or 0
    click.echo(
        f"{progress.total - absent} messages of chat {progress.chat} fetched, "
        f"{absent} of {progress.total} ids are not there (deleted, or never visible)"
        if progress.total
        else f"nothing to fetch: chat {progress.chat} is known as far back as asked for"
    )
