"""Running parts together: all until the first fails, and that failure as itself, not wrapped in a group."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def root_cause(error: BaseException) -> BaseException:
    """The first exception inside nested exception groups, or `error` itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def run_together(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs `parts` until all return or one raises; the others are then cancelled and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as failures:
        raise root_cause(failures) from None
