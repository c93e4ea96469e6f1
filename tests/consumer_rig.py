"""What tests of the consumer library share: events put where the gateway puts them, and a look at results."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aio_pika
import asyncpg
from aio_pika.abc import AbstractIncomingMessage
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from gateway.consumer import Consumer, ConsumerSettings, Event, Handler
from gateway.consumer.broker import QUEUE_ARGUMENTS
from gateway.database import Migrator, connect_direct, load_migrations
from gateway.localstack import LocalStack
from gateway.sinks.base import Sink
from gateway.sinks.rabbitmq import RabbitMQSink
from gateway.sinks.redis import RedisSink
from gateway.sinks.timescale import TimescaleSink
from tests.patience import patience
from tests.sink_events import records

DEAD_LETTERS = "telegram.messages.dlq"
PATIENCE_SECONDS = 90.0  # a busy machine takes its time to start a process or a server

_TABLES = (
    "messages, message_revisions, message_arrivals, channels, message_processing, revision_processing, "
    "consumer_marks"
)


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = PATIENCE_SECONDS) -> None:
    """Returns once `condition` holds; fails when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


@dataclass
class ConsumerRig:
    """One consumer's name, its servers, and empty tables."""

    stack: LocalStack
    database: "asyncpg.Connection[asyncpg.Record]"
    redis: Any  # redis-py's commands are typed `Awaitable[T] | T`
    name: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    @classmethod
    @asynccontextmanager
    async def on(cls, stack: LocalStack) -> AsyncIterator["ConsumerRig"]:
        database = await connect_direct(stack.postgres.dsn)
        await Migrator(database, load_migrations()).migrate(lambda _: None)
        await database.execute(
            "TRUNCATE " + ", ".join(f"telegram_gateway.{table}" for table in _TABLES.split(", "))
        )
        redis = Redis.from_url(stack.environment["TELEGRAM_REDIS_URL"], decode_responses=True)
        await redis.flushdb()
        rig = cls(stack, database, redis)
        await rig.letters()
        try:
            yield rig
        finally:
            async with await aio_pika.connect(stack.rabbitmq.url) as connection:
                await (await connection.channel()).queue_delete(rig.queue)
            await redis.aclose()
            database.terminate()

    @property
    def queue(self) -> str:
        return f"telegram.consumer.{self.name}"

    def settings(self, **options: Any) -> ConsumerSettings:
        """This consumer's, with delays in which nobody waits for long."""
        environment = self.stack.environment
        defaults: dict[str, Any] = {
            "name": self.name,
            "rabbitmq_url": environment["TELEGRAM_RABBITMQ_URL"],
            "database_dsn": environment["TELEGRAM_DB_DSN"],
            "redis_url": environment["TELEGRAM_REDIS_URL"],
            "first_delay": timedelta(milliseconds=20),
            "poll_interval": timedelta(milliseconds=50),
            "idle_interval": timedelta(milliseconds=200),
        }
        return ConsumerSettings(**(defaults | options))

    @asynccontextmanager
    async def running(self, consumer: Consumer, handler: Handler) -> AsyncIterator[Consumer]:
        """`consumer`, ready; stopped when the block ends."""
        async with consumer, asyncio.TaskGroup() as group:
            group.create_task(consumer.run(handler))
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await consumer.ready.wait()
                yield consumer
            finally:
                consumer.stop()

    async def publish(self, *events: Event) -> None:
        """Through the gateway's own sink, as all of these."""
        await self._deliver(RabbitMQSink(self.stack.rabbitmq.url), events)

    async def store(self, *events: Event) -> None:
        await self._deliver(TimescaleSink(self.stack.pgbouncer.dsn()), events)

    async def cache(self, *events: Event) -> None:
        await self._deliver(RedisSink(self.stack.environment["TELEGRAM_REDIS_URL"]), events)

    async def everywhere(self, *events: Event) -> None:
        await self.store(*events)
        await self.cache(*events)
        await self.publish(*events)

    async def publish_raw(self, body: bytes, routing_key: str, **headers: Any) -> None:
        """Anything, to the consumer's queue."""
        async with await aio_pika.connect(self.stack.rabbitmq.url) as connection:
            channel = await connection.channel()
            await channel.default_exchange.publish(
                aio_pika.Message(body, headers=headers, message_id="raw"), routing_key
            )

    async def states(self, consumer: str | None = None) -> dict[int, str]:
        """What is on record, by message."""
        rows = await self.database.fetch(
            "SELECT message_id, status FROM telegram_gateway.message_processing WHERE consumer = $1",
            consumer or self.name,
        )
        return {row["message_id"]: row["status"] for row in rows}

    async def all_in(self, status: str, count: int) -> bool:
        states = await self.states()
        return sum(1 for found in states.values() if found == status) == count

    async def at_least_in(self, status: str, count: int) -> bool:
        """As `all_in`, where more may follow before anybody looks."""
        states = await self.states()
        return sum(1 for found in states.values() if found == status) >= count

    async def letters(self) -> list[AbstractIncomingMessage]:
        """All dead letters, taken away."""
        async with await aio_pika.connect(self.stack.rabbitmq.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(DEAD_LETTERS)
            found = []
            while (message := await queue.get(fail=False)) is not None:
                await message.ack()
                found.append(message)
            return found

    async def waiting(self, queue: str | None = None) -> int:
        """How many messages are in the queue and with nobody."""
        async with await aio_pika.connect(self.stack.rabbitmq.url) as connection:
            channel = await connection.channel()
            found = await channel.declare_queue(queue or self.queue, passive=True)
            return found.declaration_result.message_count or 0

    async def give_back(self, messages: int) -> None:
        """Takes so many from the queue, and loses the connection before any of them is done."""
        taken: list[AbstractIncomingMessage] = []

        async def take(message: AbstractIncomingMessage) -> None:
            taken.append(message)

        async with await aio_pika.connect(self.stack.rabbitmq.url) as connection:
            channel = await connection.channel()
            await channel.set_qos(messages)
            await (await channel.get_queue(self.queue, ensure=False)).consume(take)
            await until(lambda: len(taken) == messages)

    async def purge(self) -> None:
        """Loses what is in the queue."""
        async with await aio_pika.connect(self.stack.rabbitmq.url) as connection:
            await (await (await connection.channel()).get_queue(self.queue)).purge()

    async def declare(self) -> None:
        """Makes the queue as the library does, without a consumer."""
        async with await aio_pika.connect(self.stack.rabbitmq.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(self.queue, durable=True, arguments=QUEUE_ARGUMENTS)
            await queue.bind("telegram.messages", "telegram.channel.*")

    async def _deliver(self, sink: Sink, events: tuple[Event, ...]) -> None:
        with patience():
            await sink.open()
            try:
                await sink.deliver(records(*events))
            finally:
                await sink.close()

    def metric(self, name: str, **labels: str) -> float:
        """A metric of this consumer, 0 when it never moved."""
        labels = {"consumer": self.name, **labels}
        return self.registry.get_sample_value(f"telegram_consumer_{name}", labels) or 0.0
