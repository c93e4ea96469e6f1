"""The RabbitMQ consumer of the benchmark: when each message came, at little cost, through broker restarts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AMQPError

from gateway.demo.consumer import EXCHANGE
from tests.bench import stamp

QUEUE = "telegram.consumer.bench"
PREFETCH = 5_000
ACK_SECONDS = 0.05
RECONNECT_SECONDS = 0.2
POLL_SECONDS = 0.05  # no figure depends on it: each message carries its own times


class Receiver:
    """A durable quorum queue bound to every chat, as consumers have it, acknowledged many at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._bound = asyncio.Event()
        self._last_tag: int | None = None
        # Message number: when it was posted and when it first came, in CLOCK_MONOTONIC nanoseconds.
        self.arrivals: dict[int, tuple[int, int]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Consumes until the block ends; enters it once the queue is bound."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run())
            try:
                await self._bound.wait()
                yield
            finally:
                task.cancel()

    async def wait_for(self, first: int, count: int, patience: float) -> None:
        """Returns once `count` messages from `first` on came, or none has come for `patience` seconds."""
        seen, seen_at = 0, time.monotonic()
        while seen < count and time.monotonic() - seen_at < patience:
            await asyncio.sleep(POLL_SECONDS)
            before, seen = seen, sum(first <= number < first + count for number in self.arrivals)
            if seen != before:
                seen_at = time.monotonic()

    def forget(self) -> None:
        self.arrivals.clear()

    async def _run(self) -> None:
        while True:
            with suppress(AMQPError, OSError, TimeoutError):
                await self._consume()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _consume(self) -> None:
        connection = await aiormq.connect(self._url)
        try:
            channel = await connection.channel()
            await channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
            await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
            await channel.queue_bind(QUEUE, EXCHANGE, "telegram.channel.#")
            await channel.basic_qos(prefetch_count=PREFETCH)
            self._last_tag = None
            await channel.basic_consume(QUEUE, self._take)
            self._bound.set()
            while not channel.is_closed:
                await self._acknowledge(channel)
        finally:
            with suppress(AMQPError, OSError, asyncio.TimeoutError):
                await connection.close()

    async def _acknowledge(self, channel: AbstractChannel) -> None:
        tag, self._last_tag = self._last_tag, None
        if tag is not None:
            await channel.basic_ack(tag, multiple=True, wait=False)
        await asyncio.sleep(ACK_SECONDS)

    async def _take(self, message: DeliveredMessage) -> None:
        now = time.monotonic_ns()
        self._last_tag = message.delivery_tag
        stamped = stamp.read(message.body)
        if stamped is not None:
            self.arrivals.setdefault(stamped[0], (stamped[1], now))
