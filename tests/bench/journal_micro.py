"""What the journal costs on this machine's disk: `python -m tests.bench.journal_micro [--rows 1000000]`.

Prints commits and rows a second, the CPU of one append by thread, reading from disk and from memory, how
long an append waits while rows are pruned, and the memory held while all rows wait for a dead sink.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import uvloop

from gateway.event import Event, Sender, new_id, utc_now
from gateway.journal import AccountState, Batch, Journal

_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def batch(first: int, size: int, received: datetime | None = None) -> Batch:
    now = utc_now()
    events = [
        Event(
            id=new_id(0, "-1001649127710", number),
            kind="message.new",
            account="main",
            account_scope=0,
            channel_id="-1001649127710",
            chat_type="channel",
            chat_title="Sinais da Bolsa",
            message_id=number,
            sender=Sender(id=7, name="Ana"),
            text=f"COMPRA PETR4 @ 31,20 — alvo 32,10, stop 30,80 n.º {number}",
            telegram_date=now,
            received_at=received or now,
            source="mtproto",
            message_type="channel_post",
        )
        for number in range(first, first + size)
    ]
    return Batch("main", events, AccountState(first, 0, now, 0, {1649127710: first + size}))


async def cost_of_appends(journal: Journal, first: int) -> int:
    print(f"{'events/append':>13} {'appends/s':>10} {'events/s':>10} {'p50 ms':>7} {'p99 ms':>7}", end=" ")
    print(f"{'loop µs/append':>15} {'process user+sys µs/append':>27}")
    for size in (1, 10, 100):
        count = max(200, 4000 // size)
        batches = [batch(first + number * size, size) for number in range(count)]
        first += count * size
        waits = []
        started, loop_cpu, cpu = time.perf_counter(), time.thread_time(), psutil.Process().cpu_times()
        for one in batches:
            begun = time.perf_counter()
            await journal.append(one)
            waits.append(time.perf_counter() - begun)
        seconds, loop_cpu = time.perf_counter() - started, time.thread_time() - loop_cpu
        after = psutil.Process().cpu_times()
        waits.sort()
        print(
            f"{size:13} {count / seconds:10,.0f} {count * size / seconds:10,.0f}"
            f" {waits[count // 2] * 1e3:7.2f} {waits[count * 99 // 100] * 1e3:7.2f}"
            f" {loop_cpu / count * 1e6:15.1f}"
            f" {(after.user - cpu.user) / count * 1e6:16.0f}"
            f" + {(after.system - cpu.system) / count * 1e6:.0f}"
        )
    return first


async def concurrent_appends(journal: Journal, first: int) -> int:
    count = 20_000
    batches = [batch(first + number, 1) for number in range(count)]
    cpu, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(journal.append(one) for one in batches))
    seconds = time.perf_counter() - started
    print(f"single-event appends, {count:,} at once: {count / seconds:,.0f}/s,", end=" ")
    print(f"{(time.process_time() - cpu) / count * 1e6:.1f} µs of CPU each")
    return first + count


async def fill(journal: Journal, first: int, rows: int, received: datetime) -> int:
    process = psutil.Process()
    before, started = process.memory_info().rss, time.perf_counter()
    for start in range(first, first + rows, 500):
        await journal.append(batch(start, 500, received))
        if (start - first) % (rows // 5) < 500:
            print(f"  {start - first:9,} rows wait: {process.memory_info().rss / 1e6:.0f} MB resident")
    seconds = time.perf_counter() - started
    stats = await journal.stats()
    print(
        f"{rows:,} rows in batches of 500: {rows / seconds:,.0f} rows/s,",
        f"{stats.bytes / 1e6:,.0f} MB on disk,",
        f"resident memory {before / 1e6:.0f} → {process.memory_info().rss / 1e6:.0f} MB",
    )
    return first + rows


async def reading(journal: Journal, rows: int) -> None:
    for name, start, count in (("disk", 0, min(rows, 200_000)), ("memory", journal.last_seq - 6000, 6000)):
        after, cpu, begun = start, time.process_time(), time.perf_counter()
        while after < start + count:
            after = (await journal.read(after, 1000))[-1].seq
        seconds = time.perf_counter() - begun
        cost = (time.process_time() - cpu) / count * 1e6
        print(f"read from {name}, 1000 at a time: {count / seconds:,.0f} rows/s, {cost:.2f} µs of CPU a row")


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await call()
    return time.perf_counter() - begun


async def pruning(journal: Journal, first: int) -> None:
    await journal.advance("database", journal.last_seq)
    begun = time.perf_counter()
    pruner = asyncio.ensure_future(journal.prune())
    waits = []
    while not pruner.done():
        one = batch(first, 1)
        waits.append(await timed(lambda one=one: journal.append(one)))  # type: ignore[misc]
        first += 1
    removed = await pruner
    waits.sort()
    rate = removed / (time.perf_counter() - begun)
    print(
        f"pruned {removed:,} rows at {rate:,.0f} rows/s; appends meanwhile:"
        f" p50 {statistics.median(waits) * 1e3:.2f} ms, p99 {waits[len(waits) * 99 // 100] * 1e3:.2f} ms,"
        f" worst {waits[-1] * 1e3:.1f} ms"
    )


async def main(directory: Path, rows: int) -> None:
    path = directory / "journal.db"
    async with Journal(path, sinks=("database",), retention=timedelta(days=1)) as journal:
        first = await cost_of_appends(journal, 0)
        first = await concurrent_appends(journal, first)
    path.unlink()
    async with Journal(path, sinks=("database",), retention=timedelta(days=1)) as journal:
        first = await fill(journal, first, rows, _LONG_AGO)
        await reading(journal, rows)
        waits = [await timed(journal.stats) for _ in range(20)]
        print(f"stats() with {rows:,} rows: {statistics.median(waits) * 1e3:.2f} ms")
        await pruning(journal, first)
        largest = path.with_name("journal.db-wal").stat().st_size
        print(f"WAL after all that: {largest / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        uvloop.run(main(Path(scratch), arguments.rows))
