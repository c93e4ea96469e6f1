"""What every consumer is: connections, one handler, a way to stop, and one or more sources of events."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import structlog
from prometheus_client import CollectorRegistry

from gateway.consumer.broker import Broker, DeadLetters
from gateway.consumer.database import Database
from gateway.consumer.effects import Effects, Handler, TransactionHandler
from gateway.consumer.hints import Cache, Hints
from gateway.consumer.metrics import ConsumerMetrics
from gateway.consumer.poll import PollSource
from gateway.consumer.queue import QueueSource
from gateway.consumer.settings import ConsumerSettings
from gateway.consumer.state import DatabaseState, HintState, NoState, State
from gateway.errors import ConfigurationError
from gateway.tasks import root_cause

log = structlog.get_logger()

_SPARE_CONNECTIONS = 2  # besides one for each chat at work: a poll, a record


class Source(Protocol):
    """Where events come from."""

    async def run(self) -> None:
        """Feeds the lanes until they are told to stop."""
        ...


class Consumer(ABC):
    """`async with` it, then `run` it once with a handler; `stop` or a cancellation ends it.

    Whatever is being handled then may finish, for `stop_limit`; the rest comes again.
    """

    _needs_queue: ClassVar[bool] = True

    def __init__(self, settings: ConsumerSettings, *, registry: CollectorRegistry | None = None) -> None:
        self.settings = settings
        self.metrics = ConsumerMetrics(settings.name, registry)
        self._resources = AsyncExitStack()
        self._database: Database | None = None
        self._cache: Cache | None = None
        self._broker: Broker | None = None
        if settings.database_dsn is not None:
            self._database = Database(
                settings.database_dsn,
                settings.database_password,
                connections=settings.concurrency + _SPARE_CONNECTIONS,
            )
        if settings.redis_url is not None or settings.redis_sentinels:
            self._cache = Cache(settings)
        if settings.rabbitmq_url is not None or self._needs_queue:
            self._broker = Broker(settings)
        self._dead_letters = DeadLetters(self._broker, settings) if self._broker is not None else None
        self._opened = False
        self._stopping = asyncio.Event()
        self.ready = asyncio.Event()  # set once events can come

    async def __aenter__(self) -> Self:
        if self._database is not None:
            await self._resources.enter_async_context(self._database)
        if self._cache is not None:
            self._resources.push_async_callback(self._cache.close)
        if self._dead_letters is not None:
            self._resources.push_async_callback(self._dead_letters.close)
        self._opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    def stop(self) -> None:
        """Ends `run` once what is being handled is done."""
        self._stopping.set()

    async def run(self, handler: Handler) -> None:
        """Hands each event to `handler`, and records that it is done when that returns.

        Returns after `stop`. Raises ConfigurationError or SchemaError when a person must act.
        """
        await self._serve(Effects(self.settings, self._state(), self.metrics, handler=handler))

    async def run_in_transaction(self, handler: TransactionHandler) -> None:
        """As `run`, with a transaction of the gateway's database in which the event is recorded as done.

        What `handler` writes with it is committed together with that record, or not at all.
        """
        await self._serve(Effects(self.settings, self._state(), self.metrics, transaction_handler=handler))

    def _state(self) -> State:
        hints = Hints(self._cache, self.settings) if self._cache is not None else None
        if self.settings.state == "database" and self._database is not None:
            return DatabaseState(self._database, self.settings.name, hints)
        if self.settings.state == "redis" and hints is not None:
            return HintState(hints)
        return NoState()

    @abstractmethod
    def _sources(self, effects: Effects) -> Sequence[Source]:
        """Where the events come from."""

    def _queue_source(self, effects: Effects, **options: Any) -> QueueSource:
        if self._broker is None or self._dead_letters is None:
            raise ConfigurationError(f"consumer {self.settings.name} reads a queue: give it rabbitmq_url")
        return QueueSource(
            self.settings, effects, self._broker, self._dead_letters, self.metrics, self.ready, **options
        )

    def _poll_source(self, effects: Effects, **options: Any) -> PollSource:
        database = self._database if self.settings.state == "database" else None
        if self.settings.state == "none" or (database is None and self._cache is None):
            raise ConfigurationError(f"consumer {self.settings.name} polls: it must keep a state")
        return PollSource(
            self.settings,
            effects,
            self.metrics,
            database=database,
            cache=self._cache,
            dead_letters=self._dead_letters,
            ready=self.ready,
            **options,
        )

    async def _serve(self, effects: Effects) -> None:
        if not self._opened:
            async with self:
                return await self._serve(effects)
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._work(effects))
                try:
                    await asyncio.shield(work)
                except asyncio.CancelledError:
                    # Handlers are not broken off for it, unless it comes twice.
                    self.stop()
                    await asyncio.shield(work)
                    raise
        except BaseExceptionGroup as failures:
            raise root_cause(failures) from None

    async def _work(self, effects: Effects) -> None:
        async with asyncio.TaskGroup() as group:
            effects.lanes.start(group)
            for source in self._sources(effects):
                group.create_task(source.run())
            await self._stopping.wait()
            late = await effects.lanes.drain(self.settings.stop_limit.total_seconds())
            log.info("consumer_stopped", consumer=self.settings.name, handlers_broken_off=late)


class QueueConsumer(Consumer):
    """Reads its own queue on the gateway's exchange."""

    def _sources(self, effects: Effects) -> Sequence[Source]:
        return [self._queue_source(effects)]


class Poller(Consumer):
    """Asks Redis, and the database behind it. Needs no RabbitMQ.

    With one, what it gives up is a dead letter too, and what an operator sends back comes over its queue.
    """

    _needs_queue = False

    def _sources(self, effects: Effects) -> Sequence[Source]:
        polls = self._poll_source(effects)
        return [polls] if self._broker is None else [polls, self._queue_source(effects, bound=False)]


class HybridConsumer(Consumer):
    """Reads its queue, and polls for what that missed: now and then, but often while the queue is away."""

    def _sources(self, effects: Effects) -> Sequence[Source]:
        queue: QueueSource
        polls = self._poll_source(effects, queue_delivers=lambda: queue.connected)
        queue = self._queue_source(effects, on_lost=polls.wake.set)
        return [queue, polls]
