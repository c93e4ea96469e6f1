"""The same calls with few and with millions of stored messages, and the plans by which millions are read."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.api import running_api
from tests.bench.filling import fill, heat
from tests.bench.options import Options
from tests.bench.plans import plans
from tests.bench.reading import PAGE, Calls, Pair, measure_library
from tests.bench.report import Report, Value, quantile
from tests.bench.stores import Stores

MOST_TIMES_FEW = 2.0


async def run_volume(
    report: Report, options: Options, stores: Stores, directory: Path, say: Callable[[str], None]
) -> None:
    """Few, then many; the tables are emptied in between, and Redis holds the same hot messages each time."""
    few = await _measure(options, stores, directory, options.read_rows, say)
    began = time.monotonic()
    many = await _measure(options, stores, directory, options.volume_rows, say)
    found = await plans(stores.stack, options.volume_rows)
    say(f"{options.volume_rows:,} messages were stored and measured in {time.monotonic() - began:.0f} s")
    await stores.empty()
    at_few, at_many = f"{options.read_rows:,}", f"{options.volume_rows:,}"
    for name, pair in many.items():
        times = _median(pair.ours) / _median(few[name].ours)
        cells: dict[str, Value] = {
            f"{at_few}: p50 ms": _median(few[name].ours),
            "p95 ms": quantile(few[name].ours, 0.95),
            f"{at_many}: p50 ms": _median(pair.ours),
            "p95 ms ": quantile(pair.ours, 0.95),
            "×": times,
            "bare: ×": _median(pair.bare) / _median(few[name].bare),
        }
        report.add(
            f"messages stored: {at_few} and {at_many}",
            name,
            cells,
            f"≤ {MOST_TIMES_FEW:g} ×",
            times <= MOST_TIMES_FEW,
        )
    for name, (scans, met) in found.items():
        report.add(
            f"plans, {at_many} messages stored",
            name,
            {"scans": scans},
            "no table of these read whole",
            met,
        )


async def _measure(
    options: Options, stores: Stores, directory: Path, rows: int, say: Callable[[str], None]
) -> dict[str, Pair]:
    await stores.empty()
    await fill(stores.stack.postgres.dsn, rows, say)
    newest = await heat(stores.environment)
    numbers = [event.message_id for event in newest[:PAGE]]
    async with running_api(stores.stack, directory) as api:
        await api.prepare(newest[0].channel_id, numbers)
        pairs = await Calls(api, rows, numbers).measure(options.volume_rounds)
    return pairs | await measure_library(stores.environment, newest, options.volume_rounds)


def _median(times: list[float]) -> float:
    return quantile(times, 0.5) or 0.0
