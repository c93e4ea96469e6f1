"""Our own database as the migration needs it: what it holds in the old stack's form, and rows taken in.

Messages stay append-only: what the old stack changed in place after its row came over becomes a revision.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any

import asyncpg

from gateway.database import connect_direct, load_migrations, require_schema
from gateway.database.connection import Connection
from gateway.migration.rows import BUCKETS, CONTENT, EXTRA, STATE, working_on
from gateway.migration.state import Plan
from gateway.settings import Settings

_CURRENT = f"""
WITH shaped AS (
    SELECT
        m.account_scope, m.channel_id, m.message_id, m.telegram_date, m.received_at, m.text, m.message_type,
        m.chat_title, m.stored_at,
        CASE WHEN 'thread_id' = ANY ($4::text[]) THEN m.thread_id END AS thread_id,
        CASE WHEN 'caption' = ANY ($4::text[]) THEN m.caption END AS caption,
        CASE WHEN 'media_type' = ANY ($4::text[]) THEN m.media_type END AS media_type,
        CASE WHEN 'media' = ANY ($4::text[]) THEN nullif(m.media, '{{}}') END AS media,
        CASE WHEN 'sender_id' = ANY ($4::text[]) THEN m.sender_id END AS sender_id,
        CASE WHEN 'sender_name' = ANY ($4::text[]) THEN m.sender_name END AS sender_name,
        CASE WHEN 'sender_username' = ANY ($4::text[]) THEN m.sender_username END AS sender_username,
        CASE WHEN 'metadata' = ANY ($4::text[]) THEN m.metadata - '{EXTRA}' ELSE '{{}}' END AS metadata,
        p.status,
        CASE WHEN 'attempts' = ANY ($4::text[]) THEN p.attempts END AS attempts,
        CASE WHEN 'error' = ANY ($4::text[]) THEN p.error END AS error,
        CASE WHEN 'deleted_at' = ANY ($4::text[]) THEN coalesce(h.hidden_at, m.deleted_at) END AS deleted_at
    FROM telegram_gateway.messages_current m
    LEFT JOIN telegram_gateway.message_processing p
        ON (p.consumer, p.account_scope, p.channel_id, p.message_id)
            = ($3, m.account_scope, m.channel_id, m.message_id)
    LEFT JOIN telegram_gateway.hidden_messages h
        ON (h.account_scope, h.channel_id, h.message_id) = (m.account_scope, m.channel_id, m.message_id)
    WHERE m.account_scope IN (0, $1::bigint) AND m.telegram_date >= $2::timestamptz
),
compared AS (
    SELECT *, {CONTENT} AS content, {STATE} AS state, (telegram_date AT TIME ZONE 'UTC')::date AS day
    FROM shaped
)
"""  # noqa: S608
_BUCKETS = f"{_CURRENT} {BUCKETS}"
# As documents in which every name that a release of the predecessor has for a field holds its value.
_ROWS_OF = f"""
{_CURRENT}
SELECT channel_id, message_id, jsonb_build_object(
    'channel_id', channel_id, 'message_id', message_id, 'thread_id', thread_id,
    'channel_title', chat_title, 'chat_title', chat_title, 'message_type', coalesce(message_type,
    'channel_post'),
    'source', 'telegram-gateway', 'text', text, 'caption', caption, 'media_type', media_type,
    'media', CASE WHEN media ? 'items' THEN media -> 'items' ELSE media END,
    'media_refs', CASE WHEN media ? 'items' THEN media -> 'items' ELSE coalesce(media, '[]') END,
    'sender_id', sender_id, 'sender_name', sender_name, 'sender_username', sender_username,
    'telegram_date', telegram_date, 'received_at', received_at, 'metadata', metadata,
    'status', CASE status WHEN 'ignored' THEN 'published' ELSE coalesce(status, 'received') END,
    'retry_count', coalesce(attempts, 0), 'attempts', coalesce(attempts, 0),
    'error_message', error, 'last_error', error, 'error', error, 'deleted_at', deleted_at
), content, state
FROM compared
JOIN unnest($5::text[], $6::date[]) AS wanted (channel_id, day) USING (channel_id, day)
ORDER BY telegram_date, channel_id, message_id
"""  # noqa: S608

_STAGE = """
CREATE TEMP TABLE staged (
    account_scope bigint, channel_id text, message_id bigint, telegram_date timestamptz, received_at
    timestamptz,
    chat_type text, chat_title text, thread_id bigint, sender_id bigint, sender_name text,
    sender_username text,
    text text, caption text, media_type text, media jsonb, message_type text, metadata jsonb, status text,
    attempts integer, error text, at timestamptz, deleted_at timestamptz, content text
)
"""
_STORE = """
INSERT INTO telegram_gateway.messages (
    account_scope, channel_id, message_id, telegram_date, event_id, account, chat_type, chat_title, thread_id,
    sender_id, sender_name, sender_username, text, caption, media_type, media, received_at, source,
    message_type,
    metadata
)
SELECT
    account_scope, channel_id, message_id, telegram_date,
    account_scope || ':' || channel_id || ':' || message_id, $1, chat_type, chat_title, thread_id,
    sender_id, sender_name, sender_username, text, caption, media_type, media, received_at, 'import',
    message_type,
    metadata
