"""One run of the benchmark: the sandbox in its own process, the scenarios in turn, the report at the end."""

from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.demo.process import GatewayProcess
from gateway.errors import GatewayError
from gateway.localstack import LocalStack
from gateway.tasks import root_cause
from tests.bench.backfill import run_backfill
from tests.bench.backlog import run_backlog
from tests.bench.child import Child, ChildFailed
from tests.bench.fan_out import run_fan_out
from tests.bench.growth import run_growth
from tests.bench.machine import describe
from tests.bench.millions import run_volume
from tests.bench.options import Options
from tests.bench.outages import run_outages
from tests.bench.read import run_read
from tests.bench.report import Report
from tests.bench.stores import Stores
from tests.bench.streams import run_sandbox, run_streams
from tests.bench.subjects import Subjects

SANDBOXED = frozenset({"sandbox", "throughput", "latency", "outages", "backlog", "backfill"})


async def run(
    options: Options, stack: LocalStack, directory: Path, say: Callable[[str], None] = lambda text: None
) -> Report:
    """Runs the chosen scenarios on `stack`, whose stores it empties; `directory` gets every process's log."""
    settings = {name: value for name, value in asdict(options).items() if name != "scenarios"}
    report = Report(await describe(stack), settings)
    await GatewayProcess(directory, stack.environment).command("db", "migrate")
    stores = Stores(stack)
    await stores.prepare()
    if options.scenarios & SANDBOXED:
        await _run_sandboxed(report, options, stores, directory, say)
    if "growth" in options.scenarios:
        await _attempt(report, "growth", run_growth(report, options, stores, directory, say))
    if "read" in options.scenarios:
        say("read: the API and the consumer library beside bare round trips")
        await _attempt(report, "read", run_read(report, options, stores, directory))
    if "stream" in options.scenarios:
        say(f"stream: one client and {options.stream_clients}")
        await _attempt(report, "stream", run_fan_out(report, options, stores, directory))
    if "volume" in options.scenarios:
        say(f"volume: {options.read_rows:,} and {options.volume_rows:,} messages")
        await _attempt(report, "volume", run_volume(report, options, stores, directory, say))
    return report


async def _run_sandboxed(
    report: Report, options: Options, stores: Stores, directory: Path, say: Callable[[str], None]
) -> None:
    """What goes through one sandbox, with twenty channels."""
    server = Child("tests.bench.server", str(directory / "sandbox"), log=directory / "sandbox.log")
    try:
        subjects = Subjects(await server.start(), stores, directory)
        if "sandbox" in options.scenarios:
            say("sandbox: how fast it pushes")
            await _attempt(report, "sandbox", run_sandbox(report, options, server, subjects))
        if options.scenarios & {"throughput", "latency"}:
            say("latency and throughput: four subjects in turn")
            await _attempt(report, "streams", run_streams(report, options, server, subjects))
        if "outages" in options.scenarios:
            say("outages: four servers in turn")
            await _attempt(report, "outages", run_outages(report, options, server, subjects, stores))
        if "backlog" in options.scenarios:
            say(f"backlog: {options.rows:,} rows")
            await _attempt(report, "backlog", run_backlog(report, options, server, subjects, stores))
        if "backfill" in options.scenarios:
            say(f"backfill: {options.history:,} messages of history")
            await _attempt(report, "backfill", run_backfill(report, options, server, subjects))
    finally:
        await server.stop()


async def _attempt(report: Report, name: str, scenario: Coroutine[Any, Any, None]) -> None:
    """A scenario that fails is a line of the table; what the others found is not lost with it."""
    try:
        await scenario
    except* (GatewayError, ChildFailed) as failures:
        report.fail(name, str(root_cause(failures)))
