"""How the gateway's cost grows with the chats of an account, and with the rows that its journal keeps."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.demo.process import GatewayProcess
from tests.bench.child import Child
from tests.bench.options import Options
from tests.bench.report import Report, Value
from tests.bench.stores import Stores
from tests.bench.subjects import Subjects, cpu, rss_mb

MOST_TIMES_SMALLEST = 1.5
WARM_UP_SECONDS = 3.0


@dataclass(frozen=True)
class Cost:
    """One size: CPU in µs a message, memory after that traffic, and how long two starts took.

    A start goes through all dialogs once, and so does the comparison every five minutes.
    """

    cpu_us: float
    rss_mb: float
    first_ready_seconds: float
    ready_seconds: float
    ready_cpu_seconds: float
    lost: int


async def run_growth(
    report: Report, options: Options, stores: Stores, directory: Path, say: Callable[[str], None]
) -> None:
    """The same traffic, spread over more and more chats; then beside a journal full of delivered rows."""
    costs: dict[tuple[int, int], Cost] = {}
    by_chats = [(chats, 0) for chats in options.chats]
    by_rows = [(options.journal_chats, rows) for rows in (0, options.journal_rows)]
    for chats, rows in dict.fromkeys((*by_chats, *by_rows)):
        say(f"growth: {chats:,} chats, {rows:,} rows in the journal")
        costs[chats, rows] = await _measure(options, stores, directory, chats, rows)
    rate = f"{options.growth_rate} messages/s"
    of_chats = {f"{size[0]:,} chats": costs[size] for size in by_chats}
    of_rows = {f"{size[1]:,} rows": costs[size] for size in by_rows}
    _report(report, f"an account's chats, {rate}", of_chats)
    _report(report, f"the journal's rows, {options.journal_chats:,} chats, {rate}", of_rows)


async def _measure(options: Options, stores: Stores, directory: Path, chats: int, rows: int) -> Cost:
    directory = directory / f"growth-{chats}-{rows}"
    directory.mkdir()
    server = Child(
        "tests.bench.server", str(directory / "sandbox"), str(chats), log=directory / "sandbox.log"
    )
    try:
        subjects = Subjects(await server.start(), stores, directory)
        known = (await server.ask("age", messages=rows // chats))["chats"]
        async with subjects.logged_in() as gateway:
            process = gateway.process
            first_ready = await _start(process)
            await process.stop()
            if rows:
                filler = Child("tests.bench.filler", str(process.journal_path), log=directory / "filler.log")
                await filler.start()
                await filler.ask("fill", chats=known, rows=rows)
                await filler.stop()
            ready = await _start(process)
            ready_cpu = cpu(process.pid)
            rate = options.growth_rate
            warm_up = round(rate * min(WARM_UP_SECONDS, options.growth_seconds))
            posted = await server.ask("post", messages=warm_up, rate=rate)
            await gateway.collect(posted["first"], warm_up)
            count = round(rate * options.growth_seconds)
            before = cpu(gateway.pid)
            posted = await server.ask("post", messages=count, rate=rate)
            await gateway.collect(posted["first"], count)
            used = cpu(gateway.pid) - before
            cost = Cost(
                cpu_us=used / count * 1e6,
                rss_mb=rss_mb(gateway.pid),
                first_ready_seconds=first_ready,
                ready_seconds=ready,
                ready_cpu_seconds=ready_cpu,
                lost=warm_up + count - await gateway.arrived(),
            )
            await process.stop()
    finally:
        await server.stop()
    return cost


async def _start(process: GatewayProcess) -> float:
    """Seconds until it is ready."""
    began = time.monotonic()
    await process.start()
    return time.monotonic() - began


def _report(report: Report, scenario: str, costs: dict[str, Cost]) -> None:
    values = {
        "CPU µs/message": {name: cost.cpu_us for name, cost in costs.items()},
        "RSS MB": {name: cost.rss_mb for name, cost in costs.items()},
    }
    for figure, by_size in values.items():
        met = max(by_size.values()) <= MOST_TIMES_SMALLEST * min(by_size.values())
        report.add(scenario, figure, {**by_size}, f"≤ {MOST_TIMES_SMALLEST:g} × the smallest", met)
    starts: dict[str, dict[str, Value]] = {
        "seconds to ready, first start": {name: cost.first_ready_seconds for name, cost in costs.items()},
        "seconds to ready, later": {name: cost.ready_seconds for name, cost in costs.items()},
        "seconds of CPU to ready, later": {name: cost.ready_cpu_seconds for name, cost in costs.items()},
    }
    for figure, seconds in starts.items():
        report.add(scenario, figure, seconds)
    lost: dict[str, Value] = {name: cost.lost for name, cost in costs.items()}
    report.add(scenario, "messages lost", lost, "0", not any(lost.values()))
