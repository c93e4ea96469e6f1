"""A clock for limits that are the gateway's: what the machine itself stands still does not count."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TICK_SECONDS = 0.05
LONGEST_SECONDS = 0.5  # a tick that comes later than that was held up together with everything else


class Clock:
    """Tells seconds since it was made, without those in which not even this process was running."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._last = time.monotonic()

    def time(self) -> float:
        return self._passed + min(time.monotonic() - self._last, LONGEST_SECONDS)

    def _tick(self) -> None:
        self._passed = self.time()
        self._last = time.monotonic()


@asynccontextmanager
async def ticking() -> AsyncIterator[Clock]:
    """A clock that runs until the block ends."""
    clock = Clock()

    async def tick() -> None:
        while True:
            clock._tick()
            await asyncio.sleep(TICK_SECONDS)

    task = asyncio.get_running_loop().create_task(tick())
    try:
        yield clock
    finally:
        task.cancel()
