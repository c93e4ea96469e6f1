"""`telegram-gateway pgbouncer-exporter`: PgBouncer's state for Prometheus."""

import asyncio
import signal

import click
import structlog
import uvloop

from gateway.errors import NeedsOperator
from gateway.logs import configure_logging
from gateway.pgbouncer_exporter import Console, serve
from gateway.settings import Settings, load_settings

log = structlog.get_logger()


@click.command(name="pgbouncer-exporter")
@click.option(
    "--listen",
    default="127.0.0.1:9127",
    show_default=True,
    envvar="TELEGRAM_PGBOUNCER_EXPORTER_ADDR",
    help="HOST:PORT of /metrics (TELEGRAM_PGBOUNCER_EXPORTER_ADDR).",
)
def command(listen: str) -> int:
    """Export the pooler's state (TELEGRAM_DB_DSN), under the names of the exporter image for containers."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter("say HOST:PORT", param_hint="--listen")
    settings = load_settings()
    configure_logging(settings.log_level)
    try:
        uvloop.run(_serve((host, int(port)), settings))
    except NeedsOperator as error:
        log.critical("cannot_run", reason=str(error), exit_code=error.exit_code)
        return error.exit_code
    return 0


async def _serve(address: tuple[str, int], settings: Settings) -> None:
    password = settings.db_password.get_secret_value() if settings.db_password else None
    console = Console(settings.db_dsn.get_secret_value(), password)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serve(address, console):
        log.info("pgbouncer_exporter_listening", address=f"{address[0]}:{address[1]}")
        await stopped.wait()
