"""Where each consumer stands: what it has still to do, and what became of what it did.

New messages are followed in the order in which they were stored, not by their dates: a backfill stores old
messages now. Each consumer has a mark in that order, for each chat it asks about or for all of them, up to
which everything was dealt with; `sql/0014_reading.up.sql` says how it moves. So a question costs the same
however much is stored and however much was processed.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.read.errors import answering
from gateway.read.records import (
    ChatRef,
    Database,
    Marked,
    MessageRef,
    Outcome,
    Processing,
    StoredMessage,
    UnprocessedPage,
    event_of,
)
from gateway.read.statement import Statement

STEPS = 2000  # messages a mark moves over in one transaction
LAG = 2000  # arrivals between the mark and the first unprocessed message, before the mark is moved at once
ADVANCE_SECONDS = 5.0  # how long it is not moved otherwise
LONGEST_ADVANCE = 1.0  # seconds; the next question goes on from there
REMEMBERED = 10_000  # marks
EMPTY_PAGES = 20  # of messages that are hidden or gone, before the caller has to ask again
_ALL = ChatRef("")
_NEVER = datetime.min.replace(tzinfo=UTC)

_PARTS = {
    "key": """
        a.arrival, a.account_scope, a.channel_id, a.message_id, a.telegram_date,
        p.status, p.attempts, p.error, p.at
    """,
    # What was begun and not finished before the marks, and where those are; an empty chat stands for all.
    "begun": """
        WITH start AS (SELECT telegram_gateway.arrival_since($since::timestamptz) AS arrival),
        lane AS MATERIALIZED (
            SELECT l.account_scope, l.channel_id, coalesce(
                (SELECT m.arrival FROM telegram_gateway.consumer_marks m
                 WHERE (m.consumer, m.account_scope, m.channel_id)
                     = ($consumer::text, l.account_scope, l.channel_id)
                   AND m.since <= coalesce($since, '-infinity')),
                (SELECT arrival FROM start)
            ) AS mark
            FROM unnest($scopes::bigint[], $chats::text[]) l (account_scope, channel_id)
        ),
        begun AS (
            SELECT {key}
            FROM telegram_gateway.message_processing p
            JOIN telegram_gateway.message_arrivals a USING (account_scope, channel_id, message_id)
            JOIN lane ON lane.channel_id = ''
                OR (lane.channel_id, lane.account_scope) = (p.channel_id, p.account_scope)
            WHERE p.consumer = $consumer AND p.status IN ('received', 'retrying') AND p.arrival IS NOT NULL
              AND p.arrival > $after::bigint AND p.arrival <= lane.mark AND p.arrival = a.arrival
              AND a.telegram_date >= coalesce($since, '-infinity')
            ORDER BY p.arrival LIMIT $limit::integer
        )
    """,
    "state": """
        LEFT JOIN LATERAL (
            SELECT p.status, p.attempts, p.error, p.at
            FROM telegram_gateway.message_processing p
            WHERE (p.consumer, p.account_scope, p.channel_id, p.message_id)
                = ($consumer, a.account_scope, a.channel_id, a.message_id)
            LIMIT 1
        ) p ON true
    """,
    "open": """
        a.telegram_date >= coalesce($since, '-infinity') AND ($until::bigint IS NULL OR a.arrival <= $until)
        AND (p.status IS NULL OR p.status IN ('received', 'retrying'))
    """,
    "page": """
        SELECT k.arrival, k.status AS processing_status, k.attempts, k.error, k.at,
            (SELECT min(mark) FROM lane) AS mark, m.*
        FROM (SELECT * FROM begun UNION ALL SELECT * FROM fresh ORDER BY arrival LIMIT $limit) k
        LEFT JOIN LATERAL (
            SELECT * FROM telegram_gateway.messages_newest m
            WHERE (m.account_scope, m.channel_id, m.message_id, m.telegram_date)
                = (k.account_scope, k.channel_id, k.message_id, k.telegram_date)
            LIMIT 1
        ) m ON true
        ORDER BY k.arrival
    """,
}
_UNPROCESSED_OF_ALL = Statement(
    """
    {begun},
    fresh AS (
        SELECT {key} FROM telegram_gateway.message_arrivals a {state}
        WHERE a.arrival > greatest((SELECT mark FROM lane), $after) AND {open}
        ORDER BY a.arrival LIMIT $limit
    )
    {page}
    """,
    _PARTS,
)
_UNPROCESSED_OF_CHATS = Statement(
    """
    {begun},
    fresh AS (
        SELECT f.*
        FROM lane
        CROSS JOIN LATERAL (
            SELECT {key} FROM telegram_gateway.message_arrivals a {state}
            WHERE (a.channel_id, a.account_scope) = (lane.channel_id, lane.account_scope)
              AND a.arrival > greatest(lane.mark, $after) AND {open}
            ORDER BY a.arrival LIMIT $limit
        ) f
    )
    {page}
    """,
    _PARTS,
)
_ADVANCE = """
SELECT coalesce(bool_or(telegram_gateway.advance_mark($1, l.account_scope, l.channel_id, $4, $5)), false)
FROM unnest($2::bigint[], $3::text[]) l (account_scope, channel_id)
"""
_LEAST_MARK = """
SELECT min(m.arrival) FROM telegram_gateway.consumer_marks m
WHERE m.consumer = $1
  AND (m.account_scope, m.channel_id) IN (SELECT * FROM unnest($2::bigint[], $3::text[]))
