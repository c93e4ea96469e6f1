"""A million rows wait for a dead database: the daemon's memory meanwhile, and how fast they go in afterwards.

The rows come the real way, through Telegram's pushes and differences; the other two sinks are switched off,
so that the journal and the dead sink are what is measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.demo.process import GatewayProcess
from tests.bench.child import Child
from tests.bench.options import Options
from tests.bench.report import Report
from tests.bench.stores import Stores
from tests.bench.streams import MOST_RSS_MB
from tests.bench.subjects import GATEWAY, Subjects, rss_mb

CHUNK_MESSAGES = 1_000
PER_PUSH = 50
AHEAD_MESSAGES = 3_000  # posted and not yet in the journal: the wait is measured, not a flood
POLL_SECONDS = 0.05
SAMPLE_SECONDS = 0.25
WAITING_SECONDS = 5.0
LEAST_DRAIN_PER_SECOND = 5_000.0
MOST_GROWTH_MB = 20.0


async def run_backlog(
    report: Report, options: Options, server: Child, subjects: Subjects, stores: Stores
) -> None:
    """Stops PostgreSQL, fills the journal, waits, starts PostgreSQL, and watches it drain."""
    async with subjects.gateway(TELEGRAM_ENABLE_CACHE="false", TELEGRAM_ENABLE_QUEUE="false") as gateway:
        await stores.stack.postgres.stop()
        try:
            async with sampled_rss(gateway.pid) as samples:
                started = time.monotonic()
                await _fill(server, gateway.process, options.rows)
                filled_in = time.monotonic() - started
                if not options.quick:
                    await asyncio.sleep(WAITING_SECONDS)
            waiting = (await _status(gateway.process))["sinks"][0]["lag_events"]
        finally:
            await stores.stack.postgres.start()
        async with sampled_rss(gateway.pid) as draining:
            per_second = await _drain(gateway.process)
        lost = options.rows - await stores.rows("telegram_gateway.messages")
    scenario = f"backlog of {options.rows:,}"
    growth = rss_growth_mb(samples)
    most = max(*samples, *draining)
    report.add(scenario, "rows that waited", {GATEWAY: waiting})
    report.add(scenario, "rows/s into the journal", {GATEWAY: options.rows / filled_in})
    report.add(
        scenario,
        "highest RSS MB",
        {GATEWAY: most},
        f"≤ {MOST_RSS_MB:g}",
        most <= MOST_RSS_MB,
    )
    report.add(
        scenario,
        "RSS MB more at the end than early on",
        {GATEWAY: growth},
        f"flat: ≤ {MOST_GROWTH_MB:g}",
        growth <= MOST_GROWTH_MB,
    )
    report.add(
        scenario,
        "rows/s into PostgreSQL on its return",
        {GATEWAY: per_second},
        f"≥ {LEAST_DRAIN_PER_SECOND:,.0f}",
        per_second >= LEAST_DRAIN_PER_SECOND,
    )
    report.add(scenario, "messages lost", {GATEWAY: lost}, "0", lost == 0)


async def _fill(server: Child, process: GatewayProcess, rows: int) -> None:
    before = (await _status(process))["journal"]["last_seq"]
    for posted in range(0, rows, CHUNK_MESSAGES):
        chunk = min(CHUNK_MESSAGES, rows - posted)
        await server.ask("post", messages=chunk, per_push=PER_PUSH)
        last = posted + chunk >= rows
        while (await _status(process))["journal"]["last_seq"] - before < posted + chunk - AHEAD_MESSAGES * (
            not last
        ):
            await asyncio.sleep(POLL_SECONDS)


async def _drain(process: GatewayProcess) -> float:
    """Rows a second from the first batch that went in to the last."""
    first: tuple[float, int] | None = None
    idle = (await _status(process))["sinks"][0]["cursor"]
    while True:
        sink = (await _status(process))["sinks"][0]
        now = time.monotonic()
        if first is None and sink["cursor"] > idle:
            first = now - POLL_SECONDS, idle
        if not sink["lag_events"]:
            assert first is not None
            return float((sink["cursor"] - first[1]) / (now - first[0]))
        await asyncio.sleep(POLL_SECONDS)


async def _status(process: GatewayProcess) -> dict[str, Any]:
    status = await process.status()
    while status is None:  # it is busy; what ends it shows in its log, and here as an endless wait
        await asyncio.sleep(POLL_SECONDS)
        status = await process.status()
    return status


@asynccontextmanager
async def sampled_rss(pid: int) -> AsyncIterator[list[float]]:
    """Megabytes, a few times a second; the list grows until the block ends."""
    samples = [rss_mb(pid)]

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            samples.append(rss_mb(pid))

    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(sample())
        yield samples
        sampling.cancel()


def rss_growth_mb(samples: list[float]) -> float:
    """How much more at the end than early on."""
    eighth = len(samples) // 8
    return _median(samples[-2 * eighth - 1 :]) - _median(samples[eighth : 2 * eighth + 1])


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
