"""Millions of stored messages in minutes: as the gateway stores them in 90 days, but set by set."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from gateway.event import Event, Sender, encode, new_id
from gateway.journal import Record
from gateway.sinks.redis import RedisSink
from gateway.sinks.timescale import TimescaleSink

CHATS = 200
DAYS = 90
CONSUMER = "bench"  # which has processed all of it
FIRST_CHAT = 1_001_500_000_000
RARE_EVERY = 100_000  # messages, each with a word of its own, as somebody may search for a ticket's number
BATCH_ROWS = 250_000
DELIVERED_RECORDS = 500
WORKERS = 2
EDITED_EVERY = 100
DELETED_EVERY = 1_000
TABLES = ("messages", "message_arrivals", "message_processing", "message_revisions")

_UNHURRIED = {"statement_timeout": "0", "maintenance_work_mem": "512MB", "synchronous_commit": "off"}

# What costs most in storing a message at a time is not needed here: the trigger that notes arrivals, and
# the upkeep of indexes that are made faster at the end.
_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes i
WHERE schemaname = 'telegram_gateway' AND tablename = ANY ($1)
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = i.indexname)
ORDER BY indexname <> 'messages_search'  -- which takes longest
"""
# $1 to $2: which messages; $3 and $4: the date of the first, and how far apart they are.
_MESSAGE = f"""
FROM generate_series($1::bigint, $2::bigint) i
CROSS JOIN LATERAL (
    SELECT '-' || {FIRST_CHAT} + i % {CHATS} AS chat, i / {CHATS} + 1 AS message,
        $3::timestamptz + i * $4::interval AS at
) m
"""
_MESSAGES = f"""
INSERT INTO telegram_gateway.messages (
    account_scope, channel_id, message_id, telegram_date, event_id, account, chat_type, chat_title, sender_id,
    sender_name, text, received_at, source, message_type, metadata, stored_at
)
SELECT
    0, chat, message, date_trunc('second', at), '0:' || chat || ':' || message, 'main', 'channel', 'Sinais',
    7, 'Ana',
    'COMPRA '
        || (ARRAY['PETR4', 'VALE3', 'ITUB4', 'BBDC4', 'ABEV3', 'MGLU3', 'WEGE3', 'B3SA3'])[1 + i / 7 % 8]
        || ' ' || 20 + i % 61 || ',' || 10 + i % 90 || ' alvo ' || 25 + i % 61 || ',50 stop ' || 18 + i % 61
        || CASE WHEN i % {RARE_EVERY} = 0 THEN ' bilhete' || i / {RARE_EVERY} ELSE '' END,
    at + interval '0.4 s', CASE WHEN i % 50 = 0 THEN 'backfill' ELSE 'mtproto' END, 'channel_post',
    '{{"views": 1024}}', at + interval '0.4 s'
{_MESSAGE}
"""
_ARRIVALS = f"""
INSERT INTO telegram_gateway.message_arrivals
    (account_scope, channel_id, message_id, telegram_date, arrival, stored_at)
OVERRIDING SYSTEM VALUE
SELECT 0, chat, message, date_trunc('second', at), i + 1, at + interval '0.4 s'
{_MESSAGE}
"""
_PROCESSED = f"""
INSERT INTO telegram_gateway.message_processing
    (consumer, account_scope, channel_id, message_id, status, attempts, at)
SELECT '{CONSUMER}', 0, chat, message,
    CASE WHEN i % 20 = 0 THEN 'published' WHEN i % 20000 = 1 THEN 'failed' ELSE 'ignored' END, 1,
    at + interval '0.5 s'
{_MESSAGE}
"""
_REVISED = f"""
INSERT INTO telegram_gateway.message_revisions (
    event_id, kind, account_scope, channel_id, message_id, telegram_date, account, chat_type, chat_title,
    text, edit_date, received_at, source, message_type, stored_at
)
SELECT
    '0:' || chat || ':' || message || kind, 'message.' || substr(kind, 2), 0, chat, message,
    date_trunc('second', at), 'main', 'channel', 'Sinais', 'COMPRA PETR4 agora ' || i,
    date_trunc('second', at) + interval '9 s',
    at + interval '9 s', 'mtproto', 'channel_post', at + interval '9 s'
{_MESSAGE}
CROSS JOIN LATERAL (
    SELECT CASE WHEN i % {DELETED_EVERY} = 7 THEN ':deleted' ELSE ':edited' END AS kind
) k
WHERE i % {EDITED_EVERY} = 7
"""
_CHANNELS = """
INSERT INTO telegram_gateway.channels (
    account_scope, id, title, type, first_message_id, first_message_date, last_message_id, last_message_date,
    seen_at
)
SELECT 0, channel_id, 'Sinais', 'channel', 1, min(telegram_date), max(message_id), max(telegram_date), now()
FROM telegram_gateway.message_arrivals GROUP BY channel_id
ON CONFLICT DO NOTHING
"""
# As they stand for a consumer that has kept up: for all chats, and for each.
_MARKS = f"""
INSERT INTO telegram_gateway.consumer_marks (consumer, account_scope, channel_id, since, arrival)
SELECT '{CONSUMER}', 0, coalesce(channel_id, ''), '-infinity'::timestamptz, max(arrival)
FROM telegram_gateway.message_arrivals GROUP BY GROUPING SETS ((), (channel_id))
"""
_SEQUENCE = "SELECT setval('telegram_gateway.message_arrivals_arrival_seq', $1)"

