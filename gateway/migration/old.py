"""The old stack's database: `telegram_gateway.messages` as it has it, read only, in whatever columns it has.

Rows are read as JSON, so that one statement fits the columns of every release of the predecessor.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any

import asyncpg
import msgspec

from gateway.database import connect
from gateway.database.connection import Connection
from gateway.errors import ConfigurationError, NeedsOperator
from gateway.migration.rows import BUCKETS, CHANNELS_ABOVE, CONTENT, EXTRA, OPTIONAL, STATE, working_on

REQUIRED = ("channel_id", "message_id", "text", "status", "created_at")
# Where releases of the predecessor kept what has one name here.
ALIASES: dict[str, tuple[str, ...]] = {
    "media": ("media", "media_refs"),
    "attempts": ("retry_count", "attempts"),
    "error": ("error_message", "last_error", "error"),
}
# What the old table noted for itself; it stays there.
_LEFT_BEHIND = (
    *("id", "created_at", "updated_at", "published_at", "failed_at", "queued_at"),
    *("reprocess_requested_at", "reprocessed_at"),
)
_PLACED = (
    *("channel_id", "message_id", "thread_id", "text", "caption", "media_type", "media", "media_refs"),
    *("sender_id", "sender_name", "sender_username", "telegram_date", "received_at", "status", "metadata"),
    *("retry_count", "attempts", "error_message", "last_error", "error", "deleted_at", "message_type"),
    *("channel_title", "chat_title"),
)
_WITHOUT = ", ".join(f"'{name}'" for name in (*_PLACED, *_LEFT_BEHIND))

_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass('telegram_gateway.messages') AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_IDS = "channel_id ~ '^-?[1-9][0-9]{0,17}$' AND message_id ~ '^[1-9][0-9]{0,17}$'"
_NUMBERED = f"coalesce({_IDS}, false) AND coalesce(telegram_date, received_at, created_at) IS NOT NULL"
_NAMED = """
named AS (
    SELECT
        channel_id, message_id, created_at,
        (r ->> 'telegram_date')::timestamptz AS telegram_date,
        (r ->> 'received_at')::timestamptz AS received_at,
        greatest(
            created_at, (r ->> 'updated_at')::timestamptz,
            (r ->> 'published_at')::timestamptz, (r ->> 'failed_at')::timestamptz,
            (r ->> 'queued_at')::timestamptz, (r ->> 'reprocess_requested_at')::timestamptz,
            (r ->> 'reprocessed_at')::timestamptz, (r ->> 'deleted_at')::timestamptz
        ) AS changed_at,
        r
    FROM (
        SELECT m.channel_id::text, m.message_id::text, m.created_at::timestamptz, to_jsonb(m) AS r
        FROM telegram_gateway.messages m {which}
        OFFSET 0  -- or each use of the JSON would make it anew
    ) AS row
)
"""
# One row a message: the newest of its duplicates, with the earliest dates of all of them.
_ROWS = f"""
folded AS (
    SELECT DISTINCT ON (channel_id, message_id)
        channel_id::bigint AS chat, channel_id, message_id::bigint AS message_id,
        min(telegram_date) OVER same AS telegram_date,
        coalesce(min(received_at) OVER same, min(created_at) OVER same) AS received_at,
        changed_at, r, lower(r ->> 'status') AS old_status
    FROM named
    WHERE {_NUMBERED}
    WINDOW same AS (PARTITION BY channel_id, message_id)
    ORDER BY channel_id, message_id, changed_at DESC NULLS LAST, created_at DESC NULLS LAST, r ->> 'id' DESC
),
shaped AS (
    SELECT
        CASE WHEN chat < -{CHANNELS_ABOVE} THEN 0 ELSE $1::bigint END AS account_scope,
        channel_id, message_id,
        coalesce(telegram_date, date_trunc('second', coalesce(received_at, changed_at))) AS telegram_date,
        coalesce(received_at, telegram_date, changed_at) AS received_at,
        CASE
            WHEN chat > 0 THEN 'private'
            WHEN chat > -{CHANNELS_ABOVE} THEN 'group'
            WHEN r ->> 'message_type' = 'group_message' THEN 'supergroup'
            ELSE 'channel'
        END AS chat_type,
        coalesce(r ->> 'channel_title', r ->> 'chat_title') AS chat_title,
        CASE WHEN r ->> 'thread_id' ~ '^[0-9]{{1,18}}$' THEN (r ->> 'thread_id')::bigint END AS thread_id,
        CASE WHEN r ->> 'sender_id' ~ '^-?[0-9]{{1,18}}$' THEN (r ->> 'sender_id')::bigint END AS sender_id,
        r ->> 'sender_name' AS sender_name, r ->> 'sender_username' AS sender_username,
        r ->> 'text' AS text, r ->> 'caption' AS caption, r ->> 'media_type' AS media_type,
        CASE jsonb_typeof(media)
            WHEN 'object' THEN nullif(media, '{{}}')
            WHEN 'null' THEN NULL
            ELSE CASE WHEN media <> '[]' THEN jsonb_build_object('items', media) END
        END AS media,
        CASE
            WHEN chat > 0 THEN 'private_message'
            WHEN r ->> 'message_type' IN ('channel_post', 'group_message',
            'service') THEN r ->> 'message_type'
            WHEN chat < -{CHANNELS_ABOVE} THEN 'channel_post'
            ELSE 'group_message'
        END AS message_type,
        CASE jsonb_typeof(r -> 'metadata')
            WHEN 'object' THEN r -> 'metadata'
            WHEN 'null' THEN '{{}}'
            ELSE coalesce(jsonb_build_object('value', r -> 'metadata'), '{{}}')
        END AS metadata,
        jsonb_strip_nulls(
            r - ARRAY[{_WITHOUT}]
            || jsonb_build_object(
                'status', CASE
                    WHEN old_status NOT IN ('received', 'retrying', 'published', 'failed',
                    'ignored') THEN r -> 'status'
                END,
                'telegram_date', CASE WHEN telegram_date IS NULL THEN 'missing' END,
                'sender_id', CASE WHEN r ->> 'sender_id' !~ '^-?[0-9]{{1,18}}$' THEN r -> 'sender_id' END
            )
        ) AS extra,
        CASE
            WHEN old_status IS NULL OR old_status IN ('queued', 'reprocess_pending') THEN 'received'
            WHEN old_status IN ('received', 'retrying', 'published', 'failed', 'ignored') THEN old_status
            WHEN old_status = 'reprocessed' THEN 'published'
            WHEN old_status = 'deleted' THEN 'ignored'
            ELSE 'failed'
        END AS status,
        CASE WHEN attempts ~ '^[0-9]{{1,9}}$' THEN attempts::integer ELSE 0 END AS attempts,
        error,
        changed_at AS at,
        (r ->> 'deleted_at')::timestamptz AS deleted_at
    FROM (
        SELECT *,
            coalesce(r -> 'media', r -> 'media_refs') AS media,
            coalesce(r ->> 'retry_count', r ->> 'attempts') AS attempts,
            coalesce(r ->> 'error_message', r ->> 'last_error', r ->> 'error') AS error
        FROM folded
    ) AS f
),
compared AS (
    SELECT *, {CONTENT} AS content, {STATE} AS state, (telegram_date AT TIME ZONE 'UTC')::date AS day
    FROM shaped
    WHERE telegram_date >= $2::timestamptz
)
"""  # noqa: S608
_READ_ALL = f"WITH {_NAMED.format(which='')}, {_ROWS}"
READ_SOME = (
    "WITH "
    + _NAMED.format(
        which="WHERE EXISTS (SELECT FROM carried c WHERE (c.channel_id, c.message_id) = "
        "(m.channel_id::text, m.message_id::text))"
    )
    + f", {_ROWS}"
)
_BUCKETS = f"{_READ_ALL} {BUCKETS}"
# In the order of their dates, which becomes the order of their arrival here.
_ROWS_OF = f"""
{_READ_ALL}
SELECT
    account_scope, channel_id, message_id, telegram_date, received_at, chat_type, chat_title, thread_id,
    sender_id, sender_name, sender_username, text, caption, media_type, media, message_type,
    CASE WHEN extra = '{{}}' THEN metadata ELSE metadata || jsonb_build_object('{EXTRA}', extra) END,
    status, attempts, error, greatest(at, telegram_date), deleted_at, content
