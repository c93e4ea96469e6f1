"""A long history goes into all three sinks while live messages go on: how fast, in how much memory, and what
that does to the live ones."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from gateway.control import ControlClient
from gateway.telegram.history import BACKFILL_PATH, HistoryOrder
from tests.bench import stamp
from tests.bench.backlog import MOST_GROWTH_MB, rss_growth_mb, sampled_rss
from tests.bench.child import Child
from tests.bench.options import Options
from tests.bench.report import Report, quantile
from tests.bench.streams import MOST_RSS_MB
from tests.bench.subjects import PATIENCE_SECONDS, Gateway, Outcome, Subjects, cpu, rss_mb

LEAST_PER_SECOND = 2_000.0
MOST_TIMES_IDLE = 3.0
POLL_SECONDS = 0.1
BEFORE, MEANWHILE, AFTER = "before", "meanwhile", "after"


async def run_backfill(report: Report, options: Options, server: Child, subjects: Subjects) -> None:
    """Live messages alone, then the same with a backfill beside them, in one life of the gateway."""
    chat = (await server.ask("import_history", messages=options.history))["chat"]
    async with subjects.gateway() as gateway:
        rate = options.history_rate
        await _live_beside(asyncio.sleep(0), server, gateway, rate)
        _, idle = await _live_beside(asyncio.sleep(options.idle_seconds), server, gateway, rate)
        before_mb, cpu_before = rss_mb(gateway.pid), cpu(gateway.pid)
        sandbox_before = cpu(server.pid)
        started = time.monotonic()
        async with sampled_rss(gateway.pid) as samples:
            fetching = _fetch(gateway, str(chat), options.history)
            finished, busy = await _live_beside(fetching, server, gateway, rate)
        used, sandbox_used = cpu(gateway.pid) - cpu_before, cpu(server.pid) - sandbox_before
        growth = rss_growth_mb(samples)
        posted = sum(number < stamp.HISTORY_FIRST for number in gateway.arrivals)
        lost = options.history + posted - await gateway.arrived_to_stay()
        after_mb = rss_mb(gateway.pid)
    scenario = f"backfill of {options.history:,} beside {rate} messages/s"
    for figure, q in (("p50", 0.5), ("p99", 0.99)):
        alone, beside = quantile(idle.latencies_ms, q), quantile(busy.latencies_ms, q)
        most = None if alone is None else MOST_TIMES_IDLE * alone
        report.add(
            scenario,
            f"live messages, wire to consumer, {figure} ms",
            {BEFORE: alone, MEANWHILE: beside},
            f"≤ {MOST_TIMES_IDLE:g} × before" if q == 0.99 else None,
            most is not None and beside is not None and beside <= most if q == 0.99 else None,
        )
    per_second = options.history / (finished - started)
    report.add(
        scenario,
        "messages/s until every sink has all",
        {MEANWHILE: per_second},
        f"≥ {LEAST_PER_SECOND:,.0f}",
        per_second >= LEAST_PER_SECOND,
    )
    most_mb = max(samples)
    report.add(
        scenario,
        "RSS MB (meanwhile: the most)",
        {BEFORE: before_mb, MEANWHILE: most_mb, AFTER: after_mb},
        f"≤ {MOST_RSS_MB:g}",
        most_mb <= MOST_RSS_MB,
    )
    report.add(
        scenario,
        "RSS MB more at the end than early on",
        {MEANWHILE: growth},
        f"flat: ≤ {MOST_GROWTH_MB:g}",
        growth <= MOST_GROWTH_MB,
    )
    report.add(scenario, "the gateway's CPU µs/message", {MEANWHILE: used / options.history * 1e6})
    report.add(scenario, "the sandbox's CPU µs/message", {MEANWHILE: sandbox_used / options.history * 1e6})
    report.add(scenario, "messages lost", {AFTER: lost}, "0", lost == 0)


async def _live_beside(
    work: Coroutine[Any, Any, Any], server: Child, gateway: Gateway, rate: int
) -> tuple[Any, Outcome]:
    """Posts at `rate`, a second at a time, until `work` is done; returns once all of it is through."""
    first, count = None, 0
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        while first is None or not working.done():
            posted = await server.ask("post", messages=rate, rate=rate)
            first = posted["first"] if first is None else first
            count += rate
    return working.result(), await gateway.collect(first, count)


async def _fetch(gateway: Gateway, chat: str, messages: int) -> float:
    """Has the history fetched; returns when every sink and the consumer had it."""
    async for _ in ControlClient(gateway.process.state_dir).stream(BACKFILL_PATH, HistoryOrder(chat=chat)):
        pass
    delivered = time.monotonic()
    seen: list[int] = []
    while len(seen) < messages and time.monotonic() - delivered < PATIENCE_SECONDS:
        await asyncio.sleep(POLL_SECONDS)
        seen = [at for number, (_, at) in gateway.arrivals.items() if number >= stamp.HISTORY_FIRST]
    return max(delivered, max(seen, default=0) / 1e9)
