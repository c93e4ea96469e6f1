"""One dead letter: a message that a consumer gave up on, or that the broker took out of a consumer's queue.

It reads the headers of both ways: those that the consumer library adds when it parks a message, and those
that RabbitMQ adds when it dead-letters one.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage

CONSUMER_HEADER = "x-consumer"
QUEUE_HEADER = "x-queue"
ATTEMPTS_HEADER = "x-attempts"
REASON_HEADER = "x-reason"
PARKED_AT_HEADER = "x-parked-at"
REQUEUED_HEADER = "x-requeued"

_COUNTED_BY_BROKER = frozenset({"x-delivery-count", "x-acquired-count"})  # looking at a letter changes them
_PARKING = frozenset({CONSUMER_HEADER, QUEUE_HEADER, ATTEMPTS_HEADER, REASON_HEADER, PARKED_AT_HEADER})
_DEATH = ("x-death", "x-first-death-", "x-last-death-")
_CONSUMER_QUEUE = re.compile(r"telegram\.consumer\.(?P<consumer>.+?)(\.-?\d+)?")
_CLOUD_SOURCE = "/telegram/"
_BROKERS_REASONS = {
    "rejected": "the consumer rejected it",
    "expired": "it expired in the queue",
    "maxlen": "the queue was full",
    "delivery_limit": "its consumer was given it too often, and crashed or lost its connection",
}


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a letter without reading its body.

    `id` stays the same however often the letter is looked at; two letters of one message, of different
    consumers or of different times, have different ones. `queue` is where it goes when it is requeued.
    `by` is who gave up on it. `headers` are all that came with it, as JSON values.
    """

    id: str
    message_id: str | None
    consumer: str | None
    queue: str | None
    reason: str
    by: Literal["consumer", "broker"]
    attempts: int | None
    at: datetime | None
    requeued: int
    kind: str | None
    chat_key: str | None
    telegram_message_id: int | None
    body_bytes: int
    headers: dict[str, Any]


def read_letter(message: AbstractIncomingMessage, occurrence: int = 1) -> DeadLetter:
    """The letter that `message` is; `occurrence` numbers letters that are alike in everything."""
    headers = {
        name: value for name, value in _plain(message.headers).items() if name not in _COUNTED_BY_BROKER
    }
    death = _last_death(headers)
    parked = REASON_HEADER in headers or PARKED_AT_HEADER in headers
    queue = _text(headers.get(QUEUE_HEADER)) or _text(death.get("queue"))
    source = _text(headers.get("cloudEvents_source")) or ""
    chat = source.removeprefix(_CLOUD_SOURCE) if source.startswith(_CLOUD_SOURCE) else None
    identity = _identity(message, headers)
    return DeadLetter(
        id=identity if occurrence == 1 else f"{identity}-{occurrence}",
        message_id=message.message_id,
        consumer=_text(headers.get(CONSUMER_HEADER)) or _consumer_of(queue),
        queue=queue,
        reason=(_text(headers.get(REASON_HEADER)) if parked else _brokers_reason(death))
        or "no reason is given",
        by="consumer" if parked else "broker",
        attempts=_number(headers.get(ATTEMPTS_HEADER)),
        at=_moment(headers.get(PARKED_AT_HEADER)) if parked else _moment(death.get("time")),
        requeued=_number(headers.get(REQUEUED_HEADER)) or 0,
        kind=_text(headers.get("x-kind")),
        chat_key=chat or _text(headers.get("x-channel-id")),
        telegram_message_id=_number(headers.get("cloudEvents_subject")),
        body_bytes=len(message.body),
        headers=headers,
    )


def requeued(message: AbstractIncomingMessage, times: int) -> Message:
    """The message as it was before it died, marked as requeued for the `times`-th time.

    What was noted at its death goes, so that its consumer tries it afresh and the next death is told plainly.
    """
    headers = {
        name: value
        for name, value in message.headers.items()
        if name not in _PARKING and name not in _COUNTED_BY_BROKER and not name.startswith(_DEATH)
    }
    return Message(
        message.body,
        headers=headers | {REQUEUED_HEADER: times},
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=DeliveryMode.PERSISTENT,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        message_id=message.message_id,
        timestamp=message.timestamp,
        type=message.type,
        app_id=message.app_id,
    )


def _identity(message: AbstractIncomingMessage, headers: dict[str, Any]) -> str:
    parts = (message.message_id, sorted(headers.items()))
    digest = hashlib.blake2b(msgspec.json.encode(parts), digest_size=8)
    digest.update(message.body)
    return digest.hexdigest()


def _last_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """RabbitMQ's record of the last time that it dead-lettered the message; it puts the newest first."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return deaths[0]
    names = {"queue": "x-first-death-queue", "reason": "x-first-death-reason"}
    return {key: headers[name] for key, name in names.items() if name in headers}


def _brokers_reason(death: Mapping[str, Any]) -> str | None:
    reason = _text(death.get("reason"))
    return _BROKERS_REASONS.get(reason, reason) if reason else None


def _consumer_of(queue: str | None) -> str | None:
    match = _CONSUMER_QUEUE.fullmatch(queue or "")
    return match["consumer"] if match else None


def _plain(value: Any) -> Any:
    """A header's value as a JSON value."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case bytes() | bytearray():
            return bytes(value).decode(errors="replace")
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case None | bool() | int() | float() | str():
            return value
    return str(value)


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
