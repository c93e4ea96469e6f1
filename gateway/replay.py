"""Delivers events to one sink once more: from the journal, and from the database what the journal has pruned.

Stands beside the daemon, with a connection of its own to the sink, and moves no cursor. Each event comes
from exactly one of the two: what was received before a certain moment from the database, the rest from the
journal.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gateway.database import connect, read_events
from gateway.errors import ConfigurationError, GatewayError, RecordsRefused, SinkUnavailable
from gateway.event import encode, utc_now
from gateway.journal import JournalStats, Reader
from gateway.settings import Settings
from gateway.sinks.base import ReplayedRecord, Sink

# How far the journal's order and the times of receipt may differ: accounts share a journal, clocks are set.
DISORDER = timedelta(hours=1)
PAGE_RECORDS = 500
BATCH_EVENTS = 500
BATCH_BYTES = 4 << 20
PATIENCE_SECONDS = 60.0  # with a sink that does not answer
RETRY_SECONDS = 1.0
_DATABASE = "timescaledb"


@dataclass(frozen=True, slots=True)
class Span:
    """What was received from `since` up to, not including, `until`; of `chats` (channel ids) or of all."""

    since: datetime
    until: datetime
    chats: Sequence[str] | None = None

    def holds(self, received_at: datetime, channel_id: str) -> bool:
        return self.since <= received_at < self.until and (self.chats is None or channel_id in self.chats)


@dataclass(slots=True)
class Tally:
    """How far a replay has come. `at` is when the last delivered event was received."""

    delivered: int = 0
    at: datetime | None = None
    refused: dict[str, str] = field(default_factory=dict)  # event id -> why


async def replay(
    records: AsyncIterator[ReplayedRecord], sink: Sink | None, tally: Tally, moved: Callable[[], None]
) -> None:
    """Delivers `records` in batches, counting in `tally`; without a sink it only counts.

    `moved` is called after each batch. Raises GatewayError when the sink stays away for a minute.
    """
    try:
        async for batch in _batches(records):
            refused = await _deliver(sink, batch) if sink is not None else {}
            tally.delivered += len(batch) - len(refused)
            tally.at = batch[-1].event.received_at
            tally.refused |= {r.event.id: refused[r.seq] for r in batch if r.seq in refused}
            moved()
    finally:
        if sink is not None:
            await sink.close()


async def records_of(
    settings: Settings, reader: Reader, sink: str, span: Span
) -> AsyncGenerator[ReplayedRecord, None]:
    """The events of `span` in order of arrival.

    Raises ConfigurationError when it begins before all that can be replayed to `sink`, and GatewayError when
    the database cannot be read, or is behind the journal.
    """
    last = reader.last_seq()
    at = span.since
    async with AsyncExitStack() as stack:
        connection = None
        number = 0
        # The daemon may prune on meanwhile; what it does is in the database by then.
        while at < (edge := min(span.until, _complete_from(reader.stored_stats()))):
            if connection is None:
                _require_database(settings, sink, edge)
                connection = await connect(
                    settings.db_dsn.get_secret_value(),
                    settings.db_password.get_secret_value() if settings.db_password else None,
                )
                stack.callback(connection.terminate)
            _require_caught_up(reader, edge)
            async for event in read_events(connection, at, edge, span.chats):
                number -= 1
                yield ReplayedRecord(number, encode(event))
            at = edge
    for record in _from_journal(reader, Span(at, span.until, span.chats), last):
        yield record


def _complete_from(stats: JournalStats) -> datetime:
    """The journal holds all that this gateway received from this moment on."""
    if stats.oldest_received is None:
        return utc_now()
    return stats.oldest_received + (DISORDER if stats.first_seq > 1 else timedelta())


def _require_database(settings: Settings, sink: str, edge: datetime) -> None:
    begin = f"the journal reaches back to {edge:%F %T %Z}"
    if sink == _DATABASE:
        raise ConfigurationError(
            f"{begin}, and what came before is nowhere else; choose --since that or later"
        )
    if not settings.enable_db:
        raise ConfigurationError(
            f"{begin}, and TELEGRAM_ENABLE_DB is off; switch it on to replay what came before from the "
            "database, or choose --since that or later"
        )


def _require_caught_up(reader: Reader, edge: datetime) -> None:
    stats = reader.stored_stats()
    if stats.first_seq == 1 or _DATABASE not in stats.sinks:
        return
    waiting = stats.sinks[_DATABASE].oldest_undelivered
    if waiting is not None and waiting < edge + DISORDER:
        raise GatewayError(
            f"the database still waits for events of {waiting:%F %T %Z}, so it cannot replay them; let it "
            "catch up (telegram-gateway status), then run this again"
        )


def _from_journal(reader: Reader, span: Span, last: int) -> Iterator[ReplayedRecord]:
    after = _first_received(reader, span.since - DISORDER, last) - 1
    while page := reader.read(after, last, PAGE_RECORDS):
        if page[0].seq != after + 1:
            raise GatewayError(
                "the journal was pruned while it was read, so the database has to give what is gone: "
                "run this again from where it stopped"
            )
        for record in page:
            event = record.event
            if event.received_at >= span.until + DISORDER:
                return
            if span.holds(event.received_at, event.channel_id):
                yield ReplayedRecord(record.seq, record.body)
        after = page[-1].seq


def _first_received(reader: Reader, since: datetime, last: int) -> int:
    """The number of the first record received since then, to within DISORDER; by halving."""
    low, high = reader.stored_stats().first_seq, last + 1
    while low < high:
        middle = (low + high) // 2
        found = reader.read(middle - 1, last, 1)
        if found and found[0].event.received_at < since:
            low = middle + 1
        else:
            high = middle
    return low


async def _batches(records: AsyncIterator[ReplayedRecord]) -> AsyncIterator[list[ReplayedRecord]]:
    batch: list[ReplayedRecord] = []
    size = 0
    async for record in records:
        if batch and (len(batch) == BATCH_EVENTS or size + len(record.body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.body)
    if batch:
        yield batch


async def _deliver(sink: Sink, batch: Sequence[ReplayedRecord]) -> dict[int, str]:
    """Returns why the sink refused which records; all others it has."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await sink.deliver(batch)
        except RecordsRefused as refusal:
            return refusal.reasons
        except SinkUnavailable as error:
            if time.monotonic() > deadline:
                raise GatewayError(f"sink {sink.name} does not take events: {error}") from error
            await asyncio.sleep(RETRY_SECONDS)
            await _reopen(sink)
        else:
            return {}


async def _reopen(sink: Sink) -> None:
    try:
        await sink.open()
    except SinkUnavailable:
        return  # deliver says so too, and counts the time
