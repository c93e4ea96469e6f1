"""Carries journal records to one sink: cursor, batches, retries, quarantine, health, metrics.

One runner per sink, each on its own: a sink that is down is retried for ever and holds up nobody else. The
cursor moves only after `deliver` has returned, so a crash repeats records and never skips one.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from gateway.errors import NeedsOperator, RecordsRefused, SinkUnavailable
from gateway.journal import Journal, Record
from gateway.metrics import (
    SINK_BATCH_EVENTS,
    SINK_BATCH_SECONDS,
    SINK_DELIVERED,
    SINK_END_TO_END_SECONDS,
    SINK_ERRORS,
    SINK_LAG_EVENTS,
    SINK_OLDEST_UNDELIVERED,
    SINK_QUARANTINED,
    SINK_UP,
)
from gateway.sinks.base import Obstructable, ReplayedRecord, Sink

if TYPE_CHECKING:
    from gateway.spans import Tracing

log = structlog.get_logger()

FIRST_DELAY = 0.1  # seconds before the first retry; doubles from there
LONGEST_DELAY = 2.0  # seconds; how late a server's return, or a new Redis master, is noticed
STALLED_AFTER = 10.0  # seconds without an acknowledgement after which a sink counts as down
IDLE_CHECK = 5.0  # seconds without a record after which the server is asked whether it still answers


@dataclass(frozen=True, slots=True)
class SinkHealth:
    """Where a sink stands. `reason` says why it is not up; `attempt` counts failures in a row."""

    name: str
    up: bool
    reason: str | None
    attempt: int
    cursor: int
    lag_events: int
    oldest_undelivered: datetime | None


class SinkRunner:
    """Delivers the journal to `sink`, at most `batch_events` records and `batch_bytes` of bodies at once.

    A batch starts at the earliest `linger_seconds` after the one before it: a lone record goes at once, and
    under load records gather into batches that cost less each.
    """

    def __init__(
        self,
        sink: Sink,
        journal: Journal,
        *,
        batch_events: int = 500,
        batch_bytes: int = 4 << 20,
        linger_seconds: float = 0.0,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.name = sink.name
        self._sink = sink
        self._obstructable = sink if isinstance(sink, Obstructable) else None
        self._journal = journal
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._linger = linger_seconds
        self._tracing = tracing
        self._up = False
        self._reason: str | None = "not connected yet"
        self._attempt = 0
        self._down_since: float | None = None
        self._oldest: datetime | None = None
        self._last_batch_at = 0.0
        self._delivering_since: float | None = None
        self._advanced = asyncio.Event()
        self._asked: deque[tuple[ReplayedRecord, asyncio.Future[None]]] = deque()
        self._idle: asyncio.Timeout | None = None
        self._delivered = SINK_DELIVERED.labels(self.name)
        self._batch_seconds = SINK_BATCH_SECONDS.labels(self.name)
        self._batch_size = SINK_BATCH_EVENTS.labels(self.name)
        self._end_to_end = SINK_END_TO_END_SECONDS.labels(self.name)
        self._oldest_gauge = SINK_OLDEST_UNDELIVERED.labels(self.name)
        self._quarantined = SINK_QUARANTINED.labels(self.name)
        SINK_UP.labels(self.name).set_function(lambda: float(self.health.up))
        SINK_LAG_EVENTS.labels(self.name).set_function(lambda: float(self.health.lag_events))

    @property
    def health(self) -> SinkHealth:
        obstacle = None if self._obstructable is None else self._obstructable.obstacle
        if obstacle is None and self._delivering_since is not None:
            waited = time.monotonic() - self._delivering_since
            if waited > STALLED_AFTER:
                obstacle = f"no acknowledgement for {waited:.0f} s"
        cursor = self._journal.cursor(self.name)
        return SinkHealth(
            name=self.name,
            up=self._up and obstacle is None,
            reason=obstacle or self._reason,
            attempt=self._attempt,
            cursor=cursor,
            lag_events=max(0, self._journal.last_seq - cursor),
            oldest_undelivered=self._oldest,
        )

    async def run(self) -> None:
        """Delivers until cancelled. An error that is no sink's ordinary failure comes out of here."""
        try:
            while True:
                try:
                    await self._sink.open()
                    if not self._behind:
                        self._note_up()
                    await self._deliver_for_ever()
                except (SinkUnavailable, NeedsOperator) as error:
                    delay = self._note_failure(error)
                    self._refuse_asked(str(error))
                    await self._sink.close()
                    await self._look_for_oldest()
                    await asyncio.sleep(delay)
        finally:
            self._refuse_asked("the gateway is stopping")
            await self._sink.close()

    async def redeliver(self, record: ReplayedRecord) -> None:
        """Delivers one record between two batches; the cursor stays where it is.

        Raises RecordsRefused when the sink refuses it, SinkUnavailable when the sink is down or fails.
        """
        if not self._up:
            raise SinkUnavailable(self._reason or "it is connecting")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append((record, done))
        if self._idle is not None and not self._idle.expired():
            self._idle.reschedule(0)  # so that a quiet sink does it now
        await done

    async def wait_caught_up(self, seq: int) -> None:
        """Returns once every record up to `seq` is delivered (or quarantined); the caller bounds the time."""
        while self._journal.cursor(self.name) < seq:
            await self._advanced.wait()

    @property
    def _behind(self) -> bool:
        return self._journal.last_seq > self._journal.cursor(self.name)

    async def _deliver_for_ever(self) -> None:
        while True:
            while self._asked:
                await self._deliver_asked()
            records = await self._next_batch()
            started = time.monotonic()
            self._last_batch_at = started
            if records:
                self._set_oldest(records[0].event.received_at)
            refused: Mapping[int, str] = {}
            self._delivering_since = started
            try:
                await self._sink.deliver(records)
            except RecordsRefused as refusal:
                refused = refusal.reasons
                await self._quarantine(records, refused)
            except SinkUnavailable as error:
                if self._tracing is not None:
                    self._tracing.failed(self.name, records, *_since(started), str(error))
                raise
            finally:
                self._delivering_since = None
            if not self._up:
                self._note_up()
            if records:
                await self._journal.advance(self.name, records[-1].seq)
                self._note_delivered(records, len(refused), time.monotonic() - started)
                if self._tracing is not None:
                    self._tracing.delivered(self.name, records, *_since(started), refused)

    async def _deliver_asked(self) -> None:
        record, done = self._asked[0]  # stays there until it is settled, should this fail or be cancelled
        failure: RecordsRefused | None = None
        try:
            await self._sink.deliver((record,))
        except RecordsRefused as refusal:
            failure = refusal
        self._asked.popleft()
        if failure is None:
            self._delivered.inc()
        if not done.done():  # whoever asked may have gone
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

    def _refuse_asked(self, reason: str) -> None:
        while self._asked:
            _, done = self._asked.popleft()
            if not done.done():
                done.set_exception(SinkUnavailable(reason))

    async def _next_batch(self) -> Sequence[Record]:
        """The records after the cursor, as many as a batch holds; none after a quiet IDLE_CHECK."""
        after = self._journal.cursor(self.name)
        if not self._behind:
            try:
                async with asyncio.timeout(IDLE_CHECK) as self._idle:
                    await self._journal.wait_beyond(after)
            except TimeoutError:
                return ()
            finally:
                self._idle = None
        pause = self._last_batch_at + self._linger - time.monotonic()
        if pause > 0 and self._journal.last_seq - after < self._batch_events:
            await asyncio.sleep(pause)
        records = await self._journal.read(after, self._batch_events)
        size = 0
        for count, record in enumerate(records):
            size += len(record.body)
            if size > self._batch_bytes and count:
                return records[:count]
        return records

    async def _quarantine(self, records: Sequence[Record], reasons: Mapping[int, str]) -> None:
        for record in records:
            reason = reasons.get(record.seq)
            if reason is not None:
                await self._journal.quarantine(self.name, record.seq, reason)
                self._quarantined.inc()
                log.error(
                    "sink_record_quarantined",
                    sink=self.name,
                    seq=record.seq,
                    event_id=record.event.id,
                    reason=reason,
                )

    def _note_delivered(self, records: Sequence[Record], refused: int, seconds: float) -> None:
        self._delivered.inc(len(records) - refused)
        self._batch_size.observe(len(records))
        self._batch_seconds.observe(seconds)
        now = time.time()
        observe = self._end_to_end.observe
        for record in records:
            observe(now - record.event.received_at.timestamp())
        if not self._behind:
            self._set_oldest(None)
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()

    def _note_up(self) -> None:
        down = None if self._down_since is None else round(time.monotonic() - self._down_since, 1)
        self._up, self._reason, self._attempt, self._down_since = True, None, 0, None
        log.info("sink_up", sink=self.name, seconds_down=down)

    def _note_failure(self, error: SinkUnavailable | NeedsOperator) -> float:
        """Counts and logs the failure; returns how long to wait before the next attempt."""
        self._attempt += 1
        self._reason = str(error)
        SINK_ERRORS.labels(self.name, type(error).__name__).inc()
        if self._down_since is None:
            self._up = False
            self._down_since = time.monotonic()
            log.error("sink_down", sink=self.name, reason=self._reason)
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._attempt - 1, 16)) * random.uniform(0.5, 1)
        log.info(
            "sink_retry",
            sink=self.name,
            attempt=self._attempt,
            delay_seconds=round(delay, 2),
            reason=self._reason,
        )
        return delay

    async def _look_for_oldest(self) -> None:
        if self._behind:
            records = await self._journal.read(self._journal.cursor(self.name), 1)
            self._set_oldest(records[0].event.received_at if records else None)

    def _set_oldest(self, received: datetime | None) -> None:
        self._oldest = received
        self._oldest_gauge.set(received.timestamp() if received is not None else 0)


def _since(started: float) -> tuple[int, int]:
    """A moment of the monotonic clock and now, in nanoseconds since 1970."""
    now = time.time_ns()
    return now - int((time.monotonic() - started) * 1e9), now
