"""The journal's asyncio face: appends are group-committed by one writer thread, sinks read behind them."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import apsw

from gateway import metrics
from gateway.errors import JournalError
from gateway.event import utc_now
from gateway.journal.moments import microseconds
from gateway.journal.position import Position, adopt_position
from gateway.journal.prune import CHUNK_ROWS, prune_chunk
from gateway.journal.quarantine import Quarantined, remove_quarantined, set_quarantine_reason
from gateway.journal.reader import Reader
from gateway.journal.records import (
    AccountState,
    Batch,
    ChatLedger,
    Gap,
    JournalStats,
    LedgerChanges,
    Record,
)
from gateway.journal.schema import io_failure, lock
from gateway.journal.store import Row, Store
from gateway.journal.switches import ChatId, switch
from gateway.journal.tail import Tail
from gateway.journal.writer import Append, Commit, Job, Ping, Stop, Task, Writer

CURSOR_FLUSH_SECONDS = 0.2  # what a crash may make a sink deliver again
PRUNE_INTERVAL = timedelta(minutes=1)

T = TypeVar("T")
OnJournaled = Callable[[Sequence[Record], int, int], None]  # from when to when, in nanoseconds since 1970


class Journal:
    """An append-only, durable, ordered list of events with one cursor per sink.

    One process owns it; `async with Journal(path) as journal:` opens it (creating it on first use).
    `sinks` names the enabled sinks: what they have not taken stays whatever its age. A sink that is named
    for the first time starts at the oldest event still held. A disk that fails under the journal ends it:
    every call raises JournalError from then on, and `wait_failed` does. `on_journaled` hears of
    each commit.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 20 << 30,
        retention: timedelta = timedelta(days=7),
        sinks: Sequence[str] = (),
        on_journaled: OnJournaled | None = None,
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._retention = retention
        self._sinks = tuple(sinks)
        self._on_journaled = on_journaled
        self._cursors: dict[str, int] = {}
        self._flush_timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._usable = False
        self._reason = JournalError(f"the journal {path} is not open")
        self._last_seq = 0
        self._first_seq = 1
        self.gaps_version = 0  # moves whenever a gap is opened or closed
        self.open_gaps: Mapping[str, int] = {}  # how many of each account
        self._gaps_moved = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal-reader")
        try:
            store = await self._loop.run_in_executor(self._threads, self._open)
        except BaseException:
            self._threads.shutdown(wait=False)
            raise
        self._cursors = dict(store.cursors)
        self._first_seq, self._last_seq = store.first_seq, store.last_seq
        self.open_gaps = store.ledger.open_gaps()
        self._tail = Tail(self._last_seq)
        self._writer = Writer(store, self, max_bytes=self._max_bytes, sinks=self._sinks)
        self._writer.start()
        self._usable = True
        metrics.JOURNAL_LIMIT_BYTES.set(self._max_bytes)
        return self

    def _open(self) -> Store:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock(self.path)
            try:
                return self._open_locked()
            except BaseException:
                os.close(self._lock)
                raise
        except (apsw.Error, OSError) as error:
            raise io_failure(self.path, error) from error

    def _open_locked(self) -> Store:
        store = Store(self.path)
        try:
            store.begin()
            store.set_cursors(
                {sink: store.first_seq - 1 for sink in self._sinks if sink not in store.cursors}
            )
            store.commit()
            self._reader = Reader(self.path)
        except BaseException:
            store.close()
            raise
        return store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what is queued and the cursors, then closes. Appends without room raise JournalError."""
        self._flush_cursors()
        self._refuse(JournalError(f"the journal {self.path} is closed"))
        # The writer goes last: only the last connection to close can empty the WAL.
        await self._loop.run_in_executor(self._threads, self._reader.close)
        self._writer.submit(Stop())
        await self._ended
        self._writer.join()
        self._threads.shutdown()
        os.close(self._lock)

    async def append(self, batch: Batch) -> int:
        """Returns how many of the batch's events are new, once they and the state are durable.

        Events that the journal holds already, and edits that change no content, are skipped; the state is
        committed all the same. Waits while the journal or its disk is full. Once called it is carried out
        even if the caller is cancelled. Raises JournalError when the disk failed, and UnicodeEncodeError or
        ValueError (nothing is written) for an event that is no valid JSON or whose chat is no number.
        """
        self._require_usable()
        rows = [Row(event) for event in batch.events]
        done: asyncio.Future[int] = self._loop.create_future()
        self._writer.submit(Append(batch, rows, done, time.perf_counter()))
        return await done

    async def load_state(self, account: str) -> tuple[AccountState | None, dict[int, int]]:
        """The account's committed update state (None before the first), and its channels' access hashes."""
        return await self._on_reader(self._reader.load_state, account)

    async def position(self, account: str) -> tuple[Position, int] | None:
        """Where the account stands, and the last record before that; None before its first state."""
        return await self._on_reader(self._reader.position, account)

    async def adopt(self, account: str, position: Position) -> bool:
        """Starts an account that has no state yet from another journal's; returns whether it had none."""
        return await self._on_writer(lambda store: adopt_position(store, account, position))

    async def chat_of(self, account_scope: int, message_ids: Sequence[int]) -> dict[int, tuple[str, str]]:
        """`channel_id` and `chat_type` of messages whose ids count per account, as far as they are known.

        Knows every committed message, also those that were pruned.
        """
        return await self._on_reader(self._reader.chat_of, account_scope, message_ids)

    async def ledger(self, account: str) -> dict[int, ChatLedger]:
        """What is known of each of an account's chats (by marked id; 0 for ids that count per account)."""
        return await self._on_reader(self._reader.ledger, account)

    async def gaps(
        self, account: str | None, chat: int | None = None, state: str = "open", limit: int = -1
    ) -> list[Gap]:
        """An account's gaps of one state, or all accounts', in one chat or all, those opened last first."""
        return await self._on_reader(self._reader.gaps, account, chat, state, limit)

    async def next_gaps(self, account: str, paused: Sequence[int], limit: int) -> list[Gap]:
        """The account's open gaps in the order in which to fetch them, without those of `paused` chats."""
        return await self._on_reader(self._reader.next_gaps, account, paused, limit)

    async def switched_off(self) -> set[ChatId]:
        """The chats that people had switched off when that was last known."""
        return await self._on_reader(self._reader.switched_off)

    async def switch(
        self, off: Sequence[ChatId], on: Sequence[ChatId], changes: Mapping[str, LedgerChanges]
    ) -> None:
        """Remembers chats that went off and came back, with the ledger's `changes` for each account."""
        await self._on_writer(lambda store: switch(store, off, on, changes))

    def recheck_gaps(self) -> None:
        """Lets those who wait for gaps look again: others than before may be fetched now."""
        self.gaps_version += 1
        self._wake_gaps()

    async def wait_gaps_moved(self, version: int) -> None:
        """Returns as soon as `gaps_version` is not `version`."""
        while self.gaps_version == version:
            self._require_usable()
            await self._gaps_moved.wait()

    async def held(self, scope: int, messages: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of `messages` (marked chat id, message id) that the journal still holds as first seen."""
        return await self._on_reader(self._reader.held, scope, messages)

    async def read(self, after: int, limit: int) -> Sequence[Record]:
        """Up to `limit` records with numbers above `after`, in order; none when there are none yet."""
        self._require_usable()
        if after >= self._last_seq:
            return ()
        after = max(after, self._first_seq - 1)  # what is pruned is gone from the tail too
        if after >= self._tail.floor:
            return self._tail.after(after, limit)
        return await self._on_reader(self._reader.read, after, self._last_seq, limit)

    async def wait_beyond(self, after: int) -> None:
        """Returns as soon as there is a record with a number above `after`."""
        while self._last_seq <= after:
            self._require_usable()
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def cursor(self, sink: str) -> int:
        """The number of the last record that the sink has acknowledged."""
        return self._cursors.get(sink, self._first_seq - 1)

    async def advance(self, sink: str, seq: int) -> None:
        """Moves the sink's cursor up to `seq`, never back.

        Returns at once; it is durable within 0.2 s. A crash before that means a second delivery.
        """
        if seq > self._last_seq:
            raise ValueError(f"sink {sink} cannot have record {seq}: the last one is {self._last_seq}")
        self._require_usable()
        if seq > self.cursor(sink):
            self._cursors[sink] = seq
            if self._flush_timer is None:
                self._flush_timer = self._loop.call_later(CURSOR_FLUSH_SECONDS, self._flush_cursors)

    async def quarantine(self, sink: str, seq: int, reason: str) -> None:
        """Puts a durable copy of the record aside, with why `sink` can never accept it."""
        at = utc_now()
        await self._on_writer(lambda store: store.quarantine(sink, seq, reason, at))

    async def count_quarantined(self) -> dict[str, int]:
        """How many records each sink has in quarantine; sinks without any are left out."""
        return await self._on_reader(self._reader.count_quarantined)

    async def next_quarantined(self, after: tuple[str, int] = ("", 0)) -> Quarantined | None:
        """The first record in quarantine behind (sink, seq)."""
        return await self._on_reader(self._reader.next_quarantined, after)

    async def leave_quarantined(self, sink: str, seq: int, reason: str) -> None:
        """Notes why the sink refused the record once more."""
        await self._on_writer(lambda store: set_quarantine_reason(store.connection, sink, seq, reason))

    async def remove_quarantined(self, sink: str, seq: int) -> bool:
        """Forgets the record, which the sink has by now or nobody wants; returns whether it was there."""
        return await self._on_writer(lambda store: remove_quarantined(store.connection, sink, seq))

    async def prune(self) -> int:
        """Removes what is older than the retention and behind every enabled sink; returns how many."""
        before = utc_now() - self._retention
        self._flush_cursors()
        await self._on_writer(lambda store: store.ledger.prune(microseconds(before)))
        total = 0
        while True:
            removed = await self._on_writer(lambda store: prune_chunk(store, self._sinks, before))
            metrics.JOURNAL_PRUNED.inc(removed)
            total += removed
            if removed < CHUNK_ROWS:
                return total

    async def run_pruner(self, interval: timedelta = PRUNE_INTERVAL) -> NoReturn:
        """Prunes every `interval` until it is cancelled."""
        while True:
            await self.prune()
            await asyncio.sleep(interval.total_seconds())

    async def stats(self) -> JournalStats:
        """What the journal holds and how far each enabled sink is; cheap. Moves the journal's gauges."""
        names = self._sinks or tuple(self._cursors)
        stats = await self._on_reader(self._reader.stats, {sink: self.cursor(sink) for sink in names})
        metrics.JOURNAL_ROWS.set(stats.rows)
        metrics.JOURNAL_BYTES.set(stats.bytes)
        disk = await self._on_reader(shutil.disk_usage, self.path.parent)
        metrics.JOURNAL_DISK_BYTES.set(disk.total)
        metrics.JOURNAL_DISK_FREE_BYTES.set(disk.free)
        return stats

    async def check_writer(self) -> None:
        """Returns once the writer thread has taken a turn; a watchdog's proof that it moves."""
        self._require_usable()
        done: asyncio.Future[None] = self._loop.create_future()
        self._writer.submit(Ping(done))
        await done

    async def wait_failed(self) -> NoReturn:
        """Raises JournalError when the disk under the journal has failed for good; waits until then."""
        await asyncio.shield(self._failed)
        raise AssertionError("a failure is always an exception")

    @property
    def full(self) -> bool:
        """True while appends wait because the journal is at its byte limit or its disk is full."""
        return self._writer.full

    @property
    def last_seq(self) -> int:
        """The number of the newest durable record, 0 when there never was one."""
        return self._last_seq

    async def _on_reader(self, work: Callable[..., T], *arguments: Any) -> T:
        self._require_usable()
        try:
            return await self._loop.run_in_executor(self._threads, work, *arguments)
        except apsw.Error as error:
            failure = io_failure(self.path, error)
            self._fail(failure)
            raise failure from error

    async def _on_writer(self, work: Callable[[Store], T]) -> T:
        self._require_usable()
        done: asyncio.Future[T] = self._loop.create_future()
        self._writer.submit(Task(work, done))
        return await done

    def _flush_cursors(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
            cursors: Mapping[str, int] = dict(self._cursors)
            self._writer.submit(Task(lambda store: store.set_cursors(cursors)))

    def _require_usable(self) -> None:
        if not self._usable:
            raise self._refusal()

    def committed(self, commit: Commit) -> None:
        """Called on the writer thread: one wake-up of the event loop for each commit."""
        self._loop.call_soon_threadsafe(self._on_committed, commit)

    def ended(self, failure: JournalError | None, left: Sequence[Job]) -> None:
        """Called on the writer thread when it has ended."""
        self._loop.call_soon_threadsafe(self._on_ended, failure, left)

    def _on_committed(self, commit: Commit) -> None:
        self._first_seq = commit.first_seq
        if commit.open_gaps is not None:
            self.open_gaps = commit.open_gaps
            self.gaps_version += 1
            self._wake_gaps()
        if commit.records:
            self._last_seq = commit.last_seq
            self._tail.extend(commit.records)
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
        for done, result in commit.settled:
            if done is not None and not done.done():
                done.set_result(result)
        if commit.records and self._on_journaled is not None:
            self._on_journaled(commit.records, commit.appended_ns, commit.durable_ns)

    def _on_ended(self, failure: JournalError | None, left: Sequence[Job]) -> None:
        if failure is not None:
            self._fail(failure)
        for job in (*left, *self._writer.drain()):
            if not isinstance(job, Stop) and job.done is not None and not job.done.done():
                job.done.set_exception(self._refusal())
        self._ended.set_result(None)

    def _fail(self, failure: JournalError) -> None:
        self._refuse(failure)
        if not self._failed.done():
            self._failed.set_exception(failure)
            self._failed.exception()  # whoever waits hears of it; nobody has to

    def _refuse(self, reason: JournalError) -> None:
        self._reason = reason
        self._usable = False
        self._wake_gaps()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._refusal())

    def _wake_gaps(self) -> None:
        moved, self._gaps_moved = self._gaps_moved, asyncio.Event()
        moved.set()

    def _refusal(self) -> JournalError:
        # A new one each time: an exception keeps the traceback of everyone it was raised to.
        return JournalError(*self._reason.args)
