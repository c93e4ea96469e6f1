"""Reading: each call beside a bare one in the same process; then the API under full load."""

from dataclasses import dataclass
from pathlib import Path

from tests.bench import reading
from tests.bench.api import BARE, OURS, Api, running_api
from tests.bench.filling import fill, heat, settle
from tests.bench.options import Options
from tests.bench.reading import Calls, Pair, measure_library
from tests.bench.report import Report, quantile
from tests.bench.stores import Stores

CONNECTIONS = 16
LOAD_REQUESTS = 2_000  # that differ, where the response cache is not meant: more than a window takes
MOST_P95_MS = {reading.HOT_PAGE: 3.0, reading.POLL_REDIS: 3.0, reading.MARK_ONE: 5.0, reading.MARK_PAGE: 5.0}
MOST_TIMES = {reading.HOT_PAGE: 3.0, reading.POLL_REDIS: 3.0, reading.DEDUP_REDIS: 1.5}
LEAST_OF_BARE = 50.0  # %
_UNDER_LOAD = (
    reading.SAME_ONE,
    reading.SAME_PAGE,
    reading.HOT_ONE,
    reading.HOT_PAGE,
    reading.HOT_MESSAGE,
    reading.CACHED_PAGE,
    reading.COLD_PAGE,
)
_WITH_TARGET = (reading.SAME_ONE, reading.SAME_PAGE, reading.HOT_ONE, reading.HOT_PAGE)


async def run_read(report: Report, options: Options, stores: Stores, directory: Path) -> None:
    """Hot, cached and cold, from the API and in the consumer library."""
    await stores.empty()
    await fill(stores.stack.postgres.dsn, options.read_rows)
    newest = await heat(stores.environment)
    await settle(stores.stack.postgres.admin_dsn)
    numbers = [event.message_id for event in newest[: reading.PAGE]]
    async with running_api(stores.stack, directory) as api:
        await api.prepare(newest[0].channel_id, numbers)
        calls = Calls(api, options.read_rows, numbers)
        pairs = await calls.measure(options.read_rounds)
        pairs |= await measure_library(stores.environment, newest, options.read_rounds)
        _report(report, f"time in the process, {options.read_rows:,} messages stored", pairs)
        await _under_load(report, options, api, calls)


def _report(report: Report, scenario: str, pairs: dict[str, Pair]) -> None:
    for name, pair in pairs.items():
        p95 = quantile(pair.ours, 0.95)
        most_ms, most_times = MOST_P95_MS.get(name), MOST_TIMES.get(name)
        targets = []
        if most_ms is not None:
            targets.append(f"p95 ≤ {most_ms:g} ms")
        if most_times is not None:
            targets.append(f"≤ {most_times:g} × bare")
        met = (most_ms is None or (p95 is not None and p95 <= most_ms)) and (
            most_times is None or pair.times <= most_times
        )
        report.add(
            scenario,
            name,
            {
                "p50 ms": quantile(pair.ours, 0.5),
                "p95 ms": p95,
                "bare": pair.beside,
                "bare p50 ms": quantile(pair.bare, 0.5),
                "bare p95 ms": quantile(pair.bare, 0.95),
                "× bare": pair.times,
            },
            ", ".join(targets) or None,
            met if targets else None,
        )


@dataclass
class _Sum:
    done: float = 0
    seconds: float = 0
    server_cpu: float = 0
    client_cpu: float = 0

    @property
    def per_second(self) -> float:
        return self.done / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.server_cpu / self.done * 1e6

    @property
    def client_percent(self) -> float:
        return self.client_cpu / self.seconds * 100


async def _under_load(report: Report, options: Options, api: Api, calls: Calls) -> None:
    scenario = f"full load, {CONNECTIONS} connections"
    every = await calls.all()
    for name in _UNDER_LOAD:
        _, sizes, _ = await api.alternate({OURS: every[name].requests(1)[:1]}, 1)
        sums = {OURS: _Sum(), BARE: _Sum()}
        for _ in range(options.read_windows):
            requests = {
                OURS: every[name].requests(LOAD_REQUESTS),
                BARE: [api.get(f"/bare/body/{sizes[OURS]}")],
            }
            for which, texts in requests.items():
                found = await api.flood(texts, CONNECTIONS, options.read_seconds)
                sums[which].done += found["done"]
                sums[which].seconds += found["seconds"]
                sums[which].server_cpu += found["server_cpu"]
                sums[which].client_cpu += found["cpu"]
        mine, bare = sums[OURS], sums[BARE]
        percent = mine.per_second / bare.per_second * 100
        has_target = name in _WITH_TARGET
        report.add(
            scenario,
            name,
            {
                "requests/s": mine.per_second,
                "bare requests/s": bare.per_second,
                "% of bare": percent,
                "CPU µs": mine.cpu_us,
                "bare CPU µs": bare.cpu_us,
                "body bytes": float(sizes[OURS]),
                "client's CPU %": mine.client_percent,
                "bare, client's CPU %": bare.client_percent,
            },
            f"≥ {LEAST_OF_BARE:g} % of bare" if has_target else None,
            percent >= LEAST_OF_BARE if has_target else None,
        )
