"""`telegram-gateway run`: the daemon."""

import sys

import click

from gateway.cli.service import run_service
from gateway.daemon import Daemon
from gateway.last_exit import ExitRecord
from gateway.logs import configure_logging
from gateway.settings import load_settings
from gateway.systemd import Notifier

SWITCH_SECONDS = 0.0005


@click.command(name="run")
def command() -> int:
    """Run the daemon: every account in TELEGRAM_ACCOUNTS, all enabled sinks."""
    settings = load_settings()
    configure_logging(settings.log_level)
    record = ExitRecord(settings.runtime_dir, settings.accounts)
    record.clear()
    # The journal's writer needs the interpreter between its statements; by default a busy loop keeps it 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)

    async def serve(notifier: Notifier) -> None:
        await Daemon(settings, notifier).run()

    return run_service(serve, record.leave)
