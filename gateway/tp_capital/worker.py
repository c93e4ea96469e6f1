"""TP Capital's worker: `gateway.consumer` brings each event once, the parser reads it, the store keeps it.

A consumer of one's own needs little more than `Desk.handle` and the choice in `_CONSUMERS`; the rest
is what any long-running process of this gateway has: signals, systemd, an HTTP port.
"""

import asyncio
import signal
from contextlib import suppress

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
from gateway.consumer.backoff import Backoff
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
            await store.delete(transaction, event, self._mode)
            return self._count("withdrawn", "deleted")
        said = parse(event.content)
        if isinstance(said, Signal):
            stored = await store.save(transaction, event, said, self._mode)
            return self._count("stored" if stored else "outdated")
        if event.kind == "message.edited" and await store.withdraw(transaction, event, said):
            return self._count("withdrawn", said)
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
        self._stopping = asyncio.Event()

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
                beside = [
                    group.create_task(Watchdog(self._notifier).run()),
                    group.create_task(self._report()),
                ]
                await self._require_table()
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
        self._notifier.stopping("finishing what is being handled")
        self._stopping.set()
        self._consumer.stop()

    async def _require_table(self) -> None:
        """Waits for the database. Raises SchemaError when it was not migrated."""
        settings, backoff = self._consumer.settings, Backoff()
        async with Database(
            settings.database_dsn or "", settings.database_password, connections=1
        ) as database:
            while not self._stopping.is_set():
                try:
                    async with database.connection() as connection:
                        found = await connection.fetchval(
                            "SELECT to_regclass('tp_capital.signals') IS NOT NULL"
                        )
                except SinkUnavailable:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(backoff.next()):
                            await self._stopping.wait()
                    continue
                if not found:
                    raise SchemaError(
                        "the database has no table tp_capital.signals: run telegram-gateway db migrate"
                    )
                return

    def _health(self) -> Health:
        reached = self._consumer.ready.is_set()
        problems = [] if reached else ["waiting for the servers"]
        connected = self._metrics.library.get_sample_value(
            "telegram_consumer_queue_connected", {"consumer": CONSUMER}
        )
        if self._settings.mode != "polling" and not connected:
            problems.append("RabbitMQ is not connected")
        if not reached or (self._settings.mode == "queue" and not connected):
            return Health("down", tuple(problems))
        return Health("degraded" if problems else "healthy", tuple(problems))

    def _summary(self) -> str:
        now = self._health()
        return f"{self._settings.mode}, {now.status}" + "".join(f"; {problem}" for problem in now.problems)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            if not self._stopping.is_set():
                self._notifier.status(self._summary())
