"""TP Capital's worker: `gateway.consumer` brings each event once, the parser reads it, the store keeps it.

A consumer of one's own needs little more than `Desk.handle` and the choice in `_CONSUMERS`; the rest
is what any long-running process of this gateway has: signals, systemd, an HTTP port.
"""

import asyncio
import signal

import structlog

from gateway import __version__
from gateway.consumer import (
    Consumer,
    Event,
    HybridConsumer,
    Ignored,
    Poller,
    QueueConsumer,
    Rejected,
    Transaction,
)
from gateway.consumer.database import Database
from gateway.errors import SchemaError, SinkUnavailable
from gateway.settings import Settings
from gateway.systemd import Notifier, Watchdog
from gateway.tasks import root_cause
from gateway.tp_capital import store
from gateway.tp_capital.http import Health, serve
from gateway.tp_capital.metrics import Metrics
from gateway.tp_capital.parser import Signal, parse
from gateway.tp_capital.settings import CONSUMER, TPCapitalSettings

log = structlog.get_logger()

STATUS_SECONDS = 5.0

_HAS_TABLE = "SELECT to_regclass('tp_capital.signals') IS NOT NULL"

_CONSUMERS: dict[str, type[Consumer]] = {
    "polling": Poller,
    "queue": QueueConsumer,
    "hybrid": HybridConsumer,
}


class Desk:
    """Takes events in: what becomes of each message, in the transaction that records it as done."""

    def __init__(self, mode: str, metrics: Metrics) -> None:
        self._mode = mode
        self._metrics = metrics

    async def handle(self, event: Event, transaction: Transaction) -> None:
        """Stores, changes or withdraws the message's signal.

        Raises Rejected for what was meant as a signal and is none, Ignored for everything else.
        """
        if event.kind == "message.deleted":
            return self._count(await store.delete(transaction, event, self._mode), "deleted")
        said = parse(event.content)
        if isinstance(said, Signal):
            return self._count(await store.save(transaction, event, said, self._mode))
        if said.is_failure or event.kind == "message.edited":
            outcome = await store.withdraw(transaction, event, said)
            if outcome is not None:
                return self._count(outcome, said)
        if said.is_failure:
            self._count("failed", said)
            raise Rejected(f"{said}: {said.explanation}")
        self._count("ignored", said)
        raise Ignored(f"{said}: {said.explanation}")

    def _count(self, outcome: str, reason: str = "") -> None:
        self._metrics.signals.labels(outcome, reason).inc()


class Worker:
    """The process around the desk."""

    def __init__(self, settings: TPCapitalSettings, gateway: Settings, notifier: Notifier) -> None:
        self._settings = settings
        self._notifier = notifier
        self._metrics = Metrics()
        self._consumer = _CONSUMERS[settings.mode](settings.consumer(gateway), registry=self._metrics.library)
        self._go = asyncio.Event()  # the database has answered, or there is to be a stop
        self._database_answers = False
        self._stopping = False

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Raises NeedsOperator errors when a person must act."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        address = self._settings.metrics_addr
        try:
            async with serve(address, self._metrics.registry, self._health), asyncio.TaskGroup() as group:
                log.info("tp_capital_started", version=__version__, mode=self._settings.mode)
                # Servers that are down are waited for: they are told in the status, and fail no start.
                self._notifier.ready(self._summary())
                parts = (Watchdog(self._notifier).run(), self._watch_database())
                beside = [group.create_task(part) for part in parts]
                await self._go.wait()
                async with self._consumer:
                    await self._consumer.run_in_transaction(Desk(self._settings.mode, self._metrics).handle)
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise root_cause(failures) from None
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        log.info("tp_capital_stopped")

    def _stop(self) -> None:
        log.info("tp_capital_stopping")
        self._stopping = True
        self._notifier.stopping("finishing what is being handled")
        self._consumer.stop()
        self._go.set()

    async def _watch_database(self) -> None:
        """Lets the work begin once the table is there. Raises SchemaError when the database lacks it."""
        settings = self._consumer.settings
        dsn, password = settings.database_dsn or "", settings.database_password
        async with Database(dsn, password, connections=1) as database:
            while True:
                try:
                    found = await database.fetchval(_HAS_TABLE)
                except SinkUnavailable:
                    self._database_answers = False
                else:
                    if not found:
                        raise SchemaError(
                            "the database has no table tp_capital.signals: run telegram-gateway db migrate"
                        )
                    self._database_answers = True
                    self._go.set()
                if not self._stopping:
                    self._notifier.status(self._summary())
                await asyncio.sleep(STATUS_SECONDS)

    def _health(self) -> Health:
        queue = self._metrics.library.get_sample_value(
            "telegram_consumer_queue_connected", {"consumer": CONSUMER}
        )
        facts = {
            "the database does not answer": not self._database_answers,
            "RabbitMQ is not connected": self._settings.mode != "polling" and not queue,
        }
        problems = tuple(problem for problem, holds in facts.items() if holds)
        queue_only = self._settings.mode == "queue"
        if not self._database_answers or not self._consumer.ready.is_set() or (queue_only and not queue):
            return Health("down", problems)
        return Health("degraded" if problems else "healthy", problems)

    def _summary(self) -> str:
        now = self._health()
        return f"{self._settings.mode}, {now.status}" + "".join(f"; {problem}" for problem in now.problems)
