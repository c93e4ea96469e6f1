"""A message as the API shows it: its model, for the OpenAPI document, and how it is written, by hand.

There may be a thousand messages in an answer, so they do not pass through pydantic.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec
from pydantic import Field
from pydantic.alias_generators import to_camel

from gateway.api.model import ApiModel, Moment
from gateway.event import ChatType, Event, Kind, MessageType, Source, decode
from gateway.read import HotPage, Processing, StoredMessage
from gateway.read.highlight import snippet, utf16
from gateway.read.records import Status


class SenderModel(ApiModel):
    """Who wrote a message: a user, or a channel under its own name."""

    id: int = Field(examples=[-1001649127710])
    name: str | None = Field(examples=["Sinais da Bolsa"])
    username: str | None = Field(examples=["sinaisdabolsa"])


class ProcessingModel(ApiModel):
    """What a consumer noted about a message."""

    consumer: str = Field(examples=["tp-capital"])
    status: Status = Field(description="`published` is what was marked as processed.", examples=["failed"])
    attempts: int = Field(examples=[3])
    error: str | None = Field(examples=["no buy range and no target with a stop"])
    at: Moment


class HitModel(ApiModel):
    """A place in the text or caption, in UTF-16 code units, as Telegram's entities and JavaScript count."""

    offset: int = Field(examples=[7])
    length: int = Field(examples=[5])


class HighlightModel(ApiModel):
    """What a search found in a message."""

    field: Literal["text", "caption"]
    ranges: list[HitModel]
    snippet: str = Field(
        description="HTML: the text round the first hits, all of it escaped, the hits in `<mark>`, and no "
        "other markup.",
        examples=["COMPRA <mark>PETR4</mark>: 25,50 a 26,00"],
    )


class Message(ApiModel):
    """A message in its newest revision: the event that was last delivered for it."""

    id: str = Field(description="The event's id.", examples=["0:-1001649127710:4711"])
    kind: Kind
    account: str = Field(examples=["main"])
    account_scope: int = Field(examples=[0])
    channel_id: str = Field(examples=["-1001649127710"])
    chat_type: ChatType
    chat_title: str | None = Field(examples=["Sinais da Bolsa"])
    chat_username: str | None = Field(examples=["sinaisdabolsa"])
    message_id: int = Field(examples=[4711])
    thread_id: int | None
    grouped_id: int | None = Field(description="Of an album; may exceed 2^53.")
    reply_to: dict[str, Any] | None = Field(examples=[{"messageId": 4700}])
    forward: dict[str, Any] | None
    sender: SenderModel | None
    text: str | None = Field(examples=["COMPRA PETR4: 25,50 a 26,00"])
    caption: str | None
    entities: list[dict[str, Any]] | None = Field(examples=[[{"type": "bold", "offset": 0, "length": 6}]])
    media_type: str | None = Field(examples=["photo"])
    media: dict[str, Any] | None
    telegram_date: Moment | None
    edit_date: Moment | None
    received_at: Moment = Field(description="When the gateway received this revision.")
    source: Source = Field(description="How this revision came.")
    message_type: MessageType | None
    metadata: dict[str, Any] = Field(
        description="Free-form; its keys are as they came.", examples=[{"views": 1024}]
    )
    deleted_at: Moment | None = Field(description="When the gateway learnt that it was deleted on Telegram.")
    processing: ProcessingModel | None = Field(description="For the `consumer` that was asked for.")
    highlight: HighlightModel | None = Field(description="For the `search` that was asked for.")


class MessageDetails(Message):
    """A message, with all that happened to it where that was asked for."""

    revisions: list[Message] | None = Field(
        default=None, description="All revisions in order of arrival; a deletion carries ids only."
    )


class MessagePage(ApiModel):
    """Some messages, and the cursor of those that follow; null at the end."""

    items: list[Message]
    next_cursor: str | None = Field(examples=[None])


_encoder = msgspec.json.Encoder()


def encode_page(messages: Iterable[StoredMessage], next_cursor: str | None) -> bytes:
    """The body of a `MessagePage`."""
    return _encoder.encode({"items": [message_fields(each) for each in messages], "nextCursor": next_cursor})


def encode_hot_page(page: HotPage, next_cursor: str | None) -> bytes:
    """The same of what Redis has."""
    return _encoder.encode({"items": list(map(_hot_item, page.bodies)), "nextCursor": next_cursor})


# The next page of a chat is for the most part the last one.
@lru_cache(maxsize=4096)
def _hot_item(body: bytes) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(message_fields(StoredMessage(decode(body)))))


def encode_message(message: StoredMessage, revisions: Iterable[Event] | None = None) -> bytes:
    """The body of a `MessageDetails`."""
    fields = message_fields(message)
    fields["revisions"] = (
        [message_fields(StoredMessage(event)) for event in revisions] if revisions is not None else None
    )
    return _encoder.encode(fields)


def message_fields(message: StoredMessage) -> dict[str, Any]:
    """The JSON object of a message."""
    event = message.event
    sender = event.sender
    return {
        "id": event.id,
        "kind": event.kind,
        "account": event.account,
        "accountScope": event.account_scope,
        "channelId": event.channel_id,
        "chatType": event.chat_type,
        "chatTitle": event.chat_title,
        "chatUsername": event.chat_username,
        "messageId": event.message_id,
        "threadId": event.thread_id,
        "groupedId": event.grouped_id,
        "replyTo": _camel(event.reply_to),
        "forward": _camel(event.forward),
        "sender": sender and {"id": sender.id, "name": sender.name, "username": sender.username},
        "text": event.text,
        "caption": event.caption,
        "entities": _camel(event.entities),
        "mediaType": event.media_type,
        "media": _camel(event.media),
        "telegramDate": _moment(event.telegram_date),
        "editDate": _moment(event.edit_date),
        "receivedAt": _moment(event.received_at),
        "source": event.source,
        "messageType": event.message_type,
        "metadata": event.metadata,
        "deletedAt": _moment(message.deleted_at),
        "processing": message.processing and _processing(message.processing),
        "highlight": _highlight(message) if message.hits else None,
    }


def _processing(processing: Processing) -> dict[str, Any]:
    return {
        "consumer": processing.consumer,
        "status": processing.status,
        "attempts": processing.attempts,
        "error": processing.error,
        "at": _moment(processing.at),
    }


def _highlight(message: StoredMessage) -> dict[str, Any]:
    text = message.event.content or ""
    return {
        "field": "text" if message.event.text is not None else "caption",
        "ranges": [{"offset": hit.start, "length": hit.end - hit.start} for hit in utf16(text, message.hits)],
        "snippet": snippet(text, message.hits),
    }


def _moment(moment: datetime | None) -> str | None:
    # As gateway.api.model.rfc3339, in a fifth of the time.
    if moment is None:
        return None
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    written = moment.isoformat()[:-6]
    return f"{written}Z" if moment.microsecond else f"{written}.000000Z"


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {_camel_key(key): _camel(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_camel(inner) for inner in value]
    return value


_camel_key = lru_cache(maxsize=4096)(to_camel)