FROM staged s
WHERE NOT EXISTS (
    SELECT FROM telegram_gateway.message_arrivals a
    WHERE (a.account_scope, a.channel_id, a.message_id) = (s.account_scope, s.channel_id, s.message_id)
)
ORDER BY telegram_date, channel_id, message_id
ON CONFLICT DO NOTHING
"""
# Dated behind every edit that is known: it is what the old stack showed last.
_REVISE = f"""
INSERT INTO telegram_gateway.message_revisions (
    event_id, kind, account_scope, channel_id, message_id, telegram_date, account, chat_type, chat_title,
    chat_username, thread_id, grouped_id, reply_to, forward, sender_id, sender_name, sender_username,
    text, caption,
    entities, media_type, media, edit_date, received_at, source, message_type, metadata
)
SELECT
    s.account_scope || ':' || s.channel_id || ':' || s.message_id || ':edit:' || extract(epoch FROM
    d.edit_date)::bigint
        || ':' || left(s.content, 16),
    'message.edited', s.account_scope, s.channel_id, s.message_id, m.telegram_date, $2, m.chat_type,
    m.chat_title,
    m.chat_username, m.thread_id, m.grouped_id, m.reply_to, m.forward, s.sender_id, s.sender_name,
    s.sender_username, s.text, s.caption, CASE WHEN (m.text, m.caption) IS NOT DISTINCT FROM (s.text,
    s.caption)
        THEN m.entities END,
    s.media_type, s.media, d.edit_date, now(), 'import', s.message_type, s.metadata
FROM staged s
JOIN telegram_gateway.message_arrivals a USING (account_scope, channel_id, message_id)
JOIN telegram_gateway.messages_current m USING (account_scope, channel_id, message_id)
CROSS JOIN LATERAL (SELECT date_trunc('second', greatest(s.at,
m.edit_date + interval '1 second')) AS edit_date) d
CROSS JOIN LATERAL (
    SELECT {CONTENT} AS content FROM (
        SELECT m.telegram_date, m.received_at, m.text,
            CASE WHEN 'thread_id' = ANY ($1::text[]) THEN m.thread_id END AS thread_id,
            CASE WHEN 'caption' = ANY ($1::text[]) THEN m.caption END AS caption,
            CASE WHEN 'media_type' = ANY ($1::text[]) THEN m.media_type END AS media_type,
            CASE WHEN 'media' = ANY ($1::text[]) THEN nullif(m.media, '{{}}') END AS media,
            CASE WHEN 'sender_id' = ANY ($1::text[]) THEN m.sender_id END AS sender_id,
            CASE WHEN 'sender_name' = ANY ($1::text[]) THEN m.sender_name END AS sender_name,
            CASE WHEN 'sender_username' = ANY ($1::text[]) THEN m.sender_username END AS sender_username,
            CASE WHEN 'metadata' = ANY ($1::text[]) THEN m.metadata - '{EXTRA}' ELSE '{{}}' END AS metadata
    ) AS known
) k
WHERE m.telegram_date = a.telegram_date AND k.content <> s.content
ON CONFLICT DO NOTHING
"""  # noqa: S608
_PROCESSED = """
INSERT INTO telegram_gateway.message_processing AS p
    (consumer, account_scope, channel_id, message_id, status, attempts, error, at)
SELECT $1, account_scope, channel_id, message_id, status, attempts, error, at
FROM staged
ORDER BY account_scope, channel_id, message_id
ON CONFLICT (consumer, account_scope, channel_id, message_id) DO UPDATE
SET status = excluded.status, attempts = excluded.attempts, error = excluded.error, at = excluded.at
WHERE (CASE p.status WHEN 'ignored' THEN 'published' ELSE p.status END, p.attempts, p.error)
    IS DISTINCT FROM
    (CASE excluded.status WHEN 'ignored' THEN 'published' ELSE excluded.status END, excluded.attempts,
    excluded.error)
