"""The queue side of a consumer: takes deliveries off its queues, over one connection after another.

`prefetch` messages are out at a time. Two things move that number. After a crash the broker counts a delivery
for everything that was out, so messages that came back more than once are taken alone: what kills the process
then spends its own deliveries up to the queue's limit, and not its neighbours'. And the messages of a chat
that waits for a retry would use up all places, so the consumer sets them aside and asks for as many again.
"""

import asyncio
from collections.abc import Callable, Collection

import msgspec
import structlog
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from gateway.consumer.backoff import Backoff
from gateway.consumer.broker import (
    ANSWER_TIMEOUT,
    Broker,
    DeadLetters,
    close_quietly,
    declare_dead_letters,
    declare_queues,
    sorted_failures,
)
from gateway.consumer.effects import Effects
from gateway.consumer.metrics import ConsumerMetrics
from gateway.consumer.settings import ConsumerSettings
from gateway.errors import SinkUnavailable
from gateway.event import SCHEMA_VERSION, Event, decode
from gateway.tasks import run_together

log = structlog.get_logger()

STANDBY_CHECK = 1.0  # seconds
# What is out when a connection ends goes back in the order of its subscriptions' tags, up to this many: the
# broker keeps them in an Erlang map, and one of more than 32 keys has no order.
SUBSCRIPTIONS = 32
SUSPECT_DELIVERIES = 2  # how often a message came back without an answer until it is taken alone


