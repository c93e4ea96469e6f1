"""The dead letters of all consumers, in the queue `telegram.messages.dlq`: look, requeue, drop.

A quorum queue cannot be browsed, so to look is to take: every operation takes all letters, settles those it
is about, and gives the rest back. Taking fewer would put those that were taken behind the others. They are
given back by closing the channel of one consumer: many that are rejected would come back in any order.
Meanwhile it holds a lock in the broker, so that nobody finds the queue emptied by somebody else's look, and
no two operators requeue one letter. The lock is an exclusive queue: it goes with its owner's connection, and
when that is lost the letters come back as well.

A letter is acknowledged only when its consumer's queue has it for certain, so none is lost. One case is left
in which a letter is requeued twice: the connection is lost between the two. Both copies have its message id.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from aiormq.exceptions import ChannelLockedResource, ConnectionNotAllowed
from yarl import URL

from gateway.dead_letter import DeadLetter, read_letter, requeued
from gateway.errors import ConfigurationError, DeadLettersBusy, SinkUnavailable
from gateway.settings import Settings
from gateway.urls import url_per_host

QUEUE = "telegram.messages.dlq"
MOST_LETTERS = 10_000  # what the broker's policy lets the queue hold
OPEN_TIMEOUT = 5.0  # seconds, as all that follow
ANSWER_TIMEOUT = 30.0
LOCK_TIMEOUT = 30.0
LOCK_POLL = 0.05
RETURN_TIMEOUT = 2.0
RETURN_POLL = 0.01
QUIET = 0.3  # after which the broker is asked whether more is to come

_PREFETCH = 2 * MOST_LETTERS  # also what is parked meanwhile, so that it stays behind the others
# After so many acknowledgements one waits until the broker has them all. It may forget the last ones of a
# channel that is closed with more of them on their way than its own window of 32 (rabbitmq-server #10327).
_ACKNOWLEDGEMENTS = 16
_UNREACHABLE = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters: all for which every given condition holds. `chats` are chat keys."""

    ids: Collection[str] | None = None
    consumer: str | None = None
    chats: Collection[str] | None = None

    def holds(self, letter: DeadLetter) -> bool:
        """Whether the letter is one of these."""
        return (
            (self.ids is None or letter.id in self.ids)
            and (self.consumer is None or letter.consumer == self.consumer)
            and (self.chats is None or letter.chat_key in self.chats)
        )


EVERY = Selection()


@dataclass(frozen=True, slots=True)
class Listing:
    """The oldest letters that were asked for, and how many there are in all."""

    letters: Sequence[DeadLetter]
    total: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a letter that was to be requeued: `error` says why it is still a dead letter."""

    letter: DeadLetter
    error: str | None = None


class DeadLetters:
    """The dead-letter queue of the broker at `url`, which may name several hosts; connects for each call.

    Every method raises SinkUnavailable when the broker is away, ConfigurationError when it refuses or has no
    such queue, and DeadLettersBusy when somebody else is at the letters for too long.
    """

    def __init__(self, url: str, *, password: str | None = None) -> None:
        self._urls = [_with_password(part.geturl(), password) for part in url_per_host(url)]

    @classmethod
    def of(cls, settings: Settings) -> "DeadLetters":
        """Those of the configured broker."""
        password = settings.rabbitmq_password
        return cls(
            settings.rabbitmq_url.get_secret_value(),
            password=password.get_secret_value() if password is not None else None,
        )

    async def list(self, which: Selection = EVERY, limit: int = 100) -> Listing:
        """The oldest `limit` letters of `which`."""
        async with self._taken() as hand:
            letters = [letter for letter in hand.letters if which.holds(letter)]
        letters.sort(key=lambda letter: letter.at.timestamp() if letter.at else -math.inf)
        return Listing(letters[:limit], len(letters))

    async def find(self, which: Selection) -> tuple[DeadLetter, bytes] | None:
        """The first letter of `which`, and its body."""
        async with self._taken() as hand:
            found = next((letter for letter in hand.letters if which.holds(letter)), None)
            return (found, hand.body(found)) if found is not None else None

    async def requeue(self, which: Selection) -> Sequence[Outcome]:
        """Puts letters back into their consumers' own queues; one that no queue takes stays a dead letter."""
        async with self._taken() as hand:
            wanted = [letter for letter in hand.letters if which.holds(letter)]
            return [Outcome(letter, await hand.requeue(letter)) for letter in wanted]

    async def drop(self, which: Selection) -> Sequence[DeadLetter]:
        """Removes letters for good."""
        async with self._taken() as hand:
            dropped = [letter for letter in hand.letters if which.holds(letter)]
            for letter in dropped:
                await hand.settle(letter)
            return dropped

    @asynccontextmanager
    async def _taken(self) -> "AsyncIterator[_Hand]":
        connection = await self._connect()
        try:
            async with connection:
                await _lock(connection)
                publisher = await connection.channel(publisher_confirms=True, on_return_raises=True)
                hand = _Hand(await connection.channel(publisher_confirms=False), publisher)
                await hand.take()
                yield hand
                await hand.give_back()
        except ChannelNotFoundEntity:
            raise ConfigurationError(
                f"the broker has no queue {QUEUE!r}; load deploy/rabbitmq/definitions.json into it"
            ) from None
        except _UNREACHABLE as error:
            raise SinkUnavailable(
                f"RabbitMQ was lost while the dead letters were in hand ({error or 'no answer'}); they are "
                "back in the queue. One that was being requeued may be in its consumer's queue as well"
            ) from error

    async def _connect(self) -> AbstractConnection:
        failures = []
        for url in self._urls:
            place = f"{url.host}:{url.port or 5672}"
            try:
                async with asyncio.timeout(OPEN_TIMEOUT):
                    return await aio_pika.connect(
                        url, client_properties={"connection_name": "telegram-gateway dead letters"}
                    )
            except (AuthenticationError, ProbableAuthenticationError, ConnectionNotAllowed) as error:
                raise ConfigurationError(
                    f"RabbitMQ at {place} refuses ({error}); check TELEGRAM_RABBITMQ_URL and _PASSWORD, and "
                    "that its virtual host exists"
                ) from None
            except _UNREACHABLE as error:
                failures.append(f"RabbitMQ at {place}: {error or 'no answer'}")
        raise SinkUnavailable("; ".join(failures))


