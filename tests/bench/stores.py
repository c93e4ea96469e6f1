"""The servers' contents, seen from outside: emptied before each subject, counted after it."""

import aio_pika
import asyncpg
from redis.asyncio import Redis

from gateway.localstack import LocalStack
from tests.bench.afternoon import SCHEMA
from tests.bench.receiver import QUEUE

_EMPTY = (
    "TRUNCATE telegram_gateway.messages, telegram_gateway.message_revisions, telegram_gateway.channels, "
    "telegram_gateway.message_arrivals, telegram_gateway.consumer_marks, "
    "telegram_gateway.message_processing, afternoon.messages"
)
# Latency up to the statement that stores a row; `stored_at` is the start of its transaction.
_STORED_AFTER = """
SELECT percentile_cont($3::float8[])
    WITHIN GROUP (ORDER BY extract(epoch FROM stored_at - received_at)::float8)
FROM telegram_gateway.messages
WHERE received_at BETWEEN to_timestamp($1) AND to_timestamp($2)
"""


class Stores:
    """PostgreSQL, Redis and RabbitMQ of one local stack."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.environment = stack.environment

    async def prepare(self) -> None:
        """Makes the afternoon version's table; the gateway's are there already."""
        connection = await asyncpg.connect(self.stack.postgres.dsn, ssl=False)
        try:
            await connection.execute(SCHEMA)
        finally:
            await connection.close()

    async def empty(self) -> None:
        """Takes everything out of all three."""
        connection = await asyncpg.connect(self.stack.postgres.dsn, ssl=False)
        try:
            await connection.execute(_EMPTY)
        finally:
            await connection.close()
        async with Redis.from_url(self.environment["TELEGRAM_REDIS_URL"]) as redis:
            await redis.flushall()
        async with await aio_pika.connect(self.environment["TELEGRAM_RABBITMQ_URL"]) as broker:
            await (await broker.channel()).queue_delete(QUEUE)

    async def rows(self, table: str) -> int:
        connection = await asyncpg.connect(self.stack.postgres.dsn, ssl=False)
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
        finally:
            await connection.close()

    async def keys(self, pattern: str) -> int:
        async with Redis.from_url(self.environment["TELEGRAM_REDIS_URL"]) as redis:
            return sum([1 async for _ in redis.scan_iter(match=pattern, count=5_000)])

    async def stored_after(self, start: float, end: float, quantiles: list[float]) -> list[float]:
        """Seconds from receipt to storage, by quantile, of what was received between two Unix times."""
        connection = await asyncpg.connect(self.stack.postgres.dsn, ssl=False)
        try:
            return list(await connection.fetchval(_STORED_AFTER, start, end, quantiles) or ())
        finally:
            await connection.close()