FROM compared
JOIN unnest($3::text[], $4::date[]) AS wanted (channel_id, day) USING (channel_id, day)
ORDER BY telegram_date, channel_id, message_id
"""  # noqa: S608
# The JSON is made of those few rows only.
_REJECTED = f"""
SELECT to_jsonb(m) FROM telegram_gateway.messages m
CROSS JOIN LATERAL (SELECT m.channel_id::text, m.message_id::text) AS ids
WHERE NOT coalesce({
    _IDS.replace("channel_id", "ids.channel_id").replace("message_id", "ids.message_id")
}, false)
   OR m.created_at IS NULL
      AND coalesce(to_jsonb(m) ->> 'telegram_date', to_jsonb(m) ->> 'received_at') IS NULL
"""  # noqa: S608
_CHATS = f"""
WITH {_NAMED.format(which="")}
SELECT channel_id::bigint AS chat, max(message_id::bigint) AS newest FROM named WHERE {_NUMBERED} GROUP
BY channel_id
"""  # noqa: S608
_SUMMARY = f"""
WITH {_NAMED.format(which="")},
valid AS (SELECT *, coalesce(telegram_date, received_at, created_at) AS date FROM named WHERE {_NUMBERED})
SELECT
    (SELECT count(*) FROM telegram_gateway.messages) AS rows,
    count(*) AS valid,
    count(DISTINCT (channel_id, message_id)) AS messages,
    count(DISTINCT channel_id) AS chats,
    count(*) FILTER (WHERE channel_id::bigint > -{CHANNELS_ABOVE}) AS numbered_by_account,
    count(*) FILTER (WHERE telegram_date IS NULL) AS undated,
    count(*) FILTER (WHERE date < $1::timestamptz) AS before,
    min(date) AS oldest, max(date) AS newest
