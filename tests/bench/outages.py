"""Each server stops under load: what that does to the other two sinks, and what arrives in the end."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.child import Child
from tests.bench.options import Options
from tests.bench.report import Report, quantile
from tests.bench.stores import Stores
from tests.bench.subjects import GATEWAY, Gateway, Subjects

SERVERS = {"pgbouncer": "timescaledb", "postgres": "timescaledb", "redis": "redis", "rabbitmq": "rabbitmq"}
SINKS = ("timescaledb", "redis", "rabbitmq")
QUANTILES = {"p50": 0.5, "p99": 0.99}
SETTLED_SECONDS = 3.0  # traffic goes on this long after the server is back
MOST_TIMES_BEFORE = 2.0
HISTOGRAM = "telegram_gateway_sink_end_to_end_seconds"

Buckets = dict[float, float]


@dataclass(frozen=True)
class Moment:
    """One end of a window, on every clock that is needed."""

    monotonic_ns: int
    unix: float
    redis: Buckets


async def run_outages(
    report: Report, options: Options, server: Child, subjects: Subjects, stores: Stores
) -> None:
    """One gateway through all outages.

    Redis has no Sentinels here: they would elect another master, and nothing would be down for long.
    """
    async with subjects.gateway() as gateway:
        for stopped, own_sink in SERVERS.items():
            await _run_outage(report, options, server, gateway, stores, stopped, own_sink)


async def _run_outage(
    report: Report,
    options: Options,
    server: Child,
    gateway: Gateway,
    stores: Stores,
    stopped: str,
    own_sink: str,
) -> None:
    down = getattr(stores.stack, stopped)
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        posting = group.create_task(_traffic(server, options.outage_rate, over))
        await asyncio.sleep(options.before_seconds / 5)  # the first stretch is no steady state yet
        start = await _moment(gateway)
        await asyncio.sleep(options.before_seconds * 4 / 5)
        stop = await _moment(gateway)
        try:
            await down.stop()
            await asyncio.sleep(options.outage_seconds)
            back = await _moment(gateway)
            if options.quick:
                over.set()
        finally:
            await down.start()
        back_at = time.monotonic()
        await asyncio.sleep(0.0 if options.quick else SETTLED_SECONDS)
        over.set()
    first, count = posting.result()
    await gateway.collect(first, count)
    caught_up = time.monotonic() - back_at
    scenario = f"{stopped} stops for {options.outage_seconds:g} s"
    for sink in SINKS:
        if sink != own_sink:
            before = await _latency(gateway, stores, sink, start, stop)
            during = await _latency(gateway, stores, sink, stop, back)
            _report_latency(report, scenario, sink, before, during)
    report.add(scenario, "seconds from return to all through", {GATEWAY: caught_up})
    lost = await _lost(gateway, stores, stopped, first, count)
    report.add(scenario, "messages lost", {GATEWAY: lost}, "0", lost == 0)


async def _traffic(server: Child, rate: int, over: asyncio.Event) -> tuple[int, int]:
    """Posts at `rate` until `over`, however long a busy machine takes for what happens meanwhile.

    Returns the first number and how many there were.
    """
    first, count, portion = None, 0, max(1, rate // 4)
    while first is None or not over.is_set():
        posted = await server.ask("post", messages=portion, rate=rate)
        first = posted["first"] if first is None else first
        count += portion
    return first, count


def _report_latency(
    report: Report,
    scenario: str,
    sink: str,
    before: Mapping[str, float | None],
    during: Mapping[str, float | None],
) -> None:
    for name in QUANTILES:
        first, second = before[name], during[name]
        report.add(
            scenario,
            f"{sink} {name} ms: before → then",
            {GATEWAY: f"{first:.1f} → {second:.1f}" if first and second else None},
            f"≤ {MOST_TIMES_BEFORE:g} × before",
            bool(first and second and second <= MOST_TIMES_BEFORE * first),
        )


async def _latency(
    gateway: Gateway, stores: Stores, sink: str, start: Moment, end: Moment
) -> dict[str, float | None]:
    """Milliseconds: RabbitMQ's to the consumer, the database's to the storing statement, Redis's as the
    daemon's histogram has it, interpolated within a bucket."""
    if sink == "rabbitmq":
        window = [
            (came - posted) / 1e6
            for posted, came in gateway.arrivals.values()
            if start.monotonic_ns <= posted < end.monotonic_ns
        ]
        return {name: quantile(window, q) for name, q in QUANTILES.items()}
    if sink == "timescaledb":
        found = await stores.stored_after(start.unix, end.unix, list(QUANTILES.values()))
        return {name: value * 1e3 for name, value in zip(QUANTILES, found, strict=False)}
    grown = {limit: end.redis[limit] - start.redis[limit] for limit in end.redis}
    return {name: _from_histogram(grown, q) for name, q in QUANTILES.items()}


def _from_histogram(cumulative: Buckets, q: float) -> float | None:
    limits = sorted(cumulative)
    wanted = q * cumulative[limits[-1]]
    below, floor = 0.0, 0.0
    for limit in limits:
        if cumulative[limit] >= wanted > below:
            return (floor + (limit - floor) * (wanted - below) / (cumulative[limit] - below)) * 1e3
        below, floor = cumulative[limit], limit
    return None


async def _lost(gateway: Gateway, stores: Stores, stopped: str, first: int, count: int) -> int:
    came = sum(first <= number < first + count for number in gateway.arrivals)
    rows = await stores.rows("telegram_gateway.messages")
    missing = max(count - came, len(gateway.arrivals) - rows)
    if stopped == "redis":
        return missing  # a cache comes back empty; that its sink has caught up is all it promises
    return max(missing, 0)


async def _moment(gateway: Gateway) -> Moment:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{gateway.process.port}/metrics") as answer,
    ):
        text = await answer.text()
    buckets = {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == HISTOGRAM
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["sink"] == "redis"
    }
    return Moment(time.monotonic_ns(), time.time(), buckets)
