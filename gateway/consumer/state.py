"""Where it is written down which events a consumer is done with.

The identity of an effect is the event's id. A new message has one row in `message_processing`, whose key is
the consumer and the message; an edit or a deletion is an effect of its own, with a row in
`revision_processing` under the event's id. So an edit is never taken for the message, nor one edit for
another.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gateway.consumer.database import Database, Transaction, answer_limit, sorted_failures
from gateway.consumer.hints import Hints
from gateway.errors import ConfigurationError, SinkUnavailable
from gateway.event import Event

Status = Literal["received", "retrying", "published", "failed", "ignored"]

MAX_REASON = 1000  # characters
BEGUN = "begun, and not ended"  # what stands in the record while a polled event is being handled

_FIND_MESSAGE = """
SELECT status, attempts, error FROM telegram_gateway.message_processing
WHERE (consumer, account_scope, channel_id, message_id) = ($1, $2, $3, $4)
"""
_CLAIM_MESSAGE = """
INSERT INTO telegram_gateway.message_processing (consumer, account_scope, channel_id, message_id, status)
VALUES ($1, $2, $3, $4, 'received') ON CONFLICT DO NOTHING
"""
_RECORD_MESSAGE = "SELECT telegram_gateway.record_processing($1, $2, $3, $4, $5, $6)"
_FIND_REVISION = """
SELECT status, attempts, error FROM telegram_gateway.revision_processing
WHERE (consumer, account_scope, channel_id, message_id, event_id) = ($1, $2, $3, $4, $5)
"""
_CLAIM_REVISION = """
INSERT INTO telegram_gateway.revision_processing
    (consumer, account_scope, channel_id, message_id, event_id, status)
VALUES ($1, $2, $3, $4, $5, 'received') ON CONFLICT DO NOTHING
"""
_RECORD_REVISION = "SELECT telegram_gateway.record_revision_processing($1, $2, $3, $4, $5, $6, $7)"
_LOCKED = " FOR UPDATE"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the consumer stands with one event."""

    status: Status | None = None
    attempts: int = 0
    error: str | None = None

    @property
    def failures(self) -> int:
        """How many attempts have failed since the event was last new to the consumer."""
        if self.status not in ("received", "retrying"):
            return 0
        return self.attempts + (self.error == BEGUN)

    @property
    def done(self) -> bool:
        """Whether the event has had its effect, or is to have none."""
        return self.status in ("published", "ignored")


class AlreadyDone(Exception):
    """Another process of this consumer was done with the event while this one was about to begin."""


class State(Protocol):
    """What the consumer knows of its events. Every method may raise SinkUnavailable."""

    async def find(self, event: Event) -> Standing:
        """What is on record."""
        ...

    async def record(self, event: Event, status: Status, reason: str | None = None) -> None:
        """Puts on record what became of the event. What is done stays done."""
        ...


class DatabaseState:
    """In PostgreSQL, which decides; what is done is marked in Redis as well, for whoever asks there first."""

    def __init__(self, database: Database, consumer: str, hints: Hints | None) -> None:
        self._database = database
        self._consumer = consumer
        self._hints = hints

    async def find(self, event: Event) -> Standing:
        """What is on record."""
        new, key = self._key(event)
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_FIND_MESSAGE if new else _FIND_REVISION, *key)
        return Standing() if row is None else Standing(**row)

    async def record(self, event: Event, status: Status, reason: str | None = None) -> None:
        """Writes the row, then the mark in Redis."""
        async with self._database.connection() as connection:
            await self._write(connection, event, status, reason)
        if self._hints is not None and status in ("published", "ignored", "failed"):
            await self._hints.remember(event)

    @asynccontextmanager
    async def transaction(self, event: Event) -> AsyncIterator[Transaction]:
        """A transaction in which the event's row is locked, and says that it is done if the block ends well.

        Whoever else is about to handle the same event waits for the end, and finds it done.
        Raises AlreadyDone when that has happened here.
        """
        new, key = self._key(event)
        async with self._database.transaction() as connection:
            with sorted_failures(), answer_limit(connection):
                await connection.execute(_CLAIM_MESSAGE if new else _CLAIM_REVISION, *key)
                found = (_FIND_MESSAGE if new else _FIND_REVISION) + _LOCKED
                row = await connection.fetchrow(found, *key)
            if row is not None and Standing(**row).done:
                raise AlreadyDone
            yield connection
            with sorted_failures(), answer_limit(connection):
                await self._write(connection, event, "published", None)
        if self._hints is not None:
            await self._hints.remember(event)

    async def _write(self, connection: Transaction, event: Event, status: Status, reason: str | None) -> None:
        new, key = self._key(event)
        # PostgreSQL's text cannot hold NUL, nor UTF-8 a lone surrogate; a reason may quote a message.
        safe = reason and reason.replace("\0", "").encode(errors="replace").decode()[:MAX_REASON]
        await connection.execute(_RECORD_MESSAGE if new else _RECORD_REVISION, *key, status, safe)

    def _key(self, event: Event) -> tuple[bool, tuple[Any, ...]]:
        message = (self._consumer, event.account_scope, event.channel_id, event.message_id)
        return (True, message) if event.kind == "message.new" else (False, (*message, event.id))


class HintState:
    """In Redis alone: for as long as a mark lasts, and while Redis is there and remembers."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    async def find(self, event: Event) -> Standing:
        """Done, if the mark says so; new, if Redis is away."""
        try:
            (seen,) = await self._hints.seen([event])
        except SinkUnavailable:
            seen = False
        return Standing("published") if seen else Standing()

    async def record(self, event: Event, status: Status, reason: str | None = None) -> None:
        """Marks what is done."""
        if status in ("published", "ignored"):
            await self._hints.remember(event)


class NoState:
    """Nothing is remembered: what comes again is handled again."""

    async def find(self, event: Event) -> Standing:
        """Nothing is known."""
        return Standing()

    async def record(self, event: Event, status: Status, reason: str | None = None) -> None:
        """Nothing is kept."""


def transactional(state: State) -> DatabaseState:
    """The state in which an effect can be recorded together with itself. Raises ConfigurationError."""
    if not isinstance(state, DatabaseState):
        raise ConfigurationError("only a consumer that keeps its state in the database can use transactions")
    return state
