"""The frame of every long-running command: its loop, its exit code, and the line that says why it ends."""

import gc
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop

from gateway.errors import EXIT_CLEAN, EXIT_CRASHED, GatewayError, NeedsOperator
from gateway.systemd import Notifier
from gateway.tasks import root_cause

log = structlog.get_logger()

Ended = Callable[[int, Exception | None], None]


def run_service(serve: Callable[[Notifier], Coroutine[Any, Any, None]], ended: Ended | None = None) -> int:
    """Runs `serve` until it returns and gives the exit code; `ended` is told it, with the error if any."""
    notifier = Notifier.from_environment()
    try:
        code, failure = _run(serve, notifier)
    finally:
        notifier.close()
    if ended is not None:
        ended(code, failure)
    return code


def _run(
    serve: Callable[[Notifier], Coroutine[Any, Any, None]], notifier: Notifier
) -> tuple[int, Exception | None]:
    try:
        uvloop.run(_serve(serve, notifier))
    except NeedsOperator as error:
        log.critical("cannot_run", reason=str(error), exit_code=error.exit_code)
        notifier.status(str(error))
        return error.exit_code, error
    except GatewayError as error:
        log.critical("crashed", reason=str(error), exit_code=error.exit_code)
        return error.exit_code, error
    except Exception as error:  # the process boundary: whatever it was is logged whole, and systemd restarts
        log.critical("crashed", exc_info=True, exit_code=EXIT_CRASHED)
        return EXIT_CRASHED, error
    return EXIT_CLEAN, None


async def _serve(serve: Callable[[Notifier], Coroutine[Any, Any, None]], notifier: Notifier) -> None:
    # All that is loaded now stays. Looking through it takes the collector 65 ms, in which nothing else runs.
    gc.collect()
    gc.freeze()
    try:
        await serve(notifier)
    except BaseExceptionGroup as failures:
        raise root_cause(failures) from None
