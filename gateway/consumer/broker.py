"""Connections to RabbitMQ: the next node of a cluster after a failure, what is declared, the dead letters.

What is declared equals deploy/rabbitmq/definitions.json, so that either may come first.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import aio_pika
import structlog
import yarl
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractQueue
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
)
from aiormq.exceptions import ChannelAccessRefused, ConnectionNotAllowed

from gateway.consumer.settings import ConsumerSettings
from gateway.errors import ConfigurationError, SinkUnavailable
from gateway.event import utc_now
from gateway.event_message import EXCHANGE, routing_key
from gateway.urls import url_per_host

log = structlog.get_logger()

DEAD_LETTER_EXCHANGE = "telegram.messages.dlx"
DEAD_LETTER_QUEUE = "telegram.messages.dlq"
DELIVERY_LIMIT = 20  # how often a message that kills its consumer comes again

CONNECT_TIMEOUT = 5.0  # seconds
ANSWER_TIMEOUT = 10.0  # seconds
HEARTBEAT = 10  # seconds

# `x-single-active-consumer`: of several processes of one consumer one is served and the others stand by, or
# the order of a chat would be lost. The rest is the policy of definitions.json, for brokers without it.
QUEUE_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-delivery-limit": DELIVERY_LIMIT,
}


class Broker:
    """Opens connections to the node that last let one in, or the next one that does."""

    def __init__(self, settings: ConsumerSettings) -> None:
        if settings.rabbitmq_url is None:
            raise ConfigurationError(f"consumer {settings.name} reads a queue: give it rabbitmq_url")
        self._urls = deque(_amqp_url(part.geturl(), settings) for part in url_per_host(settings.rabbitmq_url))

    async def connect(self) -> AbstractConnection:
        """A connection. Raises SinkUnavailable, or ConfigurationError when every node refuses for good."""
        failures: list[SinkUnavailable | ConfigurationError] = []
        while len(failures) < len(self._urls):
            try:
                with sorted_failures(_place(self._urls[0])):
                    return await aio_pika.connect(self._urls[0], timeout=CONNECT_TIMEOUT)
            except (SinkUnavailable, ConfigurationError) as failure:
                failures.append(failure)
                self._urls.rotate(-1)
        refused = all(isinstance(failure, ConfigurationError) for failure in failures)
        raise (ConfigurationError if refused else SinkUnavailable)("; ".join(map(str, failures)))

    def next(self) -> None:
        """The connection that was made last was lost: another node comes first now."""
        self._urls.rotate(-1)


@contextmanager
def sorted_failures(place: str = "", *, declaring: bool = False) -> Iterator[None]:
    """Turns what aio-pika raises into SinkUnavailable, or ConfigurationError where a person must act."""
    where = f"RabbitMQ at {place}" if place else "RabbitMQ"
    try:
        yield
    except ChannelPreconditionFailed as error:
        if not declaring:
            # A message was out for longer than the broker's consumer_timeout.
            raise SinkUnavailable(f"{where}: {error}") from error
        raise ConfigurationError(
            f"{where} has an exchange or queue that was declared otherwise ({error}); "
            "delete it, or correct what declared it: deploy/rabbitmq/definitions.json says how it must be"
        ) from None
    except (AuthenticationError, ConnectionNotAllowed) as error:
        raise ConfigurationError(
            f"{where} refuses the login ({error}); check user, password and virtual host of the URL"
        ) from None
    except ChannelAccessRefused as error:
        raise ConfigurationError(
            f"{where} refuses a right ({error}); the user must configure, write and read its queues"
        ) from None
    except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError) as error:
        raise SinkUnavailable(f"{where}: {str(error) or type(error).__name__}") from error


async def declare_exchange(channel: AbstractChannel) -> AbstractExchange:
    """The exchange that the gateway publishes to."""
    return await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True, timeout=ANSWER_TIMEOUT)


async def declare_dead_letters(channel: AbstractChannel) -> AbstractExchange:
    """The exchange and the queue of the dead letters, bound."""
    exchange = await channel.declare_exchange(
        DEAD_LETTER_EXCHANGE, ExchangeType.FANOUT, durable=True, timeout=ANSWER_TIMEOUT
    )
    queue = await channel.declare_queue(
        DEAD_LETTER_QUEUE, durable=True, arguments={"x-queue-type": "quorum"}, timeout=ANSWER_TIMEOUT
    )
    await queue.bind(exchange, timeout=ANSWER_TIMEOUT)
    return exchange


async def declare_queues(
    channel: AbstractChannel, settings: ConsumerSettings, *, bound: bool
) -> list[AbstractQueue]:
    """The consumer's queue or queues, and if `bound`, their bindings to what it wants."""
    exchange = await declare_exchange(channel)
    ids = tuple(dict.fromkeys(chat.rpartition("/")[2] for chat in settings.chats))
    wanted: dict[str, tuple[str, ...]] = {f"{settings.queue}.{chat}": (chat,) for chat in ids}
    if not settings.queue_per_chat:
        wanted = {settings.queue: ids or ("*",)}
    queues = []
    for name, chats in wanted.items():
        queue = await channel.declare_queue(
            name, durable=True, arguments=QUEUE_ARGUMENTS, timeout=ANSWER_TIMEOUT
        )
        for chat in chats if bound else ():
            for kind in settings.kinds:
                await queue.bind(exchange, routing_key(chat, kind), timeout=ANSWER_TIMEOUT)
        queues.append(queue)
    return queues


