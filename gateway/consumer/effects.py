"""From a delivery to its effect, once: look up, handle, record, and only then let go.

What can be lost here is time, not an event: wherever the process dies, the event comes again. Between the
effect of a plain handler and its record there is a moment in which that means a repeat; a handler that writes
in the transaction it is given has no such moment.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypeVar

import structlog

from gateway.consumer.backoff import Backoff, delay_after
from gateway.consumer.database import Transaction
from gateway.consumer.delivery import Delivery
from gateway.consumer.lanes import Lane, Lanes, Stopping
from gateway.consumer.metrics import ConsumerMetrics
from gateway.consumer.outcomes import Ignored, Rejected, TryLater
from gateway.consumer.settings import ConsumerSettings
from gateway.consumer.state import BEGUN, MAX_REASON, AlreadyDone, State, Status, transactional
from gateway.consumer.tracing import traced
from gateway.errors import NeedsOperator, SinkUnavailable
from gateway.event import Event, utc_now

log = structlog.get_logger()

Handler: TypeAlias = Callable[[Event], Awaitable[None]]
TransactionHandler: TypeAlias = Callable[[Event, Transaction], Awaitable[None]]
Outcome = Literal["handled", "ignored", "parked", "duplicate", "unwanted"]

DIED = "the process died while it handled the event"

T = TypeVar("T")


class Effects:
    """Handles deliveries with one handler, in lanes."""

    def __init__(
        self,
        settings: ConsumerSettings,
        state: State,
        metrics: ConsumerMetrics,
        *,
        handler: Handler | None = None,
        transaction_handler: TransactionHandler | None = None,
    ) -> None:
        self._settings = settings
        self._state = state
        self._metrics = metrics
        self._handler = handler
        self._transaction_handler = transaction_handler
        self._in_transactions = transactional(state) if transaction_handler is not None else None
        self.lanes: Lanes[Delivery] = Lanes(settings.concurrency, self._settle)

    def submit(self, delivery: Delivery) -> None:
        """Hands a delivery over; it is let go of when its event is done with."""
        self._metrics.received(delivery.source)
        self.lanes.submit(delivery)

    async def _settle(self, delivery: Delivery, lane: Lane[Delivery]) -> None:
        self._metrics.in_flight.inc()
        try:
            outcome = await self._outcome(delivery, lane)
        finally:
            self._metrics.in_flight.dec()
        if outcome is None:
            return
        self._metrics.handled(outcome)
        if outcome == "handled" and delivery.event is not None:
            lag = (utc_now() - delivery.event.received_at).total_seconds()
            self._metrics.lag_seconds.observe(max(0.0, lag))
        await delivery.done()

    async def _outcome(self, delivery: Delivery, lane: Lane[Delivery]) -> Outcome | None:
        """What became of the delivery; None when it was dropped because it will come again."""
        event = delivery.event
        if event is None:
            return await self._park(delivery, lane, delivery.problem, 1, "unreadable")
        if not self._settings.wants(event):
            return "unwanted"
        standing = await self._patiently(lane, lambda: self._state.find(event))
        if standing.done or (standing.status == "failed" and not delivery.reopened):
            return "duplicate"
        failed = standing.failures
        reason = standing.error or ""
        if standing.error == BEGUN and failed:
            reason = DIED
            if failed < self._settings.attempts:
                await self._patiently(lane, lambda: self._state.record(event, "retrying", DIED))
        why = "attempts"
        if delivery.source != "queue" and failed < self._settings.attempts:
            # No broker counts how often this one kills the process.
            await self._patiently(lane, lambda: self._state.record(event, "received", BEGUN))
        away = Backoff(longest=self._settings.longest_delay.total_seconds())
        while failed < self._settings.attempts:
            try:
                async with self.lanes.place():
                    with traced(delivery, self._settings.name):
                        await self._attempt(event)
            except AlreadyDone:
                return "duplicate"
            except Ignored as verdict:
                await self._record(lane, event, "ignored", str(verdict))
                return "ignored"
            except Rejected as verdict:
                failed, reason, why = failed + 1, str(verdict) or "rejected", "rejected"
                break
            except (TryLater, SinkUnavailable) as error:
                seconds = away.next()
                log.info("consumer_handler_waits", **self._names(event), cause=type(error).__name__)
                await lane.pause(seconds)
            except NeedsOperator:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failed attempt
                failed, reason = failed + 1, _describe(error)
                if failed >= self._settings.attempts:
                    break
                seconds = delay_after(failed, self._settings.first_delay, self._settings.longest_delay)
                # Not what the error says: it may quote the message.
                log.warning(
                    "consumer_attempt_failed",
                    **self._names(event),
                    attempt=failed,
                    error=type(error).__name__,
                    delay_seconds=round(seconds, 3),
                )
                self._metrics.retries.inc()
                try:
                    await self._state.record(event, "retrying", reason)
                except SinkUnavailable:
                    log.debug("consumer_attempt_not_recorded", **self._names(event))
                await lane.pause(seconds)
            else:
                if self._in_transactions is None:
                    await self._record(lane, event, "published")
                return "handled"
        return await self._park(delivery, lane, reason, failed, why)

    async def _attempt(self, event: Event) -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.handler_limit.total_seconds()) as limit:
                if self._in_transactions is not None and self._transaction_handler is not None:
                    async with self._in_transactions.transaction(event) as transaction:
                        await self._transaction_handler(event, transaction)
                elif self._handler is not None:
                    await self._handler(event)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"the handler took longer than {self._settings.handler_limit}") from None
        finally:
            self._metrics.handler_seconds.observe(time.perf_counter() - begun)

    async def _park(
        self, delivery: Delivery, lane: Lane[Delivery], reason: str, attempts: int, why: str
    ) -> Outcome | None:
        # In this order: what is on record as given up is certainly among the dead letters.
        backoff = Backoff()
        while True:
            try:
                await delivery.park(reason[:MAX_REASON], attempts)
                break
            except SinkUnavailable as error:
                if delivery.stale:
                    return None
                log.debug("consumer_park_waits", consumer=self._settings.name, cause=str(error))
                await lane.pause(backoff.next())
        if delivery.event is not None:
            await self._record(lane, delivery.event, "failed", reason)
            log.warning("consumer_parked", **self._names(delivery.event), attempts=attempts, why=why)
        else:
            log.warning("consumer_parked", consumer=self._settings.name, attempts=attempts, why=why)
        self._metrics.parked(why)
        return "parked"

    async def _record(
        self, lane: Lane[Delivery], event: Event, status: Status, reason: str | None = None
    ) -> None:
        """Records what has happened, however long that takes: also while stopping, within its limit."""
        backoff = Backoff()
        while True:
            try:
                await self._state.record(event, status, reason)
            except SinkUnavailable as error:
                log.debug("consumer_record_waits", **self._names(event), cause=str(error))
                try:
                    await lane.pause(backoff.next())
                except Stopping:
                    await asyncio.sleep(backoff.next())
            else:
                return

    async def _patiently(self, lane: Lane[Delivery], call: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff()
        while True:
            try:
                return await call()
            except SinkUnavailable as error:
                log.debug("consumer_state_waits", consumer=self._settings.name, cause=str(error))
                await lane.pause(backoff.next())

    def _names(self, event: Event) -> dict[str, str]:
        return {"consumer": self._settings.name, "event_id": event.id}


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error.args[0] if error.args else ''}".rstrip(": ")
