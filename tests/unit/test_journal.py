"""The journal's promises while disk and process hold: order, once only, cursors, limits, pruning."""

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from structlog.testing import capture_logs

from gateway.errors import JournalError
from gateway.event import Event, edit_id, new_id, utc_now
from gateway.journal import AccountState, Batch, Journal, read_stats
from gateway.metrics import REGISTRY
from tests.sink_events import days_ago, deleted, edited, new


def state(pts: int, **channels: int) -> AccountState:
    return AccountState(
        pts=pts, qts=0, date=utc_now(), seq=pts, channels={int(key[1:]): pts for key, pts in channels.items()}
    )


async def all_events(journal: Journal) -> list[Event]:
    return [record.event for record in await journal.read(0, 1_000_000)]


async def append(journal: Journal, *events: Event) -> int:
    return await journal.append(Batch("main", events))


async def append_or_wait(journal: Journal, first: int) -> asyncio.Task[int] | None:
    """Appends 50 messages; returns the append when it waits for room."""
    task = asyncio.create_task(append(journal, *(new(first + number) for number in range(50))))
    while True:  # without a full journal it is only the machine that is slow
        done, _ = await asyncio.wait([task], timeout=1)
        if done:
            return None
        if journal.full:
            return task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    async with Journal(path, sinks=("database", "cache")) as opened:
        yield opened


async def test_events_come_back_in_order_and_unchanged_also_after_a_restart(path: Path) -> None:
    events = [
        new(1, text="Ação\n\u0000 fim 😀", entities=[{"type": "bold", "offset": 0, "length": 4}]),
        new(2, scope=42, channel="777", metadata={"views": 2**40}),
        edited(1, "novo texto"),
        deleted(1),
    ]
    async with Journal(path) as journal:
        assert await append(journal, *events) == 4
        records = await journal.read(0, 10)
        assert [record.event for record in records] == events
        assert journal.last_seq == records[-1].seq
    async with Journal(path) as journal:
        from_disk = await journal.read(0, 10)
        assert [record.event for record in from_disk] == events
        assert [(record.seq, record.body) for record in from_disk] == [
            (record.seq, record.body) for record in records
        ]


async def test_an_event_is_journaled_once_and_its_batch_state_is_kept_all_the_same(journal: Journal) -> None:
    before = REGISTRY.get_sample_value("telegram_gateway_events_deduplicated_total") or 0
    message = new(1)
    assert await journal.append(Batch("main", [message, new(2), message], state(5, c7=3))) == 2
    assert await journal.append(Batch("second", [new(2), new(3)], state(9))) == 1
    assert [event.message_id for event in await all_events(journal)] == [1, 2, 3]
    first, _ = await journal.load_state("main")
    second, _ = await journal.load_state("second")
    assert first is not None
    assert (first.pts, first.channels) == (5, {7: 3})
    assert second is not None
    assert second.pts == 9
    assert REGISTRY.get_sample_value("telegram_gateway_events_deduplicated_total") == before + 2


async def test_the_same_number_in_another_chat_or_scope_is_another_message(journal: Journal) -> None:
    assert await append(journal, new(1), new(1, channel="-1002"), new(1, scope=4, channel="5")) == 3
    assert await append(journal, new(1, scope=6, channel="5"), deleted(1), deleted(1)) == 2


async def test_edits_that_change_no_content_are_skipped_and_edits_back_are_kept(journal: Journal) -> None:
    message = new(1, text="A")
    reaction = edited(1, "A", 1, metadata={"reactions": 5})
    to_b, again_b, back_to_a = edited(1, "B", 2), edited(1, "B", 3), edited(1, "A", 4)
    assert await append(journal, message, reaction, to_b) == 2
    assert await append(journal, again_b) == 0
    assert await append(journal, back_to_a, deleted(1)) == 2
    assert [event.text for event in await all_events(journal)] == ["A", "B", "A", None]


