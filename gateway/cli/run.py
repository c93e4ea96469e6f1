"""`telegram-gateway run`: the daemon."""

import gc
import sys

import click
import structlog
import uvloop

from gateway.daemon import Daemon
from gateway.errors import EXIT_CLEAN, EXIT_CRASHED, GatewayError, NeedsOperator
from gateway.last_exit import ExitRecord
from gateway.logs import configure_logging
from gateway.settings import Settings, load_settings
from gateway.systemd import Notifier

log = structlog.get_logger()

SWITCH_SECONDS = 0.0005


@click.command(name="run")
def command() -> int:
    """Run the daemon: every account in TELEGRAM_ACCOUNTS, all enabled sinks."""
    settings = load_settings()
    configure_logging(settings.log_level)
    notifier = Notifier.from_environment()
    record = ExitRecord(settings.runtime_dir, settings.accounts)
    record.clear()
    try:
        uvloop.run(_run(settings, notifier))
    except NeedsOperator as error:
        log.critical("cannot_run", reason=str(error), exit_code=error.exit_code)
        notifier.status(str(error))
        record.leave(error.exit_code, error)
        return error.exit_code
    except GatewayError as error:
        log.critical("crashed", reason=str(error), exit_code=error.exit_code)
        record.leave(error.exit_code, error)
        return error.exit_code
    except Exception as error:  # the process boundary: whatever it was is logged whole, and systemd restarts
        log.critical("crashed", exc_info=True, exit_code=EXIT_CRASHED)
        record.leave(EXIT_CRASHED, error)
        return EXIT_CRASHED
    finally:
        notifier.close()
    record.leave(EXIT_CLEAN)
    return EXIT_CLEAN


async def _run(settings: Settings, notifier: Notifier) -> None:
    daemon = Daemon(settings, notifier)
    # All that is loaded now stays. Looking through it takes the collector 65 ms, in which nothing else runs.
    gc.collect()
    gc.freeze()
    # The journal's writer needs the interpreter between its statements; by default a busy loop keeps it 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    await daemon.run()
