"""The journal's writer thread: takes every queued append into one transaction, and tells the event loop once.

There is no timer that waits for more: while one commit waits for the disk, the next group gathers.
"""

import contextlib
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import apsw
import structlog

from gateway import metrics
from gateway.errors import JournalError
from gateway.journal.ledger import Ledger
from gateway.journal.prune import prune_chunk
from gateway.journal.records import Batch, Record
from gateway.journal.schema import io_failure
from gateway.journal.store import Row, Store

log = structlog.get_logger()

GROUP_EVENTS = 512  # one transaction takes no further batch beyond this many events
RETRY_SECONDS = 0.5  # between looks for room while the journal or the disk is full
EARLY_PRUNE_NOTICE_SECONDS = 3600.0
SLOW_COMMIT_SECONDS = 0.5  # a disk that takes so long is worth a line in the log
CHECKPOINT_PAGES = 1000  # moved into the database when nothing else is to do
CHECKPOINT_PAGES_BUSY = 4000  # moved although appends wait
CHECKPOINT_PAGES_TRUNCATE = 16000  # a reader has kept the WAL from starting over: wait for it
ROOM_CHECK_BYTES = 1 << 20  # appended between two looks at the size


@dataclass(slots=True, eq=False)
class Append:
    """One batch on its way to the disk. `done` belongs to the event loop and is settled there."""

    batch: Batch
    rows: Sequence[Row]
    done: Any
    queued_at: float


@dataclass(slots=True, eq=False)
class Task:
    """Other work for the writing connection, in a transaction of its own. `done` may be None."""

    work: Callable[[Store], Any]
    done: Any = None


@dataclass(slots=True, eq=False)
class Ping:
    """Asks for a sign of life, which a full disk must not hold up."""

    done: Any


class Stop:
    """Asks the thread to write what is queued and end."""


Job = Append | Task | Ping | Stop


@dataclass(slots=True)
class Commit:
    """What became durable together."""

    records: list[Record] = field(default_factory=list)
    settled: list[tuple[Any, Any]] = field(default_factory=list)
    open_gaps: Mapping[str, int] | None = None  # of each account; None while they are as before
    first_seq: int = 0
    last_seq: int = 0
    appended_ns: int = 0  # since 1970: when its first batch came, and when it was durable
    durable_ns: int = 0


class Listener(Protocol):
    """The event loop's side; both are called on the writer thread."""

    def committed(self, commit: Commit) -> None: ...

    def ended(self, failure: JournalError | None, left: Sequence[Job]) -> None:
        """The thread has ended; `left` was not written."""


