"""What tests of the read side share: events put in through the real sinks, the readers, an empty start."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from redis.asyncio import Redis

from gateway.database import Migrator, connect_direct, load_migrations
from gateway.event import Event, encode
from gateway.localstack import LocalStack
from gateway.read import HotMessages, MessageFilter, MessageReader, Position, StoredMessage
from gateway.sinks.redis import RedisSink
from tests.patience import patience
from tests.sink_events import records

TABLES = (
    *("messages", "message_revisions", "channels", "message_arrivals"),
    *("message_processing", "consumer_marks", "hidden_messages"),
)


@dataclass
class ReadRig:
    """The database directly (`database`) and through the pooler (`pool`), Redis, and what reads them."""

    database: Any
    pool: Any
    redis: Any
    sink: RedisSink
    reader: MessageReader
    hot: HotMessages

    async def store(self, *events: Event) -> None:
        """As the database sink stores them."""
        await ingest(self.database, *events)

    async def cache(self, *events: Event) -> None:
        """As the Redis sink keeps them."""
        await self.sink.deliver(records(*events))

    async def all_pages(
        self, wanted: MessageFilter, limit: int, after: Position | None = None
    ) -> list[StoredMessage]:
        """Every message of a filter, page by page."""
        found: list[StoredMessage] = []
        while True:
            page = await self.reader.messages(wanted, after, limit)
            assert len(page.messages) <= limit
            found += page.messages
            if page.next is None:
                return found
            after = page.next

    async def unprocessed(self, consumer: str = "x", *, limit: int = 1000, **options: Any) -> list[int]:
        """The ids of a consumer's unprocessed messages, page by page."""
        found: list[int] = []
        after: int | None = None
        while True:
            page = await self.reader.unprocessed(consumer, after=after, limit=limit, **options)
            found += [message.event.message_id for message in page.messages]
            if page.next is None:
                return found
            after = page.next

    async def advance(self, consumer: str = "x") -> None:
        """Moves a consumer's mark as far as it goes, now and not only in some seconds."""
        for _ in range(2):  # once to see the newest arrival, once to find it settled
            while await self.pool.fetchval(
                "SELECT telegram_gateway.advance_mark($1, 0, '', NULL, 100)", consumer
            ):
                pass

    async def mark(self, consumer: str = "x") -> int | None:
        """Where it is."""
        mark: int | None = await self.database.fetchval(
            "SELECT arrival FROM telegram_gateway.consumer_marks WHERE consumer = $1 AND channel_id = ''",
            consumer,
        )
        return mark


async def ingest(connection: Any, *events: Event) -> None:
    """The statement of the database sink, on a connection of the caller's."""
    bodies = b"[" + b",".join(encode(event) for event in events) + b"]"
    await connection.fetchval("SELECT telegram_gateway.ingest($1)", bodies.decode())


@asynccontextmanager
async def read_rig(stack: LocalStack) -> AsyncIterator[ReadRig]:
    """The rig on running servers, its tables and Redis empty."""
    database = await connect_direct(stack.postgres.dsn)
    await Migrator(database, load_migrations()).migrate(lambda _: None)
    tables = ", ".join(f"telegram_gateway.{table}" for table in TABLES)
    await database.execute(f"TRUNCATE {tables}")
    pool = await asyncpg.create_pool(stack.pgbouncer.dsn(), statement_cache_size=0, min_size=0, max_size=5)
    redis = Redis.from_url(stack.environment["TELEGRAM_REDIS_URL"])
    await redis.flushdb()
    sink = RedisSink(stack.environment["TELEGRAM_REDIS_URL"])
    with patience():
        await sink.open()
    try:
        yield ReadRig(database, pool, redis, sink, MessageReader(pool), HotMessages(redis))
    finally:
        await sink.close()
        await redis.aclose()
        pool.terminate()
        database.terminate()