async def test_an_old_unchanged_edit_that_arrives_late_brings_no_old_words_back(
    journal: Journal,
) -> None:
    assert await append(journal, new(1, text="A"), edited(1, "B", 10)) == 2
    assert await append(journal, edited(1, "A", 5)) == 0
    assert await append(journal, edited(1, "C", 6)) == 1


async def test_an_edit_of_a_message_never_seen_is_kept(journal: Journal) -> None:
    assert await append(journal, edited(8, "B")) == 1
    assert await append(journal, edited(8, "B", 2)) == 0


async def test_a_duplicate_leaves_no_hole_in_the_numbers(journal: Journal) -> None:
    await append(journal, *(new(number) for number in range(200)))
    assert await append(journal, *(new(number) for number in range(0, 400, 3))) == 67
    records = await journal.read(0, 1000)
    assert [record.seq for record in records] == list(range(1, 268))
    expected = [*range(200), *(number for number in range(0, 400, 3) if number >= 200)]
    assert [record.event.message_id for record in records] == expected


async def test_update_state_moves_per_channel_and_zero_forgets_one(path: Path) -> None:
    moment = utc_now()
    async with Journal(path) as journal:
        assert await journal.load_state("main") == (None, {})
        await journal.append(Batch("main", (), AccountState(1, 2, moment, 3, {7: 10, 8: 20}), {7: -(2**62)}))
        await journal.append(Batch("main", (), AccountState(2, 2, moment, 3, {8: 21, 7: 0}), {9: 2**62}))
        await journal.append(Batch("main", [new(1)], None, {8: 5}))
        expected = (AccountState(2, 2, moment, 3, {8: 21}), {7: -(2**62), 8: 5, 9: 2**62})
        assert await journal.load_state("main") == expected
        assert await journal.load_state("other") == (None, {})
    async with Journal(path) as journal:
        assert await journal.load_state("main") == expected


async def test_deletions_without_a_chat_find_it_even_after_pruning(path: Path) -> None:
    async with Journal(path, retention=timedelta(0)) as journal:
        await append(journal, new(3, scope=42, channel="777"), new(3, scope=43, channel="-5"), new(4))
        await append(journal, new(1))
        assert await journal.prune() == 3
        assert await journal.chat_of(42, [3, 4]) == {3: ("777", "private")}
        assert await journal.chat_of(43, (3,)) == {3: ("-5", "private")}
        assert await journal.chat_of(0, [4]) == {}
        assert await journal.chat_of(42, []) == {}


async def test_many_concurrent_appends_share_commits_and_keep_their_order(journal: Journal) -> None:
    name = "telegram_gateway_journal_commit_seconds_count"
    before = REGISTRY.get_sample_value(name) or 0
    async with asyncio.TaskGroup() as group:
        for number in range(2000):
            group.create_task(append(journal, new(number)))
    assert [event.message_id for event in await all_events(journal)] == list(range(2000))
    assert (REGISTRY.get_sample_value(name) or 0) - before < 200


