"""Events from RabbitMQ, for the live stream: one queue for each process, which goes with its connection."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn
from uuid import uuid4

import aio_pika
import msgspec
import structlog
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from yarl import URL

from gateway.event import Event, decode
from gateway.event_message import EXCHANGE
from gateway.settings import Settings
from gateway.urls import url_per_host

log = structlog.get_logger()

EVERYTHING = "telegram.channel.#"
QUEUE_MESSAGES = 10_000  # that the broker keeps for a process that is slow; the database has the rest
PREFETCH = 500
CONNECT_SECONDS = 5.0
RECONNECT_SECONDS = 1.0  # doubles up to the longest
LONGEST_RECONNECT_SECONDS = 8.0
CLOSE_SECONDS = 1.0


class LiveEvents:
    """Awaits `bound` once the queue is there, then gives each event to `take`; calls `lost` at each end."""

    def __init__(
        self,
        settings: Settings,
        *,
        bound: Callable[[], Awaitable[None]],
        take: Callable[[Event], None],
        lost: Callable[[], None],
    ) -> None:
        self._nodes = deque(url_per_host(settings.rabbitmq_url.get_secret_value()))
        self._password = settings.rabbitmq_password
        self._bound = bound
        self._take = take
        self._lost = lost
        self._pause = RECONNECT_SECONDS

    async def run(self) -> NoReturn:
        """Until cancelled, whatever becomes of the broker."""
        while True:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await aio_pika.connect(self._url(), timeout=CONNECT_SECONDS)
                try:
                    await self._consume(connection)
                finally:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(CLOSE_SECONDS):
                            await connection.close()
            except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError) as error:
                log.warning("stream_without_rabbitmq", reason=str(error) or type(error).__name__)
                self._nodes.rotate(-1)
            self._lost()
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_RECONNECT_SECONDS)

    async def _consume(self, connection: AbstractConnection) -> None:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(
            f"telegram.api.stream.{uuid4().hex}",
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": QUEUE_MESSAGES, "x-overflow": "drop-head"},
        )
        await queue.bind(exchange, EVERYTHING)
        await self._bound()
        log.info("stream_live")
        self._pause = RECONNECT_SECONDS
        await queue.consume(self._take_message)
        await channel.closed()

    async def _take_message(self, message: AbstractIncomingMessage) -> None:
        # Nothing waits before the event is passed on: messages keep their order.
        if not message.headers.get("x-replay"):
            try:
                self._take(decode(message.body))
            except msgspec.ValidationError:
                log.warning("stream_not_an_event", message_id=message.message_id)
        await message.ack()

    def _url(self) -> URL:
        url = URL(self._nodes[0].geturl())
        return url.with_password(self._password.get_secret_value()) if self._password else url