class Writer:
    """Owns the writing connection from `start` until the listener hears that it ended."""

    def __init__(self, store: Store, listener: Listener, *, max_bytes: int, sinks: Sequence[str]) -> None:
        self._store = store
        self._listener = listener
        self._max_bytes = max_bytes
        self._sinks = sinks
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._appends: deque[Append] = deque()
        self._tasks: deque[Task] = deque()
        self._stopping = False
        self._paused_at: float | None = None
        self._retry_at = 0.0
        self._room_check_bytes = min(ROOM_CHECK_BYTES, max_bytes // 64)
        self._unchecked_bytes = self._room_check_bytes
        self._early_prune_notice_at = 0.0
        self._checkpoint_at = CHECKPOINT_PAGES
        self._thread = threading.Thread(target=self._main, name="journal-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    @property
    def full(self) -> bool:
        """Whether appends wait for room in the journal or on its disk."""
        return self._paused_at is not None

    def drain(self) -> list[Job]:
        """What was submitted after the thread had ended."""
        jobs: list[Job] = []
        while not self._queue.empty():
            jobs.append(self._queue.get_nowait())
        return jobs

    def _main(self) -> None:
        failure: JournalError | None = JournalError(
            "the journal's writer thread ended unexpectedly; the traceback is in the log. Please report it"
        )
        try:
            self._run()
            failure = None
        except (apsw.Error, OSError) as error:
            failure = io_failure(self._store.path, error)
        finally:
            with contextlib.suppress(apsw.Error):  # all that is committed is in the WAL
                self._store.close()
            self._listener.ended(failure, [*self._tasks, *self._appends])

    def _run(self) -> None:
        while True:
            self._collect()
            try:
                worked = self._run_tasks()
                if self._appends and (worked or time.monotonic() >= self._retry_at):
                    self._append_group()
                self._checkpoint_if_due()
            except apsw.Error as error:
                if not self._store.is_disk_full(error):
                    raise
                self._store.rollback()
                self._pause(f"the disk is full: {error}")
            if self._stopping and (self._paused_at is not None or not (self._tasks or self._appends)):
                return

    def _collect(self) -> None:
        """Takes all that is queued; waits for something when there is nothing to do."""
        timeout: float | None = None
        if self._tasks or self._appends:
            timeout = max(0.0, self._retry_at - time.monotonic())
        try:
            job = self._queue.get(timeout != 0.0, timeout)
            while True:
                if isinstance(job, Append):
                    self._appends.append(job)
                elif isinstance(job, Task):
                    self._tasks.append(job)
                elif isinstance(job, Ping):
                    self._publish(Commit(settled=[(job.done, None)]))
                else:
                    self._stopping = True
                job = self._queue.get_nowait()
        except queue.Empty:
            return

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Commit]:
        """What happens inside is durable at the end, and then for the caller to publish."""
        self._store.begin()
        yield Commit()
        self._store.commit()

    def _publish(self, commit: Commit) -> None:
        commit.first_seq, commit.last_seq = self._store.first_seq, self._store.last_seq
        ledger = self._store.ledger
        if ledger.changed:
            ledger.changed = False
            _log_gaps(ledger)
            commit.open_gaps = ledger.open_gaps()
            for account, gaps in commit.open_gaps.items():
                metrics.OPEN_GAPS.labels(account).set(gaps)
        self._listener.committed(commit)

    def _run_tasks(self) -> bool:
        worked = False
        while self._tasks:
            task = self._tasks[0]
            with self._transaction() as commit:
                commit.settled.append((task.done, task.work(self._store)))
            self._tasks.popleft()
            self._publish(commit)
            worked = True
        return worked

    def _append_group(self) -> None:
        if not self._has_room():
            return
        group: list[Append] = []
        events = 0
        for append in self._appends:
            if group and events + len(append.rows) > GROUP_EVENTS:
                break
            group.append(append)
            events += len(append.rows)
        with self._transaction() as commit:
            self._write(group, commit)
        for _ in group:
            self._appends.popleft()
        seconds = time.perf_counter() - group[0].queued_at
        commit.durable_ns = time.time_ns()
        commit.appended_ns = commit.durable_ns - int(seconds * 1e9)
        metrics.JOURNAL_COMMIT_SECONDS.observe(seconds)
        log.debug("journal_committed", events=len(commit.records), seconds=round(seconds, 6))
        if seconds >= SLOW_COMMIT_SECONDS:
            log.warning("journal_commit_slow", events=len(commit.records), seconds=round(seconds, 3))
        if events > len(commit.records):
            metrics.EVENTS_DEDUPLICATED.inc(events - len(commit.records))
        for kind, count in Counter(record.event.kind for record in commit.records).items():
            metrics.EVENTS_JOURNALED.labels(kind).inc(count)
        metrics.JOURNAL_ROWS.set(self._store.last_seq - self._store.first_seq + 1)
        self._resume()
        self._publish(commit)

    def _write(self, group: Sequence[Append], commit: Commit) -> None:
        store = self._store
        rows: list[Row] = []
        for append in group:
            rows += self._wanted(append)
            store.ledger.apply(append.batch.account, append.rows, append.batch.ledger)
        seq = store.last_seq
        inserted = store.insert(rows)
        for row in inserted:
            seq += 1
            commit.records.append(_record(seq, row))
            self._unchecked_bytes += len(row.body)
        store.add_peers(row.event for row in rows)
        self._write_states(group)
        new = set(map(id, inserted)) if len(inserted) < len(rows) else None
        for append in group:
            count = len(append.rows) if new is None else sum(id(row) in new for row in append.rows)
            commit.settled.append((append.done, count))

    def _wanted(self, append: Append) -> Sequence[Row]:
        """The batch's rows, without fetched messages that arrived (or were deleted) in the meantime.

        Nor with the edits that tell how such a message looks now: those came, or come, by themselves.
        """
        account, chat = append.batch.account, append.batch.ledger.fetched
        if chat is None:
            return append.rows
        misses = self._store.ledger.misses
        fetched = {row.event.message_id for row in append.rows if row.event.kind == "message.new"}
        known = {message_id for message_id in fetched if not misses(account, chat, message_id)}
        append.rows = [
            row
            for row in append.rows
            if row.event.kind == "message.deleted" or row.event.message_id not in known
        ]
        return append.rows

    def _write_states(self, group: Sequence[Append]) -> None:
        # Only an account's last state stays: one write for it, however many batches are in the group.
        by_account: dict[str, list[Batch]] = {}
        for append in group:
            by_account.setdefault(append.batch.account, []).append(append.batch)
        for account, batches in by_account.items():
            state = None
            channels: dict[int, int] = {}
            hashes: dict[int, int] = {}
            for batch in batches:
                hashes.update(batch.access_hashes)
                if batch.state is not None:
                    state = batch.state
                    channels.update(state.channels)
            self._store.set_state(account, state, channels, hashes)

    def _has_room(self) -> bool:
        """Looks at the size now and then; makes room among delivered rows first, else pauses the intake."""
        if self._paused_at is None and self._unchecked_bytes < self._room_check_bytes:
            return True
        while self._store.live_bytes() >= self._max_bytes:
            with self._transaction() as commit:
                removed = prune_chunk(self._store, self._sinks, None)
            self._publish(commit)
            if not removed:
                self._pause("the journal is at its byte limit; not every sink has taken its oldest events")
                return False
            metrics.JOURNAL_PRUNED.inc(removed)
            self._note_early_prune()
        if self._store.live_bytes() + self._store.wal_bytes() >= self._max_bytes:
            self._store.checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._unchecked_bytes = 0
        return True

    def _note_early_prune(self) -> None:
        now = time.monotonic()
        if now >= self._early_prune_notice_at:
            self._early_prune_notice_at = now + EARLY_PRUNE_NOTICE_SECONDS
            log.warning("journal_pruned_before_retention", limit_bytes=self._max_bytes)

    def _pause(self, reason: str) -> None:
        now = time.monotonic()
        self._retry_at = now + RETRY_SECONDS
        if self._paused_at is None:
            self._paused_at = now
            metrics.JOURNAL_FULL.set(1)
            log.error("journal_full", reason=reason, path=str(self._store.path), limit_bytes=self._max_bytes)

    def _resume(self) -> None:
        self._retry_at = 0.0
        if self._paused_at is not None:
            log.info("journal_has_room", paused_seconds=round(time.monotonic() - self._paused_at, 3))
            self._paused_at = None
            metrics.JOURNAL_FULL.set(0)

    def _checkpoint_if_due(self) -> None:
        # Readers hold the WAL for one statement at most, so one of the next rounds gets all of it, and the
        # commit that follows starts the file over.
        pages = self._store.wal_pages
        if pages < CHECKPOINT_PAGES:
            self._checkpoint_at = CHECKPOINT_PAGES
        elif pages >= self._checkpoint_at and (pages >= CHECKPOINT_PAGES_BUSY or not self._appends):
            overdue = pages >= CHECKPOINT_PAGES_TRUNCATE
            self._store.checkpoint(
                apsw.SQLITE_CHECKPOINT_TRUNCATE if overdue else apsw.SQLITE_CHECKPOINT_PASSIVE
            )
            self._checkpoint_at = pages + CHECKPOINT_PAGES


def _log_gaps(ledger: Ledger) -> None:
    for gap in ledger.opened:
        log.info("gap_opened", **gap)
    for gap in ledger.closed:
        log.info("gap_closed", **gap)
    ledger.opened.clear()
    ledger.closed.clear()


def _record(seq: int, row: Row) -> Record:
    record = Record(seq, row.body)
    record.__dict__["event"] = row.event  # what the cached property would decode again
    return record
