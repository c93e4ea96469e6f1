"""`telegram-gateway demo`: the whole way of a message, live in the terminal."""

import asyncio
import logging
import sys

import click
from rich.console import Console

from gateway.demo.show import run_demo
from gateway.errors import EXIT_CRASHED
from gateway.logs import configure_logging


@click.command(name="demo")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long; without it until interrupted.")
@click.option("--plain", is_flag=True, help="Lines instead of a screen: for logs and without a terminal.")
@click.option("--rate", type=click.FloatRange(min=0.1), default=40.0, show_default=True, help="Changes/s.")
@click.option("--no-servers", is_flag=True, help="Start no servers: every sink off, the journal alone.")
def command(seconds: float | None, plain: bool, rate: float, no_servers: bool) -> int:
    """Watch sandbox, gateway and a consumer work, with each server failing in turn.

    Ends with a table of expected against delivered for each sink, and exits 1 on any difference.
    """
    console = Console()
    plain = plain or not sys.stdout.isatty()
    # The sample consumer's library reports each failed try to reach a broker that the script has stopped.
    configure_logging("ERROR")
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    try:
        complete = asyncio.run(
            run_demo(console, seconds=seconds, plain=plain, rate=rate, with_servers=not no_servers)
        )
    except KeyboardInterrupt:
        return 130
    return 0 if complete else EXIT_CRASHED
