"""`telegram-gateway tp-capital`: TP Capital's worker, and what it makes of a text."""

import logging
import sys
from typing import Any

import click
import msgspec

from gateway.cli.service import run_service
from gateway.errors import EXIT_CRASHED
from gateway.logs import configure_logging
from gateway.settings import load_settings
from gateway.systemd import Notifier
from gateway.tp_capital.parser import Reason, Signal, parse
from gateway.tp_capital.settings import load_tp_capital_settings
from gateway.tp_capital.worker import Worker


@click.group("tp-capital", help="TP Capital's worker, which stores the trading signals in messages.")
def command() -> None:
    pass


@command.command()
def run() -> int:
    """Run the worker: read events, store signals (TP_CAPITAL_MODE: polling, queue or hybrid)."""
    settings, gateway = load_tp_capital_settings(), load_settings()
    configure_logging(gateway.log_level)
    # It reports every lost connection as an error; the consumer library says what matters about them.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)

    async def serve(notifier: Notifier) -> None:
        await Worker(settings, gateway, notifier).run()

    return run_service(serve)


@command.command("parse")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def parse_(as_json: bool) -> int:
    """Read one message's text from standard input and show what it gives. Exits 1 when that is no signal."""
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    said = parse(text)
    if as_json:
        click.echo(msgspec.json.encode(_as_json(said)))
    elif isinstance(said, Signal):
        click.echo(_as_text(said))
    else:
        click.echo(f"{'failed' if said.is_failure else 'ignored'}: {said}, {said.explanation}")
    return 0 if isinstance(said, Signal) else EXIT_CRASHED


def _as_json(said: Signal | Reason) -> Any:
    if isinstance(said, Signal):
        return {"outcome": "signal", **msgspec.to_builtins(said)}
    outcome = "failed" if said.is_failure else "ignored"
    return {"outcome": outcome, "reason": str(said), "explanation": said.explanation}


def _as_text(signal: Signal) -> str:
    lines = [f"ticker   {signal.ticker}"]
    if signal.buy_min is not None:
        one = signal.buy_min == signal.buy_max
        lines.append(f"buy      {signal.buy_min}" + ("" if one else f" to {signal.buy_max}"))
    if signal.targets:
        lines.append("targets  " + ", ".join(map(str, signal.targets)))
    if signal.stop is not None:
        lines.append(f"stop     {signal.stop}")
    return "\n".join(lines)