"""
# Deleted by hand there is hidden here; what Telegram deleted is known as that already.
_HIDE = """
INSERT INTO telegram_gateway.hidden_messages AS h (account_scope, channel_id, message_id, hidden_by,
hidden_at)
SELECT account_scope, channel_id, message_id, 'migration', deleted_at FROM staged s
WHERE deleted_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM telegram_gateway.message_revisions r
    WHERE (r.account_scope, r.channel_id, r.message_id, r.kind, r.received_at)
        = (s.account_scope, s.channel_id, s.message_id, 'message.deleted', s.deleted_at)
)
ON CONFLICT (account_scope, channel_id, message_id) DO UPDATE SET hidden_at = excluded.hidden_at
WHERE h.hidden_at <> excluded.hidden_at
"""
_CHANNELS = """
INSERT INTO telegram_gateway.channels AS c (
    account_scope, id, title, type, first_message_id, first_message_date, last_message_id,
    last_message_date, seen_at
)
SELECT account_scope, channel_id, max(chat_title), min(chat_type), min(message_id), min(telegram_date),
    max(message_id), max(telegram_date), max(received_at)
FROM staged GROUP BY account_scope, channel_id
ORDER BY account_scope, channel_id
ON CONFLICT (account_scope, id) DO UPDATE
SET title = coalesce(c.title, excluded.title),
    first_message_id = least(c.first_message_id, excluded.first_message_id),
    first_message_date = least(c.first_message_date, excluded.first_message_date),
    last_message_id = greatest(c.last_message_id, excluded.last_message_id),
    last_message_date = greatest(c.last_message_date, excluded.last_message_date),
    updated_at = now()
"""
# An old message's chunk may be compressed: the server would refuse to look for it in many of them at once.
_NO_DECOMPRESSION_LIMIT = "SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
_NEWEST_ARRIVAL = "SELECT coalesce(max(arrival), 0) FROM telegram_gateway.message_arrivals"


class NewDatabase:
    """Our database on one direct connection."""

    def __init__(self, connection: Connection, timescaledb: bool) -> None:
        self.connection = connection
        self.timescaledb = timescaledb
        self._staged = False

    async def buckets(
        self, user: int, since: datetime, consumer: str, carried: Sequence[str]
    ) -> list[asyncpg.Record]:
        """Of each chat and day: how many messages, and the sums of their fingerprints."""
        with working_on("new"):
            return await self.connection.fetch(_BUCKETS, user, since, consumer, list(carried))

    async def read(
        self,
        plan: Plan,
        since: datetime,
        carried: Sequence[str],
        days: Sequence[tuple[str, date]],
        take: Callable[[bytes], Coroutine[Any, Any, None]],
    ) -> None:
        """Gives the messages of these chats' days to `take` as documents in the old shape, in COPY's
        text format."""
        with working_on("new"):
            await self.connection.copy_from_query(
                _ROWS_OF,
                plan.user_id or 0,
                since,
                plan.consumer,
                list(carried),
                [chat for chat, _ in days],
                [day for _, day in days],
                output=take,
            )

    async def newest_arrival(self) -> int:
        """Grows with every message that is stored."""
        with working_on("new"):
            found: int = await self.connection.fetchval(_NEWEST_ARRIVAL)
        return found

    async def stage(self, lines: Sequence[bytes]) -> None:
        """Puts rows of COPY's text format where `take_in` takes them from."""
        await self.connection.copy_to_table("staged", source=chunks(lines))

    async def take_in(
        self, lines: Sequence[bytes], account: str, consumer: str, carried: Sequence[str]
    ) -> None:
        """Stores a batch, rows of COPY's text format, in one transaction. Rows that are there already
        change nothing."""
        with working_on("new"):
            if not self._staged:
                await self.connection.execute(_STAGE)
                self._staged = True
            async with self.connection.transaction():
                if self.timescaledb:
                    await self.connection.execute(_NO_DECOMPRESSION_LIMIT)
                await self.connection.execute("TRUNCATE staged")
                await self.stage(lines)
                stored = await self.connection.execute(_STORE, account)
                if int(stored.rpartition(" ")[2]) < len(lines):
                    await self.connection.execute("ANALYZE staged")
                    await self.connection.execute(_REVISE, list(carried), account)
                await self.connection.execute(_PROCESSED, consumer)
                await self.connection.execute(_HIDE)
                await self.connection.execute(_CHANNELS)


@asynccontextmanager
async def new_database(settings: Settings) -> AsyncIterator[NewDatabase]:
    """Our database, its schema that of this version.

    Raises SinkUnavailable, ConfigurationError or SchemaError, and GatewayError when the server fails.
    """
    password = settings.db_password.get_secret_value() if settings.db_password else None
    connection = await connect_direct(settings.db_direct_dsn.get_secret_value(), password)
    try:
        with working_on("new"):
            await connection.execute(
                "SET statement_timeout = 0; SET work_mem = '64MB'; SET search_path = public; SET "
                "timezone = 'UTC'; SET jit = off"
            )
            await require_schema(connection, load_migrations())
            timescaledb: bool = await connection.fetchval("SELECT telegram_gateway.has_timescaledb()")
        yield NewDatabase(connection, timescaledb)
    finally:
        connection.terminate()


async def chunks(lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Lines as asyncpg's COPY takes them."""
    yield b"".join(lines)
