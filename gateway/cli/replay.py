"""`telegram-gateway replay`: delivers a time range once more to one sink, whether a daemon runs or not."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gateway.cli.moments import MOMENT
from gateway.database import chats_named, connect
from gateway.errors import EXIT_CRASHED, ConfigurationError
from gateway.event import utc_now
from gateway.journal import open_reader
from gateway.logs import configure_logging
from gateway.metrics import REGISTRY
from gateway.replay import Span, Tally, records_of, replay
from gateway.settings import CHAT, Settings, load_settings
from gateway.sinks.base import Sink
from gateway.sinks.enabled import enabled_sinks

SINKS = ("rabbitmq", "redis", "timescaledb")
SHOWN_REFUSALS = 20


@click.command(name="replay")
@click.option("--sink", "name", type=click.Choice(SINKS), required=True, help="Where to deliver.")
@click.option("--chat", help="Only this chat: its id, or @name.")
@click.option("--since", type=MOMENT, required=True, help="Received since: 2026-05-04, …T12:30, 2h, 7d.")
@click.option("--until", type=MOMENT, help="Received before; now, unless told.")
@click.option("--dry-run", is_flag=True, help="Count, and deliver nothing.")
def command(name: str, chat: str | None, since: datetime, until: datetime | None, dry_run: bool) -> int:
    """Deliver events once more to one sink, in the order in which they were received.

    They come from the journal or, where they are older than it, from the database. RabbitMQ's consumers see
    the header x-replay: true; message ids are the same as the first time. In Redis a newer revision is never
    overwritten. Exits 1 when the sink refused any.
    """
    if chat is not None and not CHAT.fullmatch(chat):
        raise click.BadParameter(f"{chat!r} is neither a chat id nor an @name", param_hint="--chat")
    span = Span(since, until or utc_now(), None if chat is None else (chat,))
    if span.since >= span.until:
        raise click.BadParameter(
            "--since must be before --until, and not in the future", param_hint="--since"
        )
    settings = load_settings()
    configure_logging("WARNING")
    return asyncio.run(_run(settings, name, span, dry_run))


async def _run(settings: Settings, name: str, span: Span, dry_run: bool) -> int:
    sink = _sink(settings, name)
    if name == "redis":
        span = _within_cache(span)
    if span.chats is not None and span.chats[0].startswith("@"):
        span = replace(span, chats=await _ids_of(settings, span.chats[0]))
    if not dry_run:
        await sink.open()
    tally = Tally()
    started = time.monotonic()
    try:
        with open_reader(settings.journal_path) as reader, _Bar(span, tally) as bar:
            async with aclosing(records_of(settings, reader, name, span)) as records:
                await replay(records, None if dry_run else sink, tally, bar.moved)
    except BaseException as error:
        if not dry_run and (tally.at is not None or isinstance(error, asyncio.CancelledError)):
            since = tally.at or span.since
            click.echo(
                f"stopped after {tally.delivered} events; go on with --since {since.isoformat()}", err=True
            )
        raise
    _summarise(tally, name, time.monotonic() - started, dry_run)
    return EXIT_CRASHED if tally.refused else 0


def _summarise(tally: Tally, name: str, seconds: float, dry_run: bool) -> None:
    if dry_run:
        click.echo(f"{tally.delivered} events would be delivered to {name}")
        return
    rate = tally.delivered / max(seconds, 0.001)
    click.echo(f"{tally.delivered} events delivered to {name} in {seconds:.1f} s, {rate:,.0f} a second")
    unrouted = REGISTRY.get_sample_value("telegram_gateway_rabbitmq_unrouted_total")
    if unrouted:
        click.echo(f"no queue was bound for {unrouted:.0f} of them")
    for event_id, reason in list(tally.refused.items())[:SHOWN_REFUSALS]:
        click.echo(f"refused {event_id}: {reason}", err=True)
    if len(tally.refused) > SHOWN_REFUSALS:
        click.echo(f"and {len(tally.refused) - SHOWN_REFUSALS} more were refused", err=True)


def _sink(settings: Settings, name: str) -> Sink:
    for sink in enabled_sinks(settings):
        if sink.name == name:
            return sink
    switch = {"timescaledb": "DB", "redis": "CACHE", "rabbitmq": "QUEUE"}[name]
    raise ConfigurationError(f"sink {name} is switched off; set TELEGRAM_ENABLE_{switch}=true")


def _within_cache(span: Span) -> Span:
    from gateway.sinks.redis_script import HOT_SECONDS

    oldest = utc_now() - timedelta(seconds=HOT_SECONDS)
    if span.since >= oldest:
        return span
    click.echo("the cache holds an hour: what was received before that is left out", err=True)
    return replace(span, since=oldest, until=max(oldest, span.until))


async def _ids_of(settings: Settings, username: str) -> tuple[str, ...]:
    # Deletions carry no name, so a name has to become an id first.
    if not settings.enable_db:
        raise ConfigurationError(
            f"only the database knows who {username} is, and it is off: give the chat's id"
        )
    password = settings.db_password.get_secret_value() if settings.db_password else None
    connection = await connect(settings.db_dsn.get_secret_value(), password)
    try:
        ids = await chats_named(connection, username)
    finally:
        connection.terminate()
    if not ids:
        raise ConfigurationError(f"no message of {username} was ever stored; check the name, or give the id")
    return tuple(ids)


class _Bar:
    """How much of the time range is done; only on a terminal."""

    def __init__(self, span: Span, tally: Tally) -> None:
        self._span = span
        self._tally = tally
        self._started = time.monotonic()
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "_Bar":
        self._progress.start()
        total = (self._span.until - self._span.since).total_seconds()
        self._task = self._progress.add_task("starting", total=total)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def moved(self) -> None:
        at = self._tally.at or self._span.since
        rate = self._tally.delivered / max(time.monotonic() - self._started, 0.001)
        self._progress.update(
            self._task,
            completed=(at - self._span.since).total_seconds(),
            description=f"{self._tally.delivered:,} events, {rate:,.0f}/s, at {at.astimezone():%F %T}",
        )
