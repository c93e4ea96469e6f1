"""The benchmark works: its quick form measures every scenario for every subject. No figure is asserted."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gateway.localstack import LocalStack
from tests.bench import reading
from tests.bench.options import QUICK, SERVERS
from tests.bench.report import Report
from tests.bench.run import run
from tests.bench.subjects import GATEWAY, SUBJECTS

STREAM_FIGURES = ("CPU µs/message", "the sandbox's CPU µs/message", "RSS MB")
LATENCY_FIGURES = ("wire to consumer p50 ms", "wire to consumer p99 ms", *STREAM_FIGURES)
COMPARED = {
    "burst of 100": ("messages/s until the last is through", *STREAM_FIGURES),
    "50 messages/s": LATENCY_FIGURES,
    "500 messages/s": LATENCY_FIGURES,
    "all of the above": ("messages lost",),
}
BACKLOG_FIGURES = (
    "rows that waited",
    "rows/s into the journal",
    "highest RSS MB",
    "RSS MB more at the end than early on",
    "rows/s into PostgreSQL on its return",
    "messages lost",
)
BACKFILL_FIGURES = {
    "live messages, wire to consumer, p50 ms": {"before", "meanwhile"},
    "live messages, wire to consumer, p99 ms": {"before", "meanwhile"},
    "messages/s until every sink has all": {"meanwhile"},
    "RSS MB (meanwhile: the most)": {"before", "meanwhile", "after"},
    "RSS MB more at the end than early on": {"meanwhile"},
    "the gateway's CPU µs/message": {"meanwhile"},
}
GROWTH_FIGURES = (
    "CPU µs/message",
    "RSS MB",
    "seconds to ready, first start",
    "seconds to ready, later",
    "seconds of CPU to ready, later",
)
GROWTH = {
    "an account's chats, 300 messages/s": {"10 chats", "250 chats"},
    "the journal's rows, 10 chats, 300 messages/s": {"0 rows", "3,000 rows"},
}
READING_FIGURES = (
    *(reading.HOT_PAGE, reading.HOT_ONE, reading.HOT_MESSAGE, reading.CACHED_PAGE, reading.COLD_PAGE),
    *(reading.COLD_PAGE_OF_ALL, reading.COLD_MESSAGE, reading.SEARCH, reading.UNPROCESSED),
    *(reading.MARK_ONE, reading.MARK_PAGE, reading.POLL_REDIS, reading.POLL_DATABASE),
    *(reading.DEDUP_REDIS, reading.DEDUP_DATABASE),
)
READ_SIDE = frozenset({"read", "stream", "volume"})
STREAMS = {"1 client", "bare, 1 client", "10 clients", "bare, 10 clients"}
OTHER_SINKS = {
    "pgbouncer": ("redis", "rabbitmq"),
    "postgres": ("redis", "rabbitmq"),
    "redis": ("timescaledb", "rabbitmq"),
    "rabbitmq": ("timescaledb", "redis"),
}


def _cells(report: Report, scenario: str, figure: str) -> dict[str, object]:
    found = [row for row in report.rows if (row.scenario, row.figure) == (scenario, figure)]
    assert len(found) == 1, f"{scenario!r} has {len(found)} lines {figure!r}"
    return {name: value for name, value in found[0].cells.items() if value is not None}


async def test_the_quick_benchmark_fills_every_line_of_its_table(tmp_path: Path) -> None:
    # Servers of its own, as `make bench` has: its queue would take the messages of other tests.
    async with LocalStack(servers=SERVERS) as stack:
        report = await run(replace(QUICK, scenarios=QUICK.scenarios - READ_SIDE), stack, tmp_path)

    assert not report.failures
    for scenario, figures in COMPARED.items():
        for figure in figures:
            assert set(_cells(report, scenario, figure)) == set(SUBJECTS)
    for server, sinks in OTHER_SINKS.items():
        scenario = f"{server} stops for 0.8 s"
        assert _cells(report, scenario, "messages lost") == {GATEWAY: 0}
        for sink in sinks:
            for quantile in ("p50", "p99"):
                assert _cells(report, scenario, f"{sink} {quantile} ms: before → then")
    for figure in BACKLOG_FIGURES:
        assert set(_cells(report, "backlog of 2,000", figure)) == {GATEWAY}
    assert _cells(report, "sandbox alone", "most pushes/s")
    backfill = "backfill of 600 beside 50 messages/s"
    for figure, moments in BACKFILL_FIGURES.items():
        assert set(_cells(report, backfill, figure)) == moments
    assert _cells(report, backfill, "messages lost") == {"after": 0}
    for scenario, sizes in GROWTH.items():
        for figure in GROWTH_FIGURES:
            assert set(_cells(report, scenario, figure)) == sizes
        assert _cells(report, scenario, "messages lost") == dict.fromkeys(sizes, 0)

    console = Console(width=170, record=True, file=io.StringIO())
    report.render(console)
    table = console.export_text()
    assert all(row.figure in table for row in report.rows)
    report.write(tmp_path / "figures.json")
    assert "messages lost" in (tmp_path / "figures.json").read_text()


async def test_the_quick_benchmark_reads_every_way_beside_a_bare_one(tmp_path: Path) -> None:
    async with LocalStack(servers=SERVERS) as stack:
        report = await run(replace(QUICK, scenarios=READ_SIDE), stack, tmp_path)

    assert not report.failures
    for figure in READING_FIGURES:
        read = _cells(report, "time in the process, 2,000 messages stored", figure)
        assert {"p50 ms", "p95 ms", "bare p50 ms", "× bare"} <= set(read)
        volume = _cells(report, "messages stored: 2,000 and 20,000", figure)
        assert {"2,000: p50 ms", "20,000: p50 ms", "×"} <= set(volume)
    for figure in (reading.HOT_ONE, reading.HOT_PAGE):
        assert set(_cells(report, "full load, 16 connections", figure)) >= {"requests/s", "% of bare"}
    for quantile in ("p50", "p99"):
        assert set(_cells(report, "stream of 20 events/s", f"published to client, {quantile} ms")) == STREAMS
    assert _cells(report, "stream of 20 events/s", "events that did not come") == dict.fromkeys(STREAMS, 0)
    plans = [row for row in report.rows if row.scenario == "plans, 20,000 messages stored"]
    assert len(plans) == 6
    assert all("Index" in str(row.cells["scans"]) for row in plans)
