"""The RabbitMQ consumer of the benchmark: when each message came, at little cost, through broker restarts."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import commands

from gateway.event_message import EXCHANGE
from gateway.sinks.amqp import CHANNEL, AmqpError, Publisher
from tests.bench import stamp

QUEUE = "telegram.consumer.bench"
PREFETCH = 5_000
ACK_SECONDS = 0.05
RECONNECT_SECONDS = 0.2
_METHOD_AT = slice(7, 11)  # in a frame
_DELIVER = b"\x00\x3c\x00\x3c"
POLL_SECONDS = 0.05  # no figure depends on it: each message carries its own times


class Receiver:
    """A durable quorum queue bound to every chat, as consumers have it, acknowledged many at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._bound = asyncio.Event()
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
            with suppress(AmqpError, OSError):
                await self._consume()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _consume(self) -> None:
        connection = await _Connection.open(self._url, self._take)
        try:
            await connection.call(
                commands.Queue.Declare(queue=QUEUE, durable=True, arguments={"x-queue-type": "quorum"}),
                commands.Queue.DeclareOk,
            )
            await connection.call(
                commands.Exchange.Declare(exchange=EXCHANGE, exchange_type="topic", durable=True),
                commands.Exchange.DeclareOk,
            )
            bind = commands.Queue.Bind(queue=QUEUE, exchange=EXCHANGE, routing_key="telegram.channel.#")
            await connection.call(bind, commands.Queue.BindOk)
            await connection.call(commands.Basic.Qos(prefetch_count=PREFETCH), commands.Basic.QosOk)
            await connection.call(commands.Basic.Consume(queue=QUEUE), commands.Basic.ConsumeOk)
            self._bound.set()
            while not connection.lost:
                connection.acknowledge()
                await asyncio.sleep(ACK_SECONDS)
        finally:
            await connection.close()

    def _take(self, number: int, posted_at: int) -> None:
        self.arrivals.setdefault(number, (posted_at, time.monotonic_ns()))


class _Connection(Publisher):
    """The gateway's own AMQP connection, reading: a task and a dozen objects a message would take a third of
    a core, in which every subject's figures would be those of its consumer."""

    _taken: Callable[[int, int], None]
    _rest = b""
    _tag = _acked = 0

    @classmethod
    async def open(cls, url: str, taken: Callable[[int, int], None]) -> Self:
        """Raises AmqpError or OSError. `taken` is told each message's number and when it was posted."""
        parts = urlsplit(url)
        connection = await cls.connect(
            parts.hostname or "localhost",
            parts.port or 5672,
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            virtual_host=unquote(parts.path[1:]) or "/",
            on_blocked=lambda _: None,
            on_returned=lambda: None,
        )
        connection._taken = taken
        return connection

    @property
    def lost(self) -> bool:
        return self._error is not None

    def acknowledge(self) -> None:
        """Acknowledges all that has come."""
        if self._tag > self._acked:
            self._acked = self._tag
            self._write(pamqp.frame.marshal(commands.Basic.Ack(self._tag, multiple=True), CHANNEL))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        text = self._rest + data
        end = 0
        for found in stamp.STAMP.finditer(text):
            end = found.end()
            self._taken(int(found[1]), int(found[2]))
        self._rest = text[max(end, len(text) - stamp.MOST_BYTES) :]

    def _method(self, data: bytes) -> None:
        if data[_METHOD_AT] == _DELIVER:
            self._tag += 1
        else:
            super()._method(data)
