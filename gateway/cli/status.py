"""`telegram-gateway status`: the running daemon's accounts, journal and sinks, or its journal alone."""

import asyncio
import time
from typing import Any

import aiohttp
import click
import msgspec
from rich.console import Console
from rich.table import Table

from gateway.journal import read_stats
from gateway.settings import Settings, load_settings

EXIT_NOT_RUNNING = 3  # as LSB's `status` action
ANSWER_SECONDS = 5.0


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """Show accounts, journal and sinks of the running daemon.

    Exits 3 when the daemon does not answer; the journal's figures are then read from its file.
    """
    settings = load_settings()
    status = asyncio.run(_ask(settings))
    running = status is not None
    if status is None:
        status = _from_file(settings)
    if as_json:
        click.echo(msgspec.json.encode({"running": running, **status}))
    else:
        _show(status, running)
    return 0 if running else EXIT_NOT_RUNNING


async def _ask(settings: Settings) -> dict[str, Any] | None:
    host, port = settings.metrics_addr
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"http://{host}:{port}/status") as answer,
        ):
            answer.raise_for_status()
            status: dict[str, Any] = msgspec.json.decode(await answer.read())
            return status
    except (aiohttp.ClientError, TimeoutError):
        return None


def _from_file(settings: Settings) -> dict[str, Any]:
    path = settings.journal_path
    if not path.exists():
        return {"accounts": [], "journal": None, "sinks": [], "problems": [f"no journal at {path}"]}
    stats = read_stats(path)
    return {
        "accounts": [],
        "journal": {
            "rows": stats.rows,
            "bytes": stats.bytes,
            "limit_bytes": settings.journal_max_bytes,
            "last_seq": stats.last_seq,
        },
        "sinks": [
            {
                "name": name,
                "cursor": sink.cursor,
                "lag_events": sink.lag,
                "oldest_undelivered": sink.oldest_undelivered and sink.oldest_undelivered.timestamp(),
            }
            for name, sink in stats.sinks.items()
        ],
        "problems": ["the daemon is not running"],
    }


def _show(status: dict[str, Any], running: bool) -> None:
    console = Console(highlight=False)
    for account in status["accounts"]:
        reason = f" ({account['reason']})" if account["reason"] else ""
        console.print(
            f"account {account['account']}: {account['state']}{reason}, "
            f"{account['channels']} channels, {account['reconnects']} reconnects"
        )
    journal = status["journal"]
    if journal is not None:
        used, limit = journal["bytes"] / 1e6, journal["limit_bytes"] / 1e6
        console.print(f"journal: {journal['rows']} events, {used:,.1f} of {limit:,.0f} MB")
    table = Table("sink", "state", "cursor", "waiting", "oldest waits", box=None)
    for sink in status["sinks"]:
        oldest = sink["oldest_undelivered"]
        state = "unknown" if not running else "up" if sink["up"] else f"down: {sink['reason']}"
        age = f"{time.time() - oldest:.1f} s" if oldest else "–"
        table.add_row(sink["name"], state, str(sink["cursor"]), str(sink["lag_events"]), age)
    if status["sinks"]:
        console.print(table)
    for problem in status["problems"]:
        console.print(f"! {problem}")
