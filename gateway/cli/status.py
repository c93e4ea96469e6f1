"""`telegram-gateway status`: the running daemon's accounts, journal and sinks, or its journal alone."""

import asyncio
import time
from typing import Any

import aiohttp
import click
import msgspec

from gateway.journal import open_reader
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
        _show(status)
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
            status = msgspec.json.decode(await answer.read())
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
        return None
    # Something else may listen there.
    return status if isinstance(status, dict) and "accounts" in status else None


def _from_file(settings: Settings) -> dict[str, Any]:
    host, port = settings.metrics_addr
    problem = f"no daemon answers at {host}:{port}; start it, or set TELEGRAM_METRICS_ADDR as it has it"
    path = settings.journal_path
    nothing = {"ready": False, "accounts": [], "journal": None, "sinks": []}
    if not path.exists():
        return {**nothing, "problems": [problem, f"no journal at {path}"]}
    with open_reader(path) as reader:
        stats, quarantined = reader.stored_stats(), reader.count_quarantined()
    return {
        **nothing,
        "journal": {
            "rows": stats.rows,
            "bytes": stats.bytes,
            "limit_bytes": settings.journal_max_bytes,
            "last_seq": stats.last_seq,
            "full": None,
        },
        "sinks": [
            {
                "name": name,
                "up": None,
                "reason": None,
                "cursor": sink.cursor,
                "lag_events": sink.lag,
                "oldest_undelivered": sink.oldest_undelivered and sink.oldest_undelivered.timestamp(),
                "quarantined": quarantined.get(name, 0),
            }
            for name, sink in stats.sinks.items()
        ],
        "problems": [problem],
    }


def _show(status: dict[str, Any]) -> None:
    for account in status["accounts"]:
        reason = f" ({account['reason']})" if account["reason"] else ""
        click.echo(
            f"account {account['account']}: {account['state']}{reason}, "
            f"{account['channels']} channels, {account['reconnects']} reconnects, "
            f"{account['open_gaps']} open gaps"
        )
    journal = status["journal"]
    if journal is not None:
        used, limit = journal["bytes"] / 1e6, journal["limit_bytes"] / 1e6
        click.echo(f"journal: {journal['rows']} events, {used:,.1f} of {limit:,.0f} MB")
    for sink in status["sinks"]:
        oldest = sink["oldest_undelivered"]
        age = f", the oldest for {time.time() - oldest:.1f} s" if oldest else ""
        waiting = f"{sink['lag_events']} events wait{age}" if sink["lag_events"] else "nothing waits"
        state = {True: "up", False: "down", None: "unknown"}[sink["up"]]
        refused = f", {sink['quarantined']} in quarantine" if sink["quarantined"] else ""
        click.echo(f"sink {sink['name']}: {state}, at event {sink['cursor']}, {waiting}{refused}")
    for problem in status["problems"]:
        click.echo(f"! {problem}")
