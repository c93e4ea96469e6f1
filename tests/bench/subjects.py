"""What is measured: the bare client, the afternoon version in both its forms, and the gateway.

All look the same to a scenario: start, collect what was posted, say how much arrived, stop.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from gateway.demo.process import GatewayProcess
from tests.bench.child import Child
from tests.bench.login import PHONE
from tests.bench.receiver import POLL_SECONDS, Receiver
from tests.bench.stores import Stores

PATIENCE_SECONDS = 60.0  # without any progress, after which what has not arrived counts as lost

BARE = "bare Telethon"
CONCURRENT = "afternoon, concurrent"
SEQUENTIAL = "afternoon, sequential"
GATEWAY = "gateway"
SANDBOX = "sandbox"
SUBJECTS = (BARE, CONCURRENT, SEQUENTIAL, GATEWAY)


@dataclass(frozen=True)
class Outcome:
    """One stretch of traffic as it came out: wire to handler or consumer, in milliseconds."""

    latencies_ms: list[float]
    finished_ns: int


class Subject(Protocol):
    """One client of the sandbox, running."""

    name: str

    @property
    def pid(self) -> int: ...

    async def collect(self, first: int, count: int) -> Outcome:
        """Waits for messages `first` to `first + count` to be through; gives up on what never comes."""

    async def arrived(self) -> int:
        """How many different messages arrived everywhere, since the start."""


def outcome(arrivals: dict[int, tuple[int, int]], first: int, count: int, last_ns: int = 0) -> Outcome:
    numbers = [number for number in range(first, first + count) if number in arrivals]
    return Outcome(
        [(arrivals[number][1] - arrivals[number][0]) / 1e6 for number in numbers],
        max([last_ns, *(arrivals[number][1] for number in numbers)]),
    )


class _Baseline:
    def __init__(self, name: str, child: Child) -> None:
        self.name = name
        self._child = child
        self._expected = 0

    @property
    def pid(self) -> int:
        return self._child.pid

    async def _wait_handled(self, count: int) -> dict[str, Any]:
        self._expected += count
        seen, seen_at = -1, time.monotonic()
        while True:
            state = await self._child.ask("count")
            through = state["handled"] + state["failed"]
            if through != seen:
                seen, seen_at = through, time.monotonic()
            if through >= self._expected or time.monotonic() - seen_at > PATIENCE_SECONDS:
                return state
            await asyncio.sleep(POLL_SECONDS)


class Bare(_Baseline):
    """Arrival is the call of its handler."""

    def __init__(self, child: Child) -> None:
        super().__init__(BARE, child)
        self._arrivals: dict[int, tuple[int, int]] = {}

    async def collect(self, first: int, count: int) -> Outcome:
        await self._wait_handled(count)
        taken = (await self._child.ask("take"))["arrivals"]
        self._expected = 0
        self._arrivals.update({number: (posted, came) for number, posted, came in taken})
        return outcome(self._arrivals, first, count)

    async def arrived(self) -> int:
        return len(self._arrivals)


class Afternoon(_Baseline):
    """Arrival is the consumer's receipt; a stretch ends when the last handler has."""

    def __init__(self, name: str, child: Child, receiver: Receiver, stores: Stores) -> None:
        super().__init__(name, child)
        self._receiver = receiver
        self._stores = stores

    async def collect(self, first: int, count: int) -> Outcome:
        state = await self._wait_handled(count)
        self._expected = state["handled"] + state["failed"]
        # What a handler lost never comes, so there is no point in waiting long for it.
        await self._receiver.wait_for(first, count, patience=3.0)
        return outcome(self._receiver.arrivals, first, count, state["last_ns"])

    async def arrived(self) -> int:
        rows = await self._stores.rows("afternoon.messages")
        return min(len(self._receiver.arrivals), rows, await self._stores.keys("afternoon:msg:*"))