@dataclass(slots=True)
class _Hand:
    """All letters, taken out of the queue in its order."""

    _channel: AbstractChannel
    _publisher: AbstractChannel
    letters: list[DeadLetter] = field(default_factory=list)
    _queue: AbstractQueue = field(init=False)
    _tag: str = ""
    _arrived: "asyncio.Queue[AbstractIncomingMessage]" = field(default_factory=asyncio.Queue)
    _messages: dict[str, AbstractIncomingMessage] = field(default_factory=dict)  # by letter, until settled
    _alike: Counter[str] = field(default_factory=Counter)  # letters by what identifies them
    _unconfirmed: int = 0

    async def take(self) -> None:
        """Takes every letter that is in the queue now."""
        self._queue = await self._channel.declare_queue(QUEUE, passive=True)
        ready = min(self._queue.declaration_result.message_count or 0, MOST_LETTERS)
        if not ready:
            return
        await self._channel.set_qos(prefetch_count=_PREFETCH)
        self._tag = await self._queue.consume(self._arrived.put, no_ack=False)
        while len(self.letters) < ready:
            try:
                async with asyncio.timeout(QUIET):
                    self._add(await self._arrived.get())
            except TimeoutError:
                # Some may have expired since they were counted. This is answered after all on the way.
                await self._synchronise()
                if self._arrived.empty():
                    return

    def _add(self, message: AbstractIncomingMessage) -> None:
        letter = read_letter(message)
        self._alike[letter.id] += 1
        if self._alike[letter.id] > 1:
            letter = read_letter(message, self._alike[letter.id])
        self.letters.append(letter)
        self._messages[letter.id] = message

    def body(self, letter: DeadLetter) -> bytes:
        """What the letter's message says."""
        return self._messages[letter.id].body

    async def requeue(self, letter: DeadLetter) -> str | None:
        """Publishes a letter to its own queue, then acknowledges it. Returns why that was not possible."""
        if letter.queue is None or letter.queue == QUEUE:
            return "nothing says which queue it came from"
        copy = requeued(self._messages[letter.id], letter.requeued + 1)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._publisher.default_exchange.publish(copy, routing_key=letter.queue, mandatory=True)
        except PublishError:
            return f"the queue {letter.queue} is gone; its consumer makes it when it starts"
        except DeliveryError:
            return f"the queue {letter.queue} takes nothing now: it is full or has failed"
        await self.settle(letter)
        return None

    async def settle(self, letter: DeadLetter) -> None:
        """Acknowledges a letter: it is gone."""
        await self._messages.pop(letter.id).ack()
        self._unconfirmed += 1
        if self._unconfirmed >= _ACKNOWLEDGEMENTS:
            await self._synchronise()

    async def give_back(self) -> None:
        """Returns what is left, and waits until the queue has it: the next one in line must find it."""
        if not self._tag:
            return
        await self._synchronise()
        await self._queue.cancel(self._tag)
        left = len(self._messages) + self._arrived.qsize()
        complete = min(await self._ready() + left, MOST_LETTERS)
        await self._channel.close()
        with suppress(TimeoutError):  # some have expired in between
            async with asyncio.timeout(RETURN_TIMEOUT):
                while await self._ready() < complete:  # noqa: ASYNC110 - the broker tells nobody
                    await asyncio.sleep(RETURN_POLL)

    async def _synchronise(self) -> None:
        """Returns when the queue has applied every acknowledgement, and sent every letter there is."""
        # It answers in turn. What it should bring has gone to the consumer, unless that has its fill.
        message = await self._queue.get(no_ack=False, fail=False, timeout=ANSWER_TIMEOUT)
        if message is not None:
            self._arrived.put_nowait(message)
        self._unconfirmed = 0

    async def _ready(self) -> int:
        queue = await self._publisher.declare_queue(QUEUE, passive=True)
        return queue.declaration_result.message_count or 0


async def _lock(connection: AbstractConnection) -> None:
    """Returns when this connection is the only one at the letters."""
    end = asyncio.get_running_loop().time() + LOCK_TIMEOUT
    while asyncio.get_running_loop().time() < end:
        channel = await connection.channel()
        try:
            await channel.declare_queue(f"{QUEUE}.lock", exclusive=True)
        except ChannelLockedResource:
            await asyncio.sleep(LOCK_POLL)
        else:
            return
    raise DeadLettersBusy(
        f"somebody else has been at the dead letters for {LOCK_TIMEOUT:g} s, perhaps with many; try again"
    )


def _with_password(url: str, password: str | None) -> URL:
    """aio-pika's form of the URL; a password that is set apart wins over the URL's."""
    address = URL(url)
    if password is not None:
        address = address.with_password(password)
    certificates = address.query.get("cacertfile")
    return address.update_query(cafile=certificates) if certificates else address
