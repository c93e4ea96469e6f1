"""`telegram-gateway api`: the REST API."""

import gc

import click
import structlog
import uvloop

from gateway.api import metrics
from gateway.api.server import serve
from gateway.errors import EXIT_CRASHED, GatewayError, NeedsOperator
from gateway.last_exit import LastExits
from gateway.logs import configure_logging
from gateway.settings import Settings, load_settings
from gateway.systemd import Notifier
from gateway.tasks import root_cause

log = structlog.get_logger()


@click.command(name="api")
def command() -> int:
    """Serve messages, processing state, channels and the gateway's state over HTTP (TELEGRAM_API_ADDR)."""
    settings = load_settings()
    configure_logging(settings.log_level)
    notifier = Notifier.from_environment()
    metrics.REGISTRY.register(LastExits(settings.runtime_dir))
    try:
        uvloop.run(_serve(settings, notifier))
    except NeedsOperator as error:
        log.critical("cannot_run", reason=str(error), exit_code=error.exit_code)
        notifier.status(str(error))
        return error.exit_code
    except GatewayError as error:
        log.critical("crashed", reason=str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception:  # the process boundary: whatever it was is logged whole, and systemd restarts
        log.critical("crashed", exc_info=True, exit_code=EXIT_CRASHED)
        return EXIT_CRASHED
    finally:
        notifier.close()
    return 0


async def _serve(settings: Settings, notifier: Notifier) -> None:
    gc.collect()
    gc.freeze()
    try:
        await serve(settings, notifier)
    except BaseExceptionGroup as failures:
        raise root_cause(failures) from None
