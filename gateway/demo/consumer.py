"""The sample RabbitMQ consumer: its own queue, bound to every chat, acknowledged by hand."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import cycle

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from gateway.event import Event, decode
from gateway.event_message import EXCHANGE
from gateway.urls import url_per_host

RECONNECT_SECONDS = 0.5


class SampleConsumer:
    """Keeps every event it got, in order, and how often; a repeat after an outage is no error.

    `url` may name all nodes of a cluster, as the gateway's: after a failure it goes on at the next.
    """

    def __init__(self, url: str, name: str = "demo", on_event: Callable[[Event], None] | None = None) -> None:
        self._urls = cycle(node.geturl() for node in url_per_host(url))
        self._queue_name = f"telegram.consumer.{name}"
        self._on_event = on_event
        self._connected = asyncio.Event()
        self._grown = asyncio.Event()
        self.events: dict[str, Event] = {}
        # Events that first came as redelivered: the broker had sent them to a connection that was lost.
        self.redelivered: set[str] = set()
        self.times: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Consumes until the block ends; enters it once the queue is bound."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run())
            try:
                await self._connected.wait()
                yield
            finally:
                task.cancel()

    async def wait_for(self, count: int) -> None:
        """Returns once `count` different events have come."""
        while len(self.events) < count:
            self._grown.clear()
            await self._grown.wait()

    async def _run(self) -> None:
        while True:
            with suppress(ConnectionError, aio_pika.exceptions.AMQPError, TimeoutError):
                await self._consume()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _consume(self) -> None:
        connection = await aio_pika.connect(next(self._urls), timeout=5)
        try:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=200)
            exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(
                self._queue_name, durable=True, arguments={"x-queue-type": "quorum"}
            )
            await queue.bind(exchange, "telegram.channel.#")
            self._connected.set()
            async with queue.iterator() as messages:
                async for message in messages:
                    self._take(message)
                    await message.ack()
        finally:
            await connection.close()

    def _take(self, message: AbstractIncomingMessage) -> None:
        event = decode(message.body)
        first = event.id not in self.times
        self.times[event.id] += 1
        if first:
            self.events[event.id] = event
            if message.redelivered:
                self.redelivered.add(event.id)
            self._grown.set()
            if self._on_event is not None:
                self._on_event(event)
