"""The predecessor's database and container volume, made up: what a migration finds when it comes.

Run as a program it is the old gateway itself: `python -m tests.old_stack DSN SESSION HOST PORT KEY`.
`fill` makes the old table as the old stack kept it (partitioned by insert time, status changed in place,
the same
message more than once), `fill_volume` a session file where a container kept it.
"""

import asyncio
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from telethon import TelegramClient, events
from telethon.crypto import rsa
from telethon.sessions import SQLiteSession

from gateway.sandbox import Sandbox

CHANNELS = tuple(f"-100164912{7710 + number}" for number in range(8))
STATUSES = (
    "received",
    "retrying",
    "published",
    "failed",
    "queued",
    "reprocess_pending",
    "reprocessed",
    "deleted",
)

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS telegram_gateway;
CREATE TABLE telegram_gateway.messages (
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    channel_id      text NOT NULL,
    message_id      text NOT NULL,
    thread_id       bigint,
    source          text NOT NULL DEFAULT 'unknown',
    message_type    text NOT NULL DEFAULT 'channel_post',
    text            text,
    caption         text,
    media_type      text,
    media           jsonb NOT NULL DEFAULT '[]',
    sender_id       bigint,
    sender_name     text,
    sender_username text,
    telegram_date   timestamptz,
    received_at     timestamptz NOT NULL DEFAULT now(),
    status          text NOT NULL DEFAULT 'received' CHECK (status IN (
        'received', 'retrying', 'published', 'queued', 'failed', 'reprocess_pending', 'reprocessed', 'deleted'
    )),
    retry_count     integer NOT NULL DEFAULT 0,
    error_code      text,
    error_message   text,
    published_at    timestamptz,
    failed_at       timestamptz,
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz,
    PRIMARY KEY (id, created_at),
    UNIQUE (channel_id, message_id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX ON telegram_gateway.messages (received_at DESC) WHERE status = 'received' AND deleted_at IS NULL;
"""
_PARTITIONS = """
DO $$
BEGIN
    FOR day IN -1..{days} LOOP
        EXECUTE format(
            'CREATE TABLE telegram_gateway.messages_%s PARTITION OF telegram_gateway.messages FOR VALUES
            FROM (%L) TO (%L)',
            to_char(current_date - day, 'YYYYMMDD'), current_date - day, current_date - day + 1
        );
    END LOOP;
    CREATE TABLE telegram_gateway.messages_rest PARTITION OF telegram_gateway.messages DEFAULT;
END
$$
"""
# Message ids grow with the dates, per chat, as Telegram numbers them.
_FILL = """
INSERT INTO telegram_gateway.messages (
    channel_id, message_id, source, text, caption, media_type, media, sender_id, sender_name, sender_username,
    telegram_date, received_at, status, retry_count, error_code, error_message, published_at, failed_at,
    metadata,
    created_at, updated_at, deleted_at
)
SELECT
    ($2::text[])[1 + n % cardinality($2::text[])],
    (1 + n / cardinality($2::text[]))::text,
    'mtproto',
    CASE WHEN n % 10 = 3 THEN NULL ELSE format('COMPRA PETR%s ativo %s alvo %s ação', n % 40, n, n % 97) END,
    CASE WHEN n % 10 = 3 THEN format('gráfico %s', n) END,
    CASE WHEN n % 10 = 3 THEN 'photo' END,
    CASE n % 10 WHEN 3 THEN jsonb_build_object('id', n, 'size',
    1.50) WHEN 4 THEN '[{"type": "link"}]' ELSE '[]' END,
    CASE WHEN n % 4 <> 0 THEN 777000 + n % 50 END,
    CASE WHEN n % 4 <> 0 THEN format('Analista %s', n % 50) END,
    CASE WHEN n % 8 = 1 THEN format('analista_%s', n % 50) END,
    CASE WHEN n % 1000 <> 7 THEN date_trunc('second', at) END,
    at + interval '0.123456 s',
    status,
    CASE status WHEN 'retrying' THEN 1 + n % 3 WHEN 'failed' THEN 3 ELSE 0 END,
    CASE status WHEN 'failed' THEN 'PARSE' END,
    CASE status WHEN 'failed' THEN format('no signal in message %s', n) END,
    CASE status WHEN 'published' THEN at + interval '2 s' END,
    CASE status WHEN 'failed' THEN at + interval '4 s' END,
    jsonb_build_object('views', n % 500, 'tags', jsonb_build_array('b3', n % 7)),
    at + interval '0.2 s',
    at + interval '5 s',
    CASE status WHEN 'deleted' THEN at + interval '1 hour' END
FROM (
    SELECT n, now() - interval '1 hour' - ($3::double precision * (1 - n::double precision / $1)) *
    interval '1 day' AS at,
        CASE
            WHEN n % 100 < 2 THEN 'failed' WHEN n % 100 = 2 THEN 'retrying' WHEN n % 100 = 3 THEN 'queued'
            WHEN n % 100 = 4 THEN 'reprocess_pending' WHEN n % 100 = 5 THEN 'reprocessed'
            WHEN n % 100 = 6 THEN 'deleted' WHEN n % 100 < 16 THEN 'received' ELSE 'published'
        END AS status
    FROM generate_series(0, $1::integer - 1) n
) message
"""
# Inserted once more, later: the old uniqueness held the time of insertion. A third of them moved on since.
_DUPLICATES = """
INSERT INTO telegram_gateway.messages (
    channel_id, message_id, source, text, caption, media_type, media, sender_id, sender_name, sender_username,
    telegram_date, received_at, status, retry_count, error_message, metadata, created_at, updated_at
)
SELECT channel_id, message_id, source,
    CASE WHEN message_id::bigint % 3 = 0 THEN text || ' (de novo)' ELSE text END,
    caption, media_type, media, sender_id, sender_name, sender_username,
    telegram_date, received_at + interval '10 minutes',
    CASE WHEN message_id::bigint % 3 = 0 THEN 'published' ELSE status END, retry_count, error_message,
    metadata,
    created_at + interval '10 minutes', updated_at + interval '10 minutes'
FROM telegram_gateway.messages
WHERE message_id::bigint % 23 = 0 AND deleted_at IS NULL
"""
_EDITS = """
UPDATE telegram_gateway.messages SET text = text || ' (corrigido)', updated_at = updated_at + interval '60 s'
WHERE message_id::bigint % 40 = 0 AND text IS NOT NULL
"""
_ODD = """
INSERT INTO telegram_gateway.messages (channel_id, message_id, text) VALUES
    ('@sem_numero', '1', 'o canal não tem número'), ('-1001649127710', 'abc', 'a mensagem não tem número'),
    ('-1001649127710', '0', 'não há mensagem 0')
"""
REJECTED = 3
_STORE = """
INSERT INTO telegram_gateway.messages (channel_id, message_id, source, text, telegram_date)
VALUES ($1, $2, 'mtproto', $3, $4)
"""
_CHANGE = """
UPDATE telegram_gateway.messages SET text = $3, updated_at = now() WHERE (channel_id, message_id) = ($1, $2)
"""


@dataclass(frozen=True)
class OldStack:
    """What was made: `rows` in the table, `messages` of them different ones that can be migrated."""

    rows: int
    messages: int


async def fill(
    dsn: str, *, rows: int = 200_000, days: int = 30, channels: tuple[str, ...] = CHANNELS
) -> OldStack:
    """Makes the old schema in the database at `dsn`, with `rows` messages and what goes wrong with some
    of them."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_SCHEMA)
        await connection.execute(_PARTITIONS.format(days=days + 1))
        await connection.execute(_FILL, rows, list(channels), float(days))
        await connection.execute(_DUPLICATES)
        await connection.execute(_EDITS)
        await connection.execute(_ODD)
        await connection.execute("ANALYZE telegram_gateway.messages")
        total: int = await connection.fetchval("SELECT count(*) FROM telegram_gateway.messages")
    finally:
        await connection.close()
    return OldStack(rows=total, messages=rows)


async def create_database(admin_dsn: str, name: str = "old_gateway") -> str:
    """An empty database for it beside ours, on the same server; returns its DSN, with the server's
    superuser."""
    connection = await asyncpg.connect(admin_dsn)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return f"{admin_dsn.rpartition('/')[0]}/{name}"


async def fill_volume(
    volume: Path, sandbox: Sandbox, phone: str, *, code: str = "12345", name: str = "telegram"
) -> Path:
    """Logs in at the sandbox as the old container did, and leaves its session file in `volume`."""
    volume.mkdir(parents=True, exist_ok=True)
    file = volume / f"{name}.session"
    client = old_client(file, (sandbox.host, sandbox.port), sandbox.public_key_path)
    await client.connect()
    try:
        await client.send_code_request(phone)
        await client.sign_in(phone, code)
        await client.get_dialogs()
    finally:
        await client.disconnect()
    return file


def old_client(file: Path, server: tuple[str, int], public_key: Path) -> TelegramClient:
    """The client of the old stack, on its session file."""
    rsa.add_key(public_key.read_text(), old=False)
    session = SQLiteSession(str(file))
    session.set_dc(2, *server)
    return TelegramClient(session, 1, "sandbox")


async def run_old_gateway(dsn: str, file: Path, server: tuple[str, int], public_key: Path) -> None:
    """What the predecessor did with a message: one row, now; an edit changes it in place. Until SIGTERM."""
    client = old_client(file, server, public_key)
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=4)

    async def store(event: events.NewMessage.Event) -> None:
        await pool.execute(_STORE, str(event.chat_id), str(event.id), event.raw_text, event.date)

    async def change(event: events.MessageEdited.Event) -> None:
        await pool.execute(_CHANGE, str(event.chat_id), str(event.id), event.raw_text)

    client.add_event_handler(store, events.NewMessage)
    client.add_event_handler(change, events.MessageEdited)
    await client.connect()
    await client.get_dialogs()
    print("ready", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await client.disconnect()
    await pool.close()


if __name__ == "__main__":
    _dsn, _file, _host, _port, _key = sys.argv[1:]
    asyncio.run(run_old_gateway(_dsn, Path(_file), (_host, int(_port)), Path(_key)))
