"""An event that a poll found, on its way to the handler."""

import msgspec
import structlog

from gateway.consumer.broker import DeadLetters
from gateway.errors import SinkUnavailable
from gateway.event import Event, encode, new_id
from gateway.event_message import headers_of, routing_key

log = structlog.get_logger()


class PolledDelivery:
    """Nobody waits for an answer: what is not on record as done is found again."""

    problem = ""
    reopened = False
    stale = False
    traceparent: str | None = None

    def __init__(self, event: Event, source: str, queue: str, dead_letters: DeadLetters | None) -> None:
        self.event: Event | None = event
        self.source = source
        self._event = event
        self._queue = queue
        self._dead_letters = dead_letters

    @property
    def chat(self) -> str:
        return self._event.chat_key

    @property
    def key(self) -> str:
        return self._event.id

    async def park(self, reason: str, attempts: int) -> None:
        """The record in the database is what counts here; with RabbitMQ away, it is all there is."""
        if self._dead_letters is None:
            return
        event = self._event
        try:
            await self._dead_letters.park(
                encode(event),
                message_id=event.id,
                headers=headers_of(event),
                routing_key=routing_key(event.channel_id, event.kind),
                queue=self._queue,
                reason=reason,
                attempts=attempts,
            )
        except SinkUnavailable as error:
            log.warning("consumer_dead_letter_skipped", event_id=event.id, cause=str(error))

    async def done(self) -> None:
        return


def as_message(event: Event) -> Event:
    """The message that an edit shows, as if it had been first seen like that."""
    if event.kind == "message.new":
        return event
    identity = new_id(event.account_scope, event.channel_id, event.message_id)
    return msgspec.structs.replace(event, id=identity, kind="message.new")