class Gateway:
    """Arrival is the consumer's receipt; a stretch ends when every sink has all of the journal."""

    name = GATEWAY

    def __init__(self, process: GatewayProcess, receiver: Receiver, stores: Stores) -> None:
        self.process = process
        self._receiver = receiver
        self._stores = stores

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def arrivals(self) -> dict[int, tuple[int, int]]:
        """Message number: when it was posted, and when it came to the consumer, in nanoseconds."""
        return self._receiver.arrivals

    async def collect(self, first: int, count: int) -> Outcome:
        await self._receiver.wait_for(first, count, patience=PATIENCE_SECONDS)
        came = outcome(self._receiver.arrivals, first, count)
        status = await self.process.status()
        if status and not any(sink["lag_events"] for sink in status["sinks"]):
            return came
        await self.process.wait_delivered(len(status["sinks"]) if status else 3)
        return Outcome(came.latencies_ms, time.monotonic_ns())

    async def arrived(self) -> int:
        rows = await self._stores.rows("telegram_gateway.messages")
        return min(len(self._receiver.arrivals), rows, await self._stores.keys("telegram:msg:*"))

    async def arrived_to_stay(self) -> int:
        """The same without Redis, where old history is not kept."""
        return min(len(self._receiver.arrivals), await self._stores.rows("telegram_gateway.messages"))


class Subjects:
    """Starts each subject against the same sandbox and the same, emptied stores."""

    def __init__(self, address: dict[str, str], stores: Stores, directory: Path) -> None:
        self._address = address
        self._stores = stores
        self._directory = directory

    @asynccontextmanager
    async def running(self, name: str) -> AsyncIterator[Subject]:
        """The named subject, alone."""
        if name == GATEWAY:
            async with self.gateway() as gateway:
                yield gateway
            return
        await self._stores.empty()
        where = (self._address["host"], self._address["port"], self._address["key"])
        log = self._directory / f"{name}.log"
        if name == BARE:
            child = Child("tests.bench.bare", "handle", *map(str, where), log=log)
            async with _started(child):
                yield Bare(child)
            return
        mode = "sequential" if name == SEQUENTIAL else "concurrent"
        environment = self._stores.environment
        servers = [environment[f"TELEGRAM_{which}"] for which in ("REDIS_URL", "RABBITMQ_URL", "DB_DSN")]
        child = Child("tests.bench.afternoon", mode, *map(str, where), *servers, log=log)
        receiver = Receiver(environment["TELEGRAM_RABBITMQ_URL"])
        async with receiver.running(), _started(child):
            yield Afternoon(name, child, receiver, self._stores)

    @asynccontextmanager
    async def drain(self) -> AsyncIterator[Child]:
        """A client that reads and discards, for the sandbox's own limit."""
        where = (self._address["host"], self._address["port"], self._address["key"])
        child = Child("tests.bench.bare", "drain", *map(str, where), log=self._directory / "drain.log")
        async with _started(child):
            yield child

    @asynccontextmanager
    async def gateway(self, **settings: str) -> AsyncIterator["Gateway"]:
        """The gateway, logged in and ready, with `settings` on top of the usual ones."""
        async with self.logged_in(**settings) as gateway:
            await gateway.process.start()
            yield gateway
            await gateway.process.stop()

    @asynccontextmanager
    async def logged_in(self, **settings: str) -> AsyncIterator["Gateway"]:
        """The gateway, to be started and stopped inside."""
        await self._stores.empty()
        directory = self._directory / f"gateway-{time.monotonic_ns()}"
        directory.mkdir()
        environment = {
            **self._stores.environment,
            "TELEGRAM_API_ID": "1",
            "TELEGRAM_API_HASH": "sandbox",
            "TELEGRAM_SERVER": f"{self._address['host']}:{self._address['port']}",
            "TELEGRAM_SERVER_PUBLIC_KEY": self._address["key"],
            **settings,
        }
        process = GatewayProcess(directory, environment)
        receiver = Receiver(environment["TELEGRAM_RABBITMQ_URL"])
        async with receiver.running():
            try:
                await process.login(PHONE)
                yield Gateway(process, receiver, self._stores)
            finally:
                await process.close()


def cpu(pid: int) -> float:
    """User and system time of a process, all its threads."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def rss_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


@asynccontextmanager
async def _started(child: Child) -> AsyncIterator[None]:
    try:
        await child.start()
        yield
    finally:
        await child.stop()
