"""The gateway as its service manager keeps it: killed, stopped, frozen, and always started again."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.demo.process import GatewayProcess
from tests.chaos import wal
from tests.chaos.disk import Disk

LOOK_SECONDS = 0.25
RESTART_SECONDS = 1.0  # before a gateway that ended by itself is started again, as the unit says
AFTERMATH_SECONDS = 5.0  # for which what ended may have met the full disk
ENDED_SECONDS = 0.05


@dataclass
class Recoveries:
    """Seconds from a fault to its end: until the gateway is ready again, until a sink has caught up."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, seconds: float) -> None:
        self.seconds.setdefault(what, []).append(seconds)


class Keeper:
    """One thing at a time happens to the process; whoever comes meanwhile waits for its turn."""

    def __init__(self, gateway: GatewayProcess, disk: Disk | None) -> None:
        self.gateway = gateway
        self.disk = disk
        self.disk_full_until = 0.0
        self.recoveries = Recoveries()
        self.ended: list[str] = []  # by itself, with nothing to explain it
        self.restarted = 0
        self.torn = 0
        self._turn = asyncio.Lock()
        self._down_since: float | None = None
        self._waiting: list[tuple[str, float, int]] = []  # sinks that have to reach a place in the journal
        self._last_seq = 0

    async def kill(
        self,
        chance: random.Random,
        tear: str = "",
        down_seconds: float = 0.0,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`kill -9`, and starts it again after `down_seconds` of whatever happens `meanwhile`."""
        async with self._turn:
            await self._note_end()
            self._down_since = time.monotonic()
            await self.gateway.close()
            if tear:
                self.torn += wal.tear(self.gateway.journal_path, tear, chance)
            await asyncio.sleep(down_seconds)
            if meanwhile is not None:
                await meanwhile()
            await self.gateway.start(wait=False)

    async def restart(self) -> None:
        """A clean stop, and a start."""
        async with self._turn:
            if not await self._note_end():
                self._down_since = time.monotonic()
                code = await self.gateway.stop()
                # A SIGTERM in the first half second meets a process that has not begun to listen for it.
                if code not in (0, -signal.SIGTERM):
                    self._explain(f"a clean stop ended with {code}")
            await self.gateway.start(wait=False)

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        async with self._turn:
            if await self._note_end():
                await self.gateway.start(wait=False)
                return
            pid = self.gateway.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)

    async def fill_disk(self, seconds: float) -> None:
        """No room is left for `seconds`. Meanwhile the gateway may also be unable to start.

        What it ends with is only seen a while later, on a busy machine.
        """
        assert self.disk is not None
        self.disk_full_until = float("inf")
        try:
            self.disk.fill()
            await asyncio.sleep(seconds)
        finally:
            self.disk.free()
            self.disk_full_until = time.monotonic() + AFTERMATH_SECONDS

    def expect(self, sink: str) -> None:
        """A server is back: notes how long its sink takes to have all that the journal holds now."""
        self._waiting.append((sink, time.monotonic(), self._last_seq))

    async def run(self) -> None:
        """Starts the gateway whenever it ends by itself, and takes the times; until cancelled."""
        while True:
            async with self._turn:
                if await self._note_end():
                    await asyncio.sleep(RESTART_SECONDS)
                    await self.gateway.start(wait=False)
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        status = await self.gateway.status()
        if status is None:
            return
        now = time.monotonic()
        self._last_seq = max(self._last_seq, status["journal"]["last_seq"])
        if status["ready"] and self._down_since is not None:
            self.recoveries.add("gateway ready", now - self._down_since)
            self._down_since = None
        cursors = {sink["name"]: sink["cursor"] for sink in status["sinks"]}
        for waiting in list(self._waiting):
            sink, since, seq = waiting
            if cursors.get(sink, 0) >= seq:
                self.recoveries.add(f"{sink} caught up", now - since)
                self._waiting.remove(waiting)

    async def _note_end(self) -> bool:
        """Whether the process has ended without being told to."""
        try:
            code = await self.gateway.wait_exit(ENDED_SECONDS)
        except TimeoutError:
            return False
        self.restarted += 1
        self._down_since = self._down_since or time.monotonic()
        self._explain(f"the gateway exited {code}: {self.gateway.log()[-600:]}")
        return True

    def _explain(self, end: str) -> None:
        if time.monotonic() > self.disk_full_until:
            self.ended.append(end)
