"""Reads back, in the order of their arrival, the events that the database sink stored.

A page at a time and without a cursor, so that it works through a transaction pooler and in little memory.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from gateway.database.connection import CONNECTION_LOST, Connection
from gateway.errors import GatewayError
from gateway.event import Event, Sender

PAGE_EVENTS = 1000
# One query looks at this much of the time of arrival: compressed rows have no index to stop a query early.
SHORTEST_WINDOW = timedelta(minutes=1)
FIRST_WINDOW = timedelta(hours=1)
LONGEST_WINDOW = timedelta(days=7)

_PAGE = """
SELECT * FROM telegram_gateway.event_log
WHERE received_at >= $1 AND received_at < $2
  AND (received_at, stage, place, event_id) > ($1, $3, $4, $5)
  AND ($6::text[] IS NULL OR channel_id = ANY ($6))
ORDER BY received_at, stage, place, event_id
LIMIT $7
"""
_NAMED = "SELECT DISTINCT id FROM telegram_gateway.channels WHERE lower(username) = lower($1)"

_JSON = ("reply_to", "forward", "entities", "media", "metadata")
_NOT_EVENTS = ("stage", "place", "event_id", "sender_id", "sender_name", "sender_username")


async def read_events(
    connection: Connection, since: datetime, until: datetime, chats: Sequence[str] | None = None
) -> AsyncIterator[Event]:
    """The events received from `since` up to, not including, `until`; of `chats` (channel ids) or of all.

    They equal the ones that were delivered; only the order of keys inside nested objects may differ in JSON.
    Raises GatewayError when the database fails.
    """
    try:
        start, window = since, FIRST_WINDOW
        while start < until:
            end = min(until, start + window)
            key: tuple[Any, ...] = (start, -1, 0, "")
            while True:
                moment, stage, place, event_id = key
                rows = await connection.fetch(
                    _PAGE, moment, end, stage, place, event_id, chats and list(chats), PAGE_EVENTS
                )
                for row in rows:
                    yield _event(row)
                if len(rows) < PAGE_EVENTS:
                    break
                key = tuple(rows[-1][name] for name in ("received_at", "stage", "place", "event_id"))
                window = max(SHORTEST_WINDOW, window / 2)
            if len(rows) < PAGE_EVENTS // 4:
                window = min(LONGEST_WINDOW, window * 2)
            start = end
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        raise GatewayError(f"the database could not be read: {error}") from error


async def chats_named(connection: Connection, username: str) -> Sequence[str]:
    """The channel ids of the chats that have, or last had, this name. Raises GatewayError as above."""
    try:
        return [row[0] for row in await connection.fetch(_NAMED, username.removeprefix("@"))]
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        raise GatewayError(f"the database could not be read: {error}") from error


def _event(row: asyncpg.Record) -> Event:
    fields: dict[str, Any] = dict(row)
    sender = None
    if fields["sender_id"] is not None:
        sender = Sender(id=row["sender_id"], name=row["sender_name"], username=row["sender_username"])
    for name in _JSON:
        if fields[name] is not None:
            fields[name] = msgspec.json.decode(fields[name])
    for name in _NOT_EVENTS:
        del fields[name]
    return Event(id=row["event_id"], sender=sender, **fields)