class QueueDelivery:
    """A message of a queue, read as an event if it can be."""

    source = "queue"

    def __init__(self, message: AbstractIncomingMessage, tap: "Tap", dead_letters: DeadLetters) -> None:
        self._message = message
        self._tap = tap
        self._dead_letters = dead_letters
        self.tag = message.consumer_tag
        self.event: Event | None = None
        self.problem = ""
        try:
            event = decode(message.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.problem = f"the body is no event: {error}"
        else:
            if event.v == SCHEMA_VERSION:
                self.event = event
            else:
                self.problem = f"the event is of version {event.v}; this consumer reads {SCHEMA_VERSION}"

    @property
    def chat(self) -> str:
        return self.event.chat_key if self.event is not None else ""

    @property
    def key(self) -> str:
        return self.event.id if self.event is not None else ""

    @property
    def reopened(self) -> bool:
        """`telegram-gateway dlq requeue` marks what it sends back."""
        return "x-requeued" in self._message.headers

    @property
    def deliveries(self) -> int:
        """How often it was delivered before without an answer."""
        count = self._message.headers.get("x-delivery-count", 0)
        return count if isinstance(count, int) else 0

    @property
    def traceparent(self) -> str | None:
        header = self._message.headers.get("traceparent")
        return header if isinstance(header, str) else None

    @property
    def stale(self) -> bool:
        """Whether its connection is gone: the broker delivers it again."""
        return self._tap.closed

    async def park(self, reason: str, attempts: int) -> None:
        await self._dead_letters.park(
            self._message.body,
            message_id=self._message.message_id,
            headers=self._message.headers,
            routing_key=self._message.routing_key or "",
            queue=self._tap.queue_name,
            reason=reason,
            attempts=attempts,
        )

    async def done(self) -> None:
        await self._tap.ack(self, self._message)


class QueueSource:
    """Feeds `effects` from the queues until the lanes are told to stop; reconnects for ever.

    A queue that is not `bound` gets nothing but what operators send back from the dead letters.
    """

    def __init__(
        self,
        settings: ConsumerSettings,
        effects: Effects,
        broker: Broker,
        dead_letters: DeadLetters,
        metrics: ConsumerMetrics,
        ready: asyncio.Event,
        *,
        bound: bool = True,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._effects = effects
        self._broker = broker
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._ready = ready
        self._bound = bound
        self._on_lost = on_lost
        self._losses = 0
        self.connected = False

    async def run(self) -> None:
        """Raises ConfigurationError when the broker refuses in a way that only a person can mend."""
        backoff = Backoff()
        stopping = self._effects.lanes.stopping
        while not stopping.is_set():
            try:
                await self._consume(backoff)
            except SinkUnavailable as error:
                self._metrics.reconnects.inc()
                seconds = backoff.next()
                log.warning(
                    "consumer_queue_unavailable",
                    consumer=self._settings.name,
                    reason=str(error),
                    delay_seconds=round(seconds, 2),
                )
                try:
                    async with asyncio.timeout(seconds):
                        await stopping.wait()
                except TimeoutError:
                    continue

    async def _consume(self, backoff: Backoff) -> None:
        """Consumes every queue over one connection, until that is lost or the consumer has stopped."""
        connection = await self._broker.connect()
        try:
            with sorted_failures(declaring=True):
                channel = await connection.channel()
                await declare_dead_letters(channel)
                queues = await declare_queues(channel, self._settings, bound=self._bound)
                taps = [
                    Tap(self._settings, self._effects, self._dead_letters, queue.name, losses=self._losses)
                    for queue in queues
                ]
                for tap in taps:
                    await tap.open(connection)
            backoff.reset()
            self._is_connected(True)
            if self._bound:
                self._ready.set()
            log.info("consumer_queue_connected", consumer=self._settings.name, queues=len(taps))
            await run_together(*(tap.run() for tap in taps))
        except SinkUnavailable:
            self._broker.next()
            raise
        finally:
            self._is_connected(False)
            await close_quietly(connection)

    def _is_connected(self, connected: bool) -> None:
        self._metrics.queue_connected.set(connected)
        was, self.connected = self.connected, connected
        if was and not connected:
            self._losses += 1
            self._on_lost()


class Tap:
    """Consumes one queue on one channel, after as many `losses` of this process' connections."""

    def __init__(
        self,
        settings: ConsumerSettings,
        effects: Effects,
        dead_letters: DeadLetters,
        queue_name: str,
        *,
        losses: int,
    ) -> None:
        self._settings = settings
        self._effects = effects
        self._dead_letters = dead_letters
        self._losses = losses
        self._lanes = effects.lanes
        self._loop = asyncio.get_running_loop()
        self.queue_name = queue_name
        self.closed = False
        self._why_closed = "the broker closed the channel"
        self._wake = asyncio.Event()
        self._out: set[QueueDelivery] = set()
        self._careful = True
        self._suspect = True
        self._generation = 0
        self._prefetch = 0
        self._full = False
        self._may_ack = asyncio.Event()
        self._may_ack.set()
        self._look_again = 0.0  # by the loop's clock

    async def open(self, connection: AbstractConnection) -> None:
        """Begins to consume, one message at a time."""
        self._channel = await connection.channel(publisher_confirms=False)
        self._channel.close_callbacks.add(self._on_close)
        underlay = await self._channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(self._on_cancel)
        self._queue = await self._channel.get_queue(self.queue_name, ensure=False)
        await self._begin(1)

    async def run(self) -> None:
        """Returns once all that was taken is done with; raises SinkUnavailable when the channel is lost."""
        self._lanes.listeners.add(self._wake.set)
        try:
            while not self._lanes.stopping.is_set():
                if self.closed:
                    raise SinkUnavailable(f"{self.queue_name}: {self._why_closed}")
                with sorted_failures():
                    await self._widen()
                await self._wake.wait()
                self._wake.clear()
            # The subscription ends with the connection: so the broker gets back all that is out, in its
            # order, before whoever stands by gets what follows.
            self._may_ack.set()
            await self._lanes.drained.wait()
        finally:
            self._lanes.listeners.discard(self._wake.set)
            self._on_close()

    async def ack(self, delivery: "QueueDelivery", message: AbstractIncomingMessage) -> None:
        """Acknowledges; a channel that is gone needs none, since the broker delivers again."""
        await self._may_ack.wait()
        self._out.discard(delivery)
        if self._careful or self._prefetch != self._settings.prefetch:
            self._wake.set()
        if self.closed:
            return
        try:
            await message.ack()
        except (AMQPError, ChannelInvalidStateError, OSError) as error:
            log.debug("consumer_ack_failed", queue=self.queue_name, reason=str(error))

    @property
    def _tag(self) -> str:
        # Padded: in the order of text, 2 would come after 10.
        return f"{self._settings.name}-{self._generation:06}"

    async def _widen(self) -> None:
        """Asks for more messages when the ones that are out leave too little room for others.

        For as many as are set aside, so that a few subscriptions hold all that may be; for the usual number
        again when none are.
        """
        usual, most = self._settings.prefetch, self._settings.set_aside
        if self._careful:
            if not self._suspect and await self._begin_anew(usual):
                self._careful = False
            return
        held = [item for item in self._lanes.waiting() if item in self._out]
        roomy = self._prefetch - self._out_of_subscription(held) > usual // 2
        if roomy and (held or self._prefetch == usual):
            self._may_ack.set()
        elif len(held) >= most or len({item.tag for item in self._out} | {self._tag}) >= SUBSCRIPTIONS:
            if not self._full:
                log.warning("consumer_set_aside_full", queue=self.queue_name, messages=len(held))
            self._full = True
            self._may_ack.set()
        elif await self._begin_anew(max(usual, min(len(held), most - len(held)))):
            self._full = False

    async def _begin_anew(self, prefetch: int) -> bool:
        """Asks for `prefetch` more messages if that costs no chat its order; returns whether it did.

        What is on its way to a subscription that ends goes back behind what came back to the queue before. So
        nothing may be on its way: all that the broker may give is here and stays unacknowledged meanwhile, or
        it has nothing to give. And nobody else may get what follows while some are out here.
        """
        if self._loop.time() < self._look_again:
            return False
        self._may_ack.clear()
        queue = await self._channel.declare_queue(self.queue_name, passive=True, timeout=ANSWER_TIMEOUT)
        # A subscription that ended counts for as long as something that came over it is out.
        ours = {item.tag for item in self._out} | {self._tag}
        followed = self._out and (queue.declaration_result.consumer_count or 0) > len(ours)
        under_way = (
            queue.declaration_result.message_count and self._out_of_subscription(self._out) < self._prefetch
        )
        if not followed and not under_way:
            await self._begin(prefetch)
            self._may_ack.set()
            return True
        self._loop.call_later(STANDBY_CHECK, self._wake.set)
        if followed:
            self._look_again = self._loop.time() + STANDBY_CHECK
        if followed or self._careful:
            self._may_ack.set()
        # Else what is under way wakes the tap as it comes, until all is here.
        return False

    def _out_of_subscription(self, items: Collection[object]) -> int:
        """How many of these came over the subscription that gives messages now."""
        return sum(1 for item in items if isinstance(item, QueueDelivery) and item.tag == self._tag)

    async def _begin(self, prefetch: int) -> None:
        # The broker gives a consumer its prefetch when it begins: a new one starts with all of it.
        if self._generation:
            await self._queue.cancel(self._tag, timeout=ANSWER_TIMEOUT)
        self._generation += 1
        self._prefetch = prefetch
        await self._channel.set_qos(prefetch, timeout=ANSWER_TIMEOUT)
        await self._queue.consume(self._on_message, consumer_tag=self._tag, timeout=ANSWER_TIMEOUT)

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        # Nothing is awaited here: messages enter the lanes in the order in which they came.
        if self._lanes.stopping.is_set():
            return
        delivery = QueueDelivery(message, self, self._dead_letters)
        self._out.add(delivery)
        # What this process was cut off from did not kill it.
        self._suspect = delivery.deliveries - self._losses >= SUSPECT_DELIVERIES
        if self._careful or not self._may_ack.is_set():
            self._wake.set()
        self._effects.submit(delivery)

    def _on_close(self, *_: object) -> None:
        self.closed = True
        self._may_ack.set()
        self._wake.set()

    def _on_cancel(self, *_: object) -> None:
        self._why_closed = "the broker ended the subscription (was the queue deleted?)"
        self._on_close()