_STORED = (_MESSAGES, _ARRIVALS, _PROCESSED, _REVISED)

HOT_CHATS = 20
HOT_MESSAGES = 150  # in each of these
HOT_FIRST = 10_000_000  # their ids' beginning
HOT_SINCE = timedelta(minutes=30)

Job = tuple[str, tuple[Any, ...]]


def chat_of(number: int) -> str:
    """The chat of message `number`, counted from 0."""
    return f"-{FIRST_CHAT + number % CHATS}"


async def fill(dsn: str, rows: int, say: Callable[[str], None] = lambda text: None) -> None:
    """Stores `rows` messages into empty plain tables, all processed by `CONSUMER`, the newest an hour old.

    `dsn` is the owner's; the triggers and indexes that are off meanwhile are back when it returns.
    """
    until = datetime.now(UTC) - timedelta(hours=1)
    since, step = until - timedelta(days=DAYS), timedelta(days=DAYS) / rows
    connection = await asyncpg.connect(dsn, ssl=False, server_settings=_UNHURRIED)
    try:
        indexes = await connection.fetch(_INDEXES, list(TABLES))
        for index in indexes:
            await connection.execute(f"DROP INDEX telegram_gateway.{index['indexname']}")
        await connection.execute("ALTER TABLE telegram_gateway.messages DISABLE TRIGGER USER")
        batches = [
            (first, min(first + BATCH_ROWS, rows) - 1, since, step) for first in range(0, rows, BATCH_ROWS)
        ]
        say(f"{rows:,} messages")
        await _work(dsn, [(each, batch) for batch in batches for each in _STORED])
        await connection.execute("ALTER TABLE telegram_gateway.messages ENABLE TRIGGER USER")
        await connection.fetchval(_SEQUENCE, rows)
        say(f"indexes of {rows:,} messages")
        await _work(dsn, [(index["indexdef"], ()) for index in indexes])
        await connection.execute(_CHANNELS)
        await connection.execute(_MARKS)
        await _work(dsn, [(f"VACUUM ANALYZE telegram_gateway.{table}", ()) for table in TABLES])
    finally:
        await connection.close()


async def heat(environment: Mapping[str, str]) -> list[Event]:
    """Delivers unprocessed messages of the last minutes as the gateway does, to the database and Redis.

    Returns those of the first chat, newest first.
    """
    began, apart = datetime.now(UTC).replace(microsecond=0) - HOT_SINCE, HOT_SINCE / HOT_MESSAGES
    events = [
        Event(
            id=new_id(0, chat_of(chat), HOT_FIRST + number),
            kind="message.new",
            account="main",
            account_scope=0,
            channel_id=chat_of(chat),
            chat_type="channel",
            chat_title="Sinais",
            message_id=HOT_FIRST + number,
            sender=Sender(id=7, name="Ana"),
            text=f"COMPRA PETR4 {20 + number % 61},10 alvo {25 + number % 61},50 stop {18 + number % 61}",
            telegram_date=began + number * apart,
            received_at=began + number * apart + timedelta(seconds=0.4),
            source="mtproto",
            message_type="channel_post",
            metadata={"views": 1024},
        )
        for number in range(HOT_MESSAGES)
        for chat in range(HOT_CHATS)
    ]
    records = [Record(seq, encode(event)) for seq, event in enumerate(events, 1)]
    for sink in (
        TimescaleSink(environment["TELEGRAM_DB_DSN"]),
        RedisSink(environment["TELEGRAM_REDIS_URL"]),
    ):
        await sink.open()
        for first in range(0, len(records), DELIVERED_RECORDS):
            await sink.deliver(records[first : first + DELIVERED_RECORDS])
        await sink.close()
    return [event for event in events if event.channel_id == chat_of(0)][::-1]


async def settle(admin_dsn: str) -> None:
    """Returns once what was stored is on the disk: calls are not to be measured beside that."""
    connection = await asyncpg.connect(admin_dsn, ssl=False)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _work(dsn: str, jobs: Iterable[Job]) -> None:
    """Does the jobs in order, a few at a time."""
    waiting = iter(list(jobs))

    async def work() -> None:
        connection = await asyncpg.connect(dsn, ssl=False, server_settings=_UNHURRIED)
        try:
            for statement, arguments in waiting:
                await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work())
