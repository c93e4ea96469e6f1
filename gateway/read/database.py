"""Messages from the database: pages of any filter, single ones with their revisions, search, hiding.

Works through a transaction pooler: every question is one statement, without session state.
"""

import time
from typing import Any

import msgspec

from gateway.event import Event
from gateway.read import queries
from gateway.read.errors import answering
from gateway.read.highlight import highlight
from gateway.read.processing import ProcessingState
from gateway.read.records import (
    ChatRef,
    MessageFilter,
    MessageRef,
    Page,
    Position,
    Processing,
    StoredMessage,
    event_of,
)
from gateway.read.statement import Statement

WALK = 10_000  # messages that are looked at at once, for what many of them have
COMMON = 0.01  # of all messages: words that more of them say are found by walking
LONGEST_LOOK = 1.0  # seconds for a page, while what is found is hidden, deleted or edited away
REVISIONS = 1000
_RARE = ("received", "retrying", "failed")


class MessageReader(ProcessingState):
    """Reads messages, and keeps consumers' state. `database` is a connection or a pool."""

    async def messages(self, wanted: MessageFilter, after: Position | None = None, limit: int = 100) -> Page:
        """The messages that come after that position in the filter's order, which is by date.

        A page may hold fewer than `limit`, even none, and still name a next one. What comes in meanwhile does
        not move what follows. Raises SinkUnavailable.
        """
        if wanted.status is not None and wanted.consumer is None:
            raise ValueError("a status is one consumer's: name it")
        if wanted.chats is not None and (
            wanted.chat.key not in wanted.chats if wanted.chat is not None else not wanted.chats
        ):
            return Page([], None)
        found: list[tuple[Position, StoredMessage]] = []
        place: Position | None = after
        started = time.monotonic()
        with answering("PostgreSQL"):
            while True:
                rows, place = await self._look(wanted, place, limit + 1)
                found += [(_position(row), _stored(row, wanted)) for row in rows if _is_wanted(row, wanted)]
                if len(found) > limit:
                    place = found[limit - 1][0]
                    break
                if place is None or time.monotonic() - started > LONGEST_LOOK:
                    break
        return Page([message for _, message in found[:limit]], place)

    async def message(self, message: MessageRef, consumer: str | None = None) -> StoredMessage | None:
        """One message in its newest revision; None when it is not stored, or hidden.

        Raises SinkUnavailable.
        """
        with answering("PostgreSQL"):
            values = {**_named(message), "consumer": consumer}
            row = await self._row(queries.MESSAGE, values)
            if row is None:
                row = await self._row(queries.MESSAGE_FROM_EDITS, values)
        if row is None or row["event_id"] is None:
            return None
        return _stored(row, MessageFilter(consumer=consumer))

    async def revisions(self, message: MessageRef) -> list[Event]:
        """All that happened to a message, in the order of its arrival. Raises SinkUnavailable."""
        with answering("PostgreSQL"):
            rows = await self._rows(queries.REVISIONS, {**_named(message), "limit": REVISIONS})
        return [event_of(row) for row in rows]

    async def hide(self, message: MessageRef, by: str) -> bool:
        """Takes a message out of all that is read; False when there is none, or none in sight."""
        with answering("PostgreSQL"):
            return await self._row(queries.HIDE, {**_named(message), "by": by}) is not None

    async def restore(self, message: MessageRef) -> bool:
        """Brings a hidden message back; False when it was not hidden."""
        with answering("PostgreSQL"):
            return await self._row(queries.RESTORE, _named(message)) is not None

    async def hidden(self) -> frozenset[MessageRef]:
        """The messages that are hidden: few, for people hide them."""
        with answering("PostgreSQL"):
            return frozenset(MessageRef(*row) for row in await self._rows(queries.HIDDEN, {}))

    async def _look(
        self, wanted: MessageFilter, after: Position | None, limit: int
    ) -> tuple[list[Any], Position | None]:
        """The next rows, wanted or not, and from where to look on; None at the end."""
        order = wanted.newest_first
        values: dict[str, Any] = {
            "chat": wanted.chat.channel_id if wanted.chat is not None else None,
            "scope": wanted.chat.scope if wanted.chat is not None else None,
            "message": wanted.message_id,
            "since": wanted.since,
            "until": wanted.until,
            "source": wanted.source,
            "consumer": wanted.consumer,
            "status": wanted.status,
            "words": wanted.search,
            "limit": limit,
            "walk": WALK,
            "chats": None,
            "scopes": None,
            **dict(zip(("at_date", "at_chat", "at_scope", "at_message"), after or (None,) * 4, strict=True)),
        }
        if wanted.chat is None and wanted.chats is not None:
            chats = [ChatRef.parse(key) for key in wanted.chats]
            values |= {"chats": [chat.channel_id for chat in chats], "scopes": [chat.scope for chat in chats]}
        if wanted.search is not None:
            common = await self._share(wanted.search) > COMMON
            statement = (queries.SEARCH_COMMON if common else queries.SEARCH_RARE)[order]
        elif wanted.status is not None:
            statement = (queries.MESSAGES_NOTED if wanted.status in _RARE else queries.MESSAGES_DONE)[order]
        else:
            statement = (queries.MESSAGES if values["chats"] is None else queries.MESSAGES_OF_CHATS)[order]
        rows = await self._rows(statement, values)
        if len(rows) == limit:
            return rows, _position(rows[-1])
        if statement in (queries.MESSAGES_DONE[order], queries.SEARCH_COMMON[order]):
            last = await self._row(queries.LAST_WALKED[order], values)
            return rows, _position(last) if last is not None else None
        return rows, None

    async def _share(self, words: str) -> float:
        """Of all messages, how many are expected to say `words`."""
        explained = await self._database.fetchval(
            queries.SEARCH_ESTIMATE.sql, *queries.SEARCH_ESTIMATE.arguments({"words": words})
        )
        parts = msgspec.json.decode(explained)[0]["Plan"]["Plans"]
        rows = {part["CTE Name"]: float(part["Plan Rows"]) for part in parts if "CTE Name" in part}
        return rows["said"] / max(1.0, rows["every"])

    async def _rows(self, statement: Statement, values: dict[str, Any]) -> list[Any]:
        return await self._database.fetch(statement.sql, *statement.arguments(values))

    async def _row(self, statement: Statement, values: dict[str, Any]) -> Any:
        return await self._database.fetchrow(statement.sql, *statement.arguments(values))


def _named(message: MessageRef) -> dict[str, Any]:
    return {"chat": message.channel_id, "scope": message.scope, "message": message.message_id}


def _position(row: Any) -> Position:
    return Position(row["at_date"], row["at_chat"], row["at_scope"], row["at_message"])


def _is_wanted(row: Any, wanted: MessageFilter) -> bool:
    return (
        row["event_id"] is not None
        and (wanted.deleted or row["deleted_at"] is None)
        and (wanted.source is None or row["first_source"] == wanted.source)
        and (wanted.search is None or row["wanted"])
    )


def _stored(row: Any, wanted: MessageFilter) -> StoredMessage:
    event = event_of(row)
    processing = None
    if wanted.consumer is not None and row["processing_status"] is not None:
        processing = Processing(
            wanted.consumer, row["processing_status"], row["attempts"], row["error"], row["at"]
        )
    hits = highlight(event.content, row["headline"]) if wanted.search is not None else ()
    return StoredMessage(event, row["deleted_at"], processing, hits=hits)