"""
_MARK = "SELECT * FROM telegram_gateway.mark_processed($1, $2, $3, $4, $5, $6)"
# Hops from name to name in the index: there are few consumers and millions of rows.
_REPROCESS = """
WITH RECURSIVE consumer AS (
    (SELECT consumer FROM telegram_gateway.message_processing ORDER BY consumer LIMIT 1)
    UNION ALL
    SELECT (SELECT p.consumer FROM telegram_gateway.message_processing p
            WHERE p.consumer > c.consumer ORDER BY p.consumer LIMIT 1)
    FROM consumer c WHERE c.consumer IS NOT NULL
)
UPDATE telegram_gateway.message_processing p
SET status = 'received', attempts = 0, error = NULL, at = now(), arrival = NULL
FROM (SELECT $4::text AS name WHERE $4 IS NOT NULL UNION ALL SELECT consumer FROM consumer WHERE $4 IS NULL) c
WHERE (p.consumer, p.account_scope, p.channel_id, p.message_id) = (c.name, $1, $2, $3)
RETURNING p.consumer
"""


class ProcessingState:
    """Consumers' state, in the database. No consumer sees another's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._moved: dict[tuple[str, ChatRef], tuple[datetime, float]] = {}

    async def unprocessed(
        self,
        consumer: str,
        chats: Sequence[ChatRef] | None = None,
        *,
        since: datetime | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> UnprocessedPage:
        """What `consumer` has neither published, ignored nor failed, in the order in which it was stored.

        Of `chats`, or of all; of messages dated `since` then. A consumer that never noted anything gets all
        of it, oldest arrivals first. `after` is a page's `next`. Messages deleted on Telegram are among them,
        and say so; hidden ones are not. Whoever processed millions before asking for the first time gets
        pages that may be empty, until the mark has come that far. Raises SinkUnavailable.
        """
        lanes = sorted(set(chats)) if chats is not None else [_ALL]
        if not lanes:
            return UnprocessedPage([], None)
        statement = _UNPROCESSED_OF_CHATS if chats is not None else _UNPROCESSED_OF_ALL
        values: dict[str, Any] = {
            "consumer": consumer,
            "scopes": [lane.scope for lane in lanes],
            "chats": [lane.channel_id for lane in lanes],
            "since": since,
            "after": after or 0,
            "limit": limit + 1,
            "until": None,
        }
        with answering("PostgreSQL"):
            if not all(self._has_moved(consumer, lane, since) for lane in lanes):
                values["until"] = await self._advance(consumer, lanes, since)
            for _ in range(EMPTY_PAGES):
                rows = await self._database.fetch(statement.sql, *statement.arguments(values))
                if after is None and rows and rows[0]["arrival"] - rows[0]["mark"] > LAG:
                    await self._advance(consumer, lanes, since)
                more = len(rows) > limit
                found = [row for row in rows[:limit] if row["event_id"] is not None]
                if found or not more:
                    break
                values["after"] = rows[limit - 1]["arrival"]
        following = rows[limit - 1]["arrival"] if more else values["until"]
        return UnprocessedPage([_unprocessed(row, consumer) for row in found], following)

    async def mark_processed(self, consumer: str, outcomes: Sequence[Outcome]) -> list[Marked]:
        """Notes what became of messages, all in one step; returns what is noted now, in the same order.

        What is published or ignored stays so; what has failed can still be published. Saying a thing again
        changes nothing, but each `retrying` counts as an attempt. Raises SinkUnavailable.
        """
        if not outcomes:
            return []
        refs = [outcome.message for outcome in outcomes]
        with answering("PostgreSQL"):
            rows = await self._database.fetch(
                _MARK,
                consumer,
                [ref.scope for ref in refs],
                [ref.channel_id for ref in refs],
                [ref.message_id for ref in refs],
                [outcome.status for outcome in outcomes],
                [outcome.error for outcome in outcomes],
            )
        return [Marked(ref, *row) for ref, row in zip(refs, rows, strict=True)]

    async def reprocess(self, message: MessageRef, consumer: str | None = None) -> list[str]:
        """Makes a message unprocessed again for `consumer`, or for all who noted anything about it.

        Returns their names: none when it was not processed. Raises SinkUnavailable.
        """
        with answering("PostgreSQL"):
            rows = await self._database.fetch(
                _REPROCESS, message.scope, message.channel_id, message.message_id, consumer
            )
        return [row[0] for row in rows]

    def _has_moved(self, consumer: str, lane: ChatRef, since: datetime | None) -> bool:
        moved, at = self._moved.get((consumer, lane), (_NEVER, 0.0))
        return at > time.monotonic() - ADVANCE_SECONDS and moved <= (since or _NEVER)

    async def _advance(self, consumer: str, lanes: Sequence[ChatRef], since: datetime | None) -> int | None:
        """Moves marks on. Returns the arrival up to which to look when they have still far to go."""
        scopes, channels = [lane.scope for lane in lanes], [lane.channel_id for lane in lanes]
        started = time.monotonic()
        # Each a transaction of its own: what was walked over stays so, whatever happens to the next one.
        while await self._database.fetchval(_ADVANCE, consumer, scopes, channels, since, STEPS):
            if time.monotonic() - started > LONGEST_ADVANCE:
                least = await self._database.fetchval(_LEAST_MARK, consumer, scopes, channels)
                return int(least) + STEPS
        if len(self._moved) > REMEMBERED:
            self._moved.clear()
        for lane in lanes:
            self._moved[consumer, lane] = (since or _NEVER, time.monotonic())
        return None


def _unprocessed(row: Any, consumer: str) -> StoredMessage:
    processing = None
    if row["processing_status"] is not None:
        processing = Processing(consumer, row["processing_status"], row["attempts"], row["error"], row["at"])
    return StoredMessage(event_of(row), row["deleted_at"], processing, row["arrival"])
