"""Many messages at once, straight into the tables: for plans and figures at volume, never for correctness."""

from typing import Any

STEP = 100_000
CHATS = 200
DAYS = 60
TICKERS = (
    *("PETR4", "VALE3", "ITUB4", "BBDC4", "BBAS3", "ABEV3", "WEGE3", "MGLU3"),
    *("WINFUT", "WDOFUT", "B3SA3", "SUZB3", "GGBR4", "RENT3", "PRIO3", "ELET3"),
)
_ADVANCE = "SELECT telegram_gateway.advance_mark($1, 0, '', NULL, 2000)"

# Dates go from DAYS ago until now, as do the ids of each chat; a few chats have most of the messages.
_MESSAGES = """
INSERT INTO telegram_gateway.messages (
    account_scope, channel_id, message_id, telegram_date, event_id, account, chat_type, chat_title, sender_id,
    sender_name, text, entities, received_at, source, message_type, metadata
)
SELECT
    0, channel_id, n, date, '0:' || channel_id || ':' || n, 'main', 'channel', 'Sala ' || chat,
    1000 + n % 500, 'Pessoa ' || n % 500,
    CASE n % 4 WHEN 0 THEN 'COMPRA ' WHEN 1 THEN 'Venda parcial de ' WHEN 2 THEN 'Alvo atingido em '
         ELSE 'Bom dia, análise de ' END
        || ($3::text[])[1 + n % 16] || ' a ' || 10 + n % 90 || ',' || n % 100 || ', stop ' || n % 97
        || CASE WHEN n % 50000 = 7 THEN ' extraordinariamente' ELSE '' END || ' n.º ' || n,
    '[{"type": "bold", "offset": 0, "length": 6}]', date + interval '300 ms',
    CASE WHEN n % 1000 = 0 THEN 'import' WHEN n % 10 = 0 THEN 'backfill' ELSE 'mtproto' END, 'channel_post',
    '{"views": 100}'
FROM (
    SELECT n, chat, (-1001600000000 - chat)::text AS channel_id,
        date_trunc('second', now() - make_interval(secs => ($4::bigint - n) * $5::float8)) AS date
    FROM (SELECT n, floor($6::int * power((n * 7919 % 10007) / 10007.0, 3))::int AS chat
          FROM generate_series($1::bigint, $2::bigint) n) a
) b
"""
_PROCESSED = """
INSERT INTO telegram_gateway.message_processing
    (consumer, account_scope, channel_id, message_id, status, attempts, error)
SELECT $1, account_scope, channel_id, message_id,
    CASE WHEN message_id % 5000 = 3 THEN 'failed' WHEN message_id % 3 = 0 THEN 'published' ELSE 'ignored' END,
    1, NULL
FROM telegram_gateway.message_arrivals
WHERE arrival > $2 AND arrival <= $3 AND message_id % 100000 <> 11
"""


_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes
WHERE schemaname = 'telegram_gateway' AND tablename IN ('messages', 'message_arrivals')
  AND indexname NOT IN ('messages_pkey', 'message_arrivals_pkey')
"""


async def fill(connection: Any, rows: int, *, chats: int = CHATS) -> None:
    """Stores `rows` messages of `chats` chats, dated within the last DAYS, into empty, plain tables."""
    await connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '512MB'")
    indexes = await connection.fetch(_INDEXES)
    for index in indexes:
        await connection.execute(f"DROP INDEX telegram_gateway.{index['indexname']}")
    for start in range(1, rows + 1, STEP):
        end = min(rows, start + STEP - 1)
        await connection.execute(_MESSAGES, start, end, TICKERS, rows, DAYS * 86400 / rows, chats)
    for index in indexes:
        await connection.execute(index["indexdef"])
    for table in ("messages", "message_arrivals"):
        await connection.execute(f"VACUUM ANALYZE telegram_gateway.{table}")


async def process(connection: Any, consumer: str, *, leave: int = 100) -> None:
    """Has `consumer` process all but the last `leave` messages stored, and a few that it passes over.

    Its mark comes along, as if it had always asked for what it has to do.
    """
    await connection.execute("SET statement_timeout = 0")
    last = await connection.fetchval("SELECT max(arrival) FROM telegram_gateway.message_arrivals")
    for start in range(0, last - leave, STEP):
        await connection.execute(_PROCESSED, consumer, start, min(last - leave, start + STEP))
    await connection.execute("VACUUM ANALYZE telegram_gateway.message_processing")
    for _ in range(2):  # once to see the newest arrival, once to find it settled
        while await connection.fetchval(_ADVANCE, consumer):
            pass
