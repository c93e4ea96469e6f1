"""Latency at steady rates and the throughput of a burst, for every subject; and the sandbox's own limit."""

import asyncio
from dataclasses import dataclass

from tests.bench.child import Child
from tests.bench.options import Options
from tests.bench.report import Report, Value, quantile
from tests.bench.subjects import (
    BARE,
    CONCURRENT,
    GATEWAY,
    SANDBOX,
    SEQUENTIAL,
    SUBJECTS,
    Subject,
    Subjects,
    cpu,
    rss_mb,
)

WARM_UP_MESSAGES = 100
QUIET_SECONDS = 0.3  # without a packet, after which the sandbox has nothing left to push

MOST_P50_MS = 10.0
MOST_P99_MS = 40.0
MOST_CPU_TIMES_BARE = 3.0
MOST_RSS_MB = 150.0
LEAST_TIMES_AFTERNOON = 2.0


@dataclass(frozen=True)
class Stretch:
    """What one subject did with one stretch of traffic; CPU is in µs a message, of it and of the sandbox."""

    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float
    sandbox_us: float
    rss_mb: float


Stretches = dict[str, Stretch]


async def run_streams(report: Report, options: Options, server: Child, subjects: Subjects) -> None:
    """Every subject in turn: first the steady rates, then the burst."""
    steady: dict[int, Stretches] = {rate: {} for rate in options.rates}
    burst: Stretches = {}
    lost: dict[str, Value] = {}
    for name in SUBJECTS:
        async with subjects.running(name) as subject:
            await _stretch(server, subject, WARM_UP_MESSAGES, options.rates[-1])
            posted = WARM_UP_MESSAGES
            if "latency" in options.scenarios:
                for rate in options.rates:
                    count = int(rate * options.seconds)
                    steady[rate][name] = await _stretch(server, subject, count, rate)
                    posted += count
            if "throughput" in options.scenarios:
                burst[name] = await _stretch(server, subject, options.messages, None)
                posted += options.messages
            lost[name] = posted - await subject.arrived()
    if burst:
        _report_burst(report, options, burst)
    for rate, stretches in steady.items():
        if stretches:
            _report_steady(report, rate, stretches)
    report.add("all of the above", "messages lost", lost, "0", lost[GATEWAY] == 0)


async def run_sandbox(report: Report, options: Options, server: Child, subjects: Subjects) -> None:
    """How fast the sandbox pushes to a client that costs nothing, one message a push."""
    async with subjects.drain() as drain:
        before = cpu(server.pid)
        posted = await server.ask("post", messages=options.messages)
        seen = -1
        while (read := await drain.ask("count"))["bytes"] != seen or not seen:
            seen = read["bytes"]
            await asyncio.sleep(QUIET_SECONDS)
        cost = (cpu(server.pid) - before) / options.messages * 1e6
    seconds = (read["last_ns"] - posted["started_ns"]) / 1e9
    report.add("sandbox alone", "most pushes/s", {SANDBOX: options.messages / seconds})
    report.add("sandbox alone", "its CPU µs/message", {SANDBOX: cost})


async def _stretch(server: Child, subject: Subject, count: int, rate: int | None) -> Stretch:
    before, sandbox_before = cpu(subject.pid), cpu(server.pid)
    posted = await server.ask("post", messages=count, rate=rate)
    came = await subject.collect(posted["first"], count)
    used, sandbox_used = cpu(subject.pid) - before, cpu(server.pid) - sandbox_before
    return Stretch(
        per_second=len(came.latencies_ms) / ((came.finished_ns - posted["started_ns"]) / 1e9),
        p50_ms=quantile(came.latencies_ms, 0.5),
        p99_ms=quantile(came.latencies_ms, 0.99),
        cpu_us=used / count * 1e6,
        sandbox_us=sandbox_used / count * 1e6,
        rss_mb=rss_mb(subject.pid),
    )


def _report_burst(report: Report, options: Options, burst: Stretches) -> None:
    scenario = f"burst of {options.messages:,}"
    best = max(burst[CONCURRENT].per_second, burst[SEQUENTIAL].per_second)
    least = LEAST_TIMES_AFTERNOON * best
    report.add(
        scenario,
        "messages/s until the last is through",
        {name: stretch.per_second for name, stretch in burst.items()},
        f"≥ {LEAST_TIMES_AFTERNOON:g} × afternoon = {least:,.0f}",
        burst[GATEWAY].per_second >= least,
    )
    _report_cost(report, scenario, burst)


def _report_steady(report: Report, rate: int, stretches: Stretches) -> None:
    scenario = f"{rate} messages/s"
    mine = stretches[GATEWAY]
    p50: dict[str, Value] = {name: one.p50_ms for name, one in stretches.items()}
    p99: dict[str, Value] = {name: one.p99_ms for name, one in stretches.items()}
    for figure, cells, value, most in (
        ("p50", p50, mine.p50_ms, MOST_P50_MS),
        ("p99", p99, mine.p99_ms, MOST_P99_MS),
    ):
        met = value is not None and value <= most
        report.add(scenario, f"wire to consumer {figure} ms", cells, f"≤ {most:g}", met)
    _report_cost(report, scenario, stretches, limited=True)


def _report_cost(report: Report, scenario: str, stretches: Stretches, *, limited: bool = False) -> None:
    most = MOST_CPU_TIMES_BARE * stretches[BARE].cpu_us
    cpu_us: dict[str, Value] = {name: one.cpu_us for name, one in stretches.items()}
    if limited:
        report.add(
            scenario,
            "CPU µs/message",
            cpu_us,
            f"≤ {MOST_CPU_TIMES_BARE:g} × bare = {most:,.0f}",
            stretches[GATEWAY].cpu_us <= most,
        )
    else:
        report.add(scenario, "CPU µs/message", cpu_us)
    report.add(
        scenario, "the sandbox's CPU µs/message", {name: one.sandbox_us for name, one in stretches.items()}
    )
    report.add(
        scenario,
        "RSS MB",
        {name: one.rss_mb for name, one in stretches.items()},
        f"≤ {MOST_RSS_MB:g}",
        stretches[GATEWAY].rss_mb <= MOST_RSS_MB,
    )