async def test_a_cancelled_append_is_still_committed(journal: Journal) -> None:
    task = asyncio.ensure_future(append(journal, new(1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await append(journal, new(2))
    assert [event.message_id for event in await all_events(journal)] == [1, 2]


async def test_an_event_that_is_no_json_fails_alone(journal: Journal) -> None:
    good = asyncio.ensure_future(append(journal, new(1)))
    with pytest.raises(UnicodeEncodeError):
        await append(journal, new(2, text="\ud800"))
    assert await good == 1
    assert await append(journal, new(3)) == 1
    assert [event.message_id for event in await all_events(journal)] == [1, 3]


async def test_waiting_ends_when_a_record_arrives_for_every_waiter(journal: Journal) -> None:
    await append(journal, new(1))
    await journal.wait_beyond(0)
    waiters = [asyncio.ensure_future(journal.wait_beyond(1)) for _ in range(50)]
    given_up = asyncio.ensure_future(journal.wait_beyond(1))
    await asyncio.sleep(0)
    given_up.cancel()
    await append(journal, new(1))
    assert not any(waiter.done() for waiter in waiters)
    await append(journal, new(2))
    async with asyncio.timeout(60):
        await asyncio.gather(*waiters)


async def test_memory_and_disk_give_the_same_records(path: Path) -> None:
    count = 20_000  # more than the tail holds
    async with Journal(path) as journal:
        for start in range(0, count, 500):
            await append(journal, *(new(number) for number in range(start, start + 500)))
        seen: list[int] = []
        after = 0
        while records := await journal.read(after, 777):
            seen += [record.event.message_id for record in records]
            after = records[-1].seq
        assert seen == list(range(count))


async def test_memory_stays_flat_while_events_wait_for_a_dead_sink(path: Path) -> None:
    async with Journal(path, sinks=("database",)) as journal:

        async def fill(numbers: Sequence[int]) -> None:
            for start in range(numbers[0], numbers[-1], 500):
                await append(journal, *(new(number) for number in range(start, start + 500)))

        await fill(range(20_000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await fill(range(20_000, 80_000))
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert (await journal.stats()).sinks["database"].lag == 80_000
        assert grown_kib < 16 * 1024


async def test_cursors_never_move_back_and_survive_a_clean_close(path: Path) -> None:
    async with Journal(path, sinks=("database", "cache")) as journal:
        await append(journal, *(new(number) for number in range(10)))
        assert journal.cursor("database") == 0
        await journal.advance("database", 7)
        await journal.advance("database", 4)
        assert journal.cursor("database") == 7
        with pytest.raises(ValueError, match="cannot have record 11"):
            await journal.advance("cache", 11)
    async with Journal(path, sinks=("database", "cache")) as journal:
        assert (journal.cursor("database"), journal.cursor("cache")) == (7, 0)


async def test_a_cursor_is_durable_soon_without_another_append(journal: Journal, path: Path) -> None:
    await append(journal, new(1), new(2))
    await journal.advance("database", 2)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and read_stats(path).sinks["database"].cursor == 0:
        await journal.check_writer()
    assert read_stats(path).sinks["database"].cursor == 2


async def test_only_old_rows_behind_every_enabled_sink_are_pruned(path: Path) -> None:
    async with Journal(path, sinks=("database", "cache"), retention=timedelta(days=7)) as journal:
        await append(journal, *(new(number, received_at=days_ago(8)) for number in range(2000)))
        await append(journal, *(new(number, received_at=days_ago(6)) for number in range(2000, 2010)))
        assert await journal.prune() == 0
        await journal.advance("database", 2005)
        await journal.advance("cache", 1200)
        assert await journal.prune() == 1200
        await journal.advance("cache", 2005)
        assert await journal.prune() == 800
        assert [record.seq for record in await journal.read(0, 100)] == list(range(2001, 2011))
        stats = await journal.stats()
        assert (stats.rows, stats.first_seq, stats.sinks["cache"].lag) == (10, 2001, 5)


async def test_numbers_go_on_after_everything_old_was_pruned_and_a_restart(path: Path) -> None:
    async with Journal(path, retention=timedelta(0)) as journal:
        await append(journal, *(new(number) for number in range(10)))
        assert await journal.prune() == 9
    async with Journal(path, retention=timedelta(0)) as journal:
        await append(journal, new(10))
        assert [record.seq for record in await journal.read(0, 100)] == [10, 11]


async def test_a_sink_named_for_the_first_time_starts_at_the_oldest_event_held(path: Path) -> None:
    async with Journal(path, sinks=("database",), retention=timedelta(0)) as journal:
        await append(journal, *(new(number) for number in range(10)))
        await journal.advance("database", 4)
        assert await journal.prune() == 4
    async with Journal(path, sinks=("database", "queue"), retention=timedelta(0)) as journal:
        assert journal.cursor("queue") == 4
        assert [record.seq for record in await journal.read(journal.cursor("queue"), 2)] == [5, 6]
        await journal.advance("database", 10)
        assert await journal.prune() == 0


async def test_a_disabled_sink_does_not_hold_rows_back(path: Path) -> None:
    async with Journal(path, sinks=("database", "cache")) as journal:
        await append(journal, *(new(number, received_at=days_ago(30)) for number in range(10)))
    async with Journal(path, sinks=("database",)) as journal:
        await journal.advance("database", 10)
        assert await journal.prune() == 9


async def test_a_quarantined_record_is_on_disk_when_the_call_returns(journal: Journal, path: Path) -> None:
    await append(journal, new(1), new(2))
    await journal.quarantine("database", 2, "too large")
    await journal.quarantine("database", 2, "still too large")
    other = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = other.execute("SELECT sink, seq, reason, body FROM quarantine").fetchall()
    other.close()
    assert rows == [("database", 2, "still too large", (await journal.read(1, 1))[0].body)]


async def test_stats_tell_rows_lag_and_ages(journal: Journal, path: Path) -> None:
    empty = await journal.stats()
    assert (empty.rows, empty.oldest_received, empty.sinks["cache"].oldest_undelivered) == (0, None, None)
    old, young = days_ago(2), days_ago(1)
    await append(journal, new(1, received_at=old), new(2, received_at=young), new(3))
    await journal.advance("database", 1)
    await journal.advance("cache", 3)
    files = [path, path.with_name("journal.db-wal")]
    size, stats = -1, empty
    # The cursors reach the file a moment later, perhaps between one look and the next.
    while size != (size := sum(file.stat().st_size for file in files)):
        stats = await journal.stats()
    assert stats.bytes == size
    assert (stats.rows, stats.oldest_received) == (3, old)
    assert (stats.sinks["database"].lag, stats.sinks["database"].oldest_undelivered) == (2, young)
    assert (stats.sinks["cache"].lag, stats.sinks["cache"].oldest_undelivered) == (0, None)


async def test_another_process_reads_the_stats_while_the_daemon_runs_and_after(path: Path) -> None:
    script = "import sys, pathlib, gateway.journal as j; print(j.read_stats(pathlib.Path(sys.argv[1])).rows)"

    def rows() -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        ).stdout.strip()

    async with Journal(path) as journal:
        await append(journal, new(1), new(2))
        assert await asyncio.to_thread(rows) == "2"
    assert await asyncio.to_thread(rows) == "2"
    with pytest.raises(JournalError, match="there is no journal"):
        read_stats(path.with_name("other.db"))


async def test_a_journal_at_its_limit_waits_drops_nothing_and_goes_on_when_sinks_catch_up(path: Path) -> None:
    async with Journal(path, max_bytes=1 << 20, sinks=("database",)) as journal:
        count = 0
        with capture_logs() as logs:
            while not (blocked := await append_or_wait(journal, count)):
                count += 50
            count += 50
            assert journal.full
            assert REGISTRY.get_sample_value("telegram_gateway_journal_full") == 1
            await journal.check_writer()
            await asyncio.wait([blocked], timeout=1.2)
            assert not blocked.done()
            assert [entry["event"] for entry in logs].count("journal_full") == 1
        assert path.stat().st_size < 2 << 20
        seen: list[int] = []
        async with asyncio.timeout(90):
            while len(seen) < count:
                records = await journal.read(journal.cursor("database"), 300)
                seen += [record.event.message_id for record in records]
                await journal.advance("database", records[-1].seq if records else journal.last_seq)
                await asyncio.sleep(0)
                if len(seen) == count - 50:
                    await blocked
        assert seen == list(range(count))
        assert not journal.full
        assert REGISTRY.get_sample_value("telegram_gateway_journal_full") == 0


async def test_without_sinks_a_full_journal_keeps_everything(path: Path) -> None:
    journal = Journal(path, max_bytes=1 << 20)
    async with journal:
        count = 0
        while not (blocked := await append_or_wait(journal, count)):
            count += 50
        assert (await journal.stats()).rows == count
    with pytest.raises(JournalError, match="closed"):
        await blocked
    async with Journal(path) as journal:
        assert [event.message_id for event in await all_events(journal)] == list(range(count))


async def test_the_wal_stays_bounded_while_a_sink_reads_along(path: Path) -> None:
    async with Journal(path, sinks=("database",)) as journal:
        largest = 0
        for start in range(0, 40_000, 100):
            await append(journal, *(new(number) for number in range(start, start + 100)))
            await journal._on_reader(journal._reader.read, start // 2, start, 100)
            largest = max(largest, path.with_name("journal.db-wal").stat().st_size)
        assert largest < 32 << 20


async def test_a_second_process_is_refused_with_a_clear_message(journal: Journal, path: Path) -> None:
    script = """
import asyncio, pathlib, sys
from gateway.errors import GatewayError
from gateway.journal import Journal
async def main():
    async with Journal(pathlib.Path(sys.argv[1])):
        pass
try:
    asyncio.run(main())
except GatewayError as error:
    sys.exit(str(error))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stderr=subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert b"in use by process" in stderr
    assert await append(journal, new(1)) == 1


async def test_the_files_are_the_owners_alone(journal: Journal, path: Path) -> None:
    await append(journal, new(1))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


async def test_every_connection_waits_for_the_disk(journal: Journal) -> None:
    assert await journal._on_writer(lambda store: store.connection.pragma("synchronous")) == 2
    assert await journal._on_writer(lambda store: store.connection.pragma("journal_mode")) == "wal"
    assert await journal._on_reader(lambda: journal._reader._connection.pragma("synchronous")) == 2


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE meta SET value = 99 WHERE key = 'schema_version'", "journal schema version 99"),
        ("DROP TABLE meta", "not a journal"),
    ],
)
async def test_a_foreign_schema_is_refused_and_left_alone(path: Path, statement: str, message: str) -> None:
    async with Journal(path) as journal:
        await append(journal, new(1))
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()
    for _ in range(2):
        with pytest.raises(JournalError, match=message):
            async with Journal(path):
                pass
    with pytest.raises(JournalError, match=message):
        read_stats(path)


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are notes, not a journal\n" * 1000)
    with pytest.raises(JournalError, match="damaged"):
        async with Journal(path):
            pass
    assert path.read_bytes().startswith(b"these are notes")


async def test_a_place_where_no_file_can_be_says_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    with pytest.raises(JournalError, match="check the disk and the file's owner"):
        async with Journal(tmp_path / "state" / "journal.db"):
            pass


async def test_a_closed_journal_says_so(path: Path) -> None:
    journal = Journal(path)
    async with journal:
        waiting = asyncio.ensure_future(journal.wait_beyond(0))
        await asyncio.sleep(0)
    for call in (append(journal, new(1)), journal.read(0, 1), waiting, journal.stats()):
        with pytest.raises(JournalError, match="closed"):
            await call


def test_the_content_digest_ignores_what_is_not_content() -> None:
    base = new(1, text="A", media_type="photo", media={"id": 5, "size": 10})
    same = new(
        2, text="A", media_type="photo", media={"id": 5, "size": 99}, metadata={"views": 7}, entities=[]
    )
    assert same.content_digest == base.content_digest
    for other in (
        new(1, text="B", media_type="photo", media={"id": 5}),
        new(1, text=None, caption="A", media_type="photo", media={"id": 5}),
        new(1, text="A", media_type="photo", media={"id": 6}),
        new(1, text="A", media_type="photo", media={"id": 5}, entities=[{"type": "bold"}]),
    ):
        assert other.content_digest != base.content_digest
    assert new_id(0, "-1001", 1) != edit_id(0, "-1001", 1, utc_now(), base.content_digest)