class DeadLetters:
    """Parks what was given up in `telegram.messages.dlq`; its connection opens at the first of them."""

    def __init__(self, broker: Broker, settings: ConsumerSettings) -> None:
        self._broker = broker
        self._settings = settings
        self._lock = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None

    async def park(
        self,
        body: bytes,
        *,
        message_id: str | None,
        headers: Mapping[str, Any],
        routing_key: str,
        queue: str,
        reason: str,
        attempts: int,
    ) -> None:
        """Returns once the broker has confirmed the letter. Raises SinkUnavailable."""
        parked_at = utc_now().astimezone(UTC).isoformat().replace("+00:00", "Z")
        message = Message(
            body,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=message_id,
            headers={
                **headers,
                "x-consumer": self._settings.name,
                "x-queue": queue,
                "x-attempts": attempts,
                "x-reason": reason.replace("\0", "").encode(errors="replace").decode(),
                "x-parked-at": parked_at,
            },
        )
        async with self._lock:  # one after another: they are few, and their order is their chat's
            try:
                with sorted_failures(declaring=True):
                    exchange = self._exchange or await self._open()
                    await exchange.publish(message, routing_key, mandatory=True, timeout=ANSWER_TIMEOUT)
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Disconnects."""
        self._exchange = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await close_quietly(connection)

    async def _open(self) -> AbstractExchange:
        self._connection = await self._broker.connect()
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchange = await declare_dead_letters(channel)
        return self._exchange


async def close_quietly(connection: AbstractConnection) -> None:
    """Closes a connection that may be broken, without waiting for a server that is gone."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await connection.close()
    except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError) as error:
        log.debug("consumer_close_failed", reason=str(error) or type(error).__name__)


def _amqp_url(url: str, settings: ConsumerSettings) -> yarl.URL:
    parsed = yarl.URL(url)
    if settings.rabbitmq_password is not None:
        parsed = parsed.with_password(settings.rabbitmq_password)
    # The gateway's URLs name the authorities' file as the broker's other clients do.
    query = {"cafile" if name == "cacertfile" else name: value for name, value in parsed.query.items()}
    return parsed.with_query({"heartbeat": str(HEARTBEAT), **query})


def _place(url: yarl.URL) -> str:
    return f"{url.host}:{url.port or (5671 if url.scheme == 'amqps' else 5672)}"