FROM valid
"""  # noqa: S608
_PULSE = """
SELECT count(*) AS rows, max(created_at) AS newest, max(to_jsonb(m) ->> 'updated_at') AS changed
FROM telegram_gateway.messages m
"""
_CLIENTS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND application_name <> 'telegram-gateway'
"""
# Of a hypertable or partitioned table too, whose own size is nothing.
_BYTES = """
WITH RECURSIVE part AS (
    SELECT 'telegram_gateway.messages'::regclass::oid AS relid
    UNION ALL SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = relid
)
SELECT sum(pg_total_relation_size(relid))::bigint FROM part
"""


class Summary(msgspec.Struct, frozen=True):
    """What the old table holds."""

    rows: int
    valid: int
    messages: int
    chats: int
    numbered_by_account: int
    undated: int
    before: int
    oldest: datetime | None
    newest: datetime | None


class OldTable:
    """The old stack's table on one connection, which cannot write."""

    def __init__(self, connection: Connection, columns: Sequence[str]) -> None:
        self.connection = connection
        self.columns = tuple(columns)

    @property
    def carried(self) -> list[str]:
        """The optional fields of a row for which this table has a column."""
        return [name for name in OPTIONAL if any(c in self.columns for c in ALIASES.get(name, (name,)))]

    async def summary(self, since: datetime) -> Summary:
        """Counts all rows once."""
        with working_on("old"):
            row = await self.connection.fetchrow(_SUMMARY, since)
        assert row is not None
        return Summary(**dict(row))

    async def buckets(self, user: int, since: datetime) -> list[asyncpg.Record]:
        """Of each chat and day: how many messages, and the sums of their fingerprints."""
        with working_on("old"):
            return await self.connection.fetch(_BUCKETS, user, since)

    async def read(
        self,
        user: int,
        since: datetime,
        days: Sequence[tuple[str, date]],
        take: Callable[[bytes], Coroutine[Any, Any, None]],
    ) -> None:
        """Gives the messages of these chats' days to `take`, in COPY's text format and the order of
        their dates."""
        with working_on("old"):
            await self.connection.copy_from_query(
                _ROWS_OF, user, since, [chat for chat, _ in days], [day for _, day in days], output=take
            )

    async def rejected(self) -> list[str]:
        """The rows without a usable id or date, as JSON."""
        with working_on("old"):
            return [row[0] for row in await self.connection.fetch(_REJECTED)]

    async def chats(self) -> dict[int, int]:
        """Each chat's newest message, by marked id."""
        with working_on("old"):
            return {row["chat"]: row["newest"] for row in await self.connection.fetch(_CHATS)}

    async def pulse(self) -> tuple[object, ...]:
        """Changes whenever rows are added or changed in place."""
        with working_on("old"):
            row = await self.connection.fetchrow(_PULSE)
        assert row is not None
        return tuple(row)

    async def clients(self) -> int:
        """How many others are connected to this database, as far as this user may see them."""
        with working_on("old"):
            found: int = await self.connection.fetchval(_CLIENTS)
        return found

    async def bytes(self) -> int:
        """What the table takes on disk."""
        with working_on("old"):
            found: int = await self.connection.fetchval(_BYTES)
        return found


@asynccontextmanager
async def old_table(dsn: str, password: str | None, *, writable: bool = False) -> AsyncIterator[OldTable]:
    """The old table; `writable` for the rollback only.

    Raises SinkUnavailable or ConfigurationError when it cannot be reached, NeedsOperator when it is not the
    predecessor's, GatewayError when the server fails.
    """
    connection = await connect(dsn, password, setting="TELEGRAM_OLD_DB_DSN")
    try:
        with working_on("old"):
            await connection.execute(
                f"SET default_transaction_read_only = {'off' if writable else 'on'}; SET "
                "statement_timeout = 0; "
                "SET work_mem = '64MB'; SET search_path = public; SET timezone = 'UTC'; SET jit = off"
            )
            columns = [row[0] for row in await connection.fetch(_COLUMNS)]
        if "account_scope" in columns:
            raise ConfigurationError(
                "TELEGRAM_OLD_DB_DSN leads to this gateway's own database; give the old stack's"
            )
        lacking = [name for name in REQUIRED if name not in columns]
        if lacking:
            raise NeedsOperator(
                "the old database has no table telegram_gateway.messages; check TELEGRAM_OLD_DB_DSN"
                if not columns
                else f"the old table telegram_gateway.messages has no column {', '.join(lacking)}: "
                "it is not one of the predecessor that this migration knows"
            )
        yield OldTable(connection, columns)
    finally:
        connection.terminate()
