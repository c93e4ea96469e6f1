"""What the read side is asked with and answers: names of chats and messages, filters, pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, Self

import msgspec

from gateway.event import Event, Sender
from gateway.read.highlight import Hit

Status = Literal["received", "retrying", "published", "failed", "ignored"]
_JSON = ("reply_to", "forward", "entities", "media", "metadata")
_PLAIN = tuple(
    name for name in Event.__struct_fields__ if name not in ("v", "id", "sender", "metadata", *_JSON[:-1])
)


class Database(Protocol):
    """A connection or a pool of them, also through PgBouncer."""

    async def fetch(self, query: str, *args: Any) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: Any) -> Any: ...

    async def fetchval(self, query: str, *args: Any) -> Any: ...


class ChatRef(NamedTuple):
    """A chat. `scope` is 0 in channels and supergroups, else the user id of the account that is in it."""

    channel_id: str
    scope: int = 0

    @property
    def key(self) -> str:
        """As in `Event.chat_key` and in Redis."""
        return f"{self.scope}/{self.channel_id}" if self.scope else self.channel_id

    @classmethod
    def parse(cls, key: str) -> Self:
        """The chat with this key. Raises ValueError when its scope is no number."""
        scope, separator, channel_id = key.rpartition("/")
        return cls(channel_id, int(scope) if separator else 0)


class MessageRef(NamedTuple):
    """A message of a chat."""

    channel_id: str
    message_id: int
    scope: int = 0

    @property
    def chat(self) -> ChatRef:
        return ChatRef(self.channel_id, self.scope)

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(event.channel_id, event.message_id, event.account_scope)


class Position(NamedTuple):
    """Where a message stands in the order of pages: by date, and by name among those of one second."""

    telegram_date: datetime
    channel_id: str
    scope: int
    message_id: int


def position_of(event: Event) -> Position | None:
    """Where the message stands; None without a date."""
    if event.telegram_date is None:
        return None
    return Position(event.telegram_date, event.channel_id, event.account_scope, event.message_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFilter:
    """Which messages, and in which order. What is None does not matter.

    `since` and `until` (not included) are about the messages' own dates; `status` is what `consumer` noted;
    `source` is how a message first came. `chats` is what may be seen at all; `chat` is asked for.
    """

    chat: ChatRef | None = None
    message_id: int | None = None  # in that chat
    chats: frozenset[str] | None = None  # chat keys
    since: datetime | None = None
    until: datetime | None = None
    source: str | None = None
    consumer: str | None = None
    status: Status | None = None
    search: str | None = None
    deleted: bool = False  # also those that were deleted on Telegram
    newest_first: bool = True


@dataclass(frozen=True, slots=True)
class Processing:
    """What a consumer noted about a message."""

    consumer: str
    status: Status
    attempts: int
    error: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in its newest revision: the same event as in Redis and, last, in RabbitMQ.

    `arrival` is its place in the order in which messages were stored, where that was asked for.
    """

    event: Event
    deleted_at: datetime | None = None
    processing: Processing | None = None
    arrival: int | None = None
    hits: Sequence[Hit] = ()  # what a search found, in the event's content


@dataclass(frozen=True, slots=True)
class Page:
    """Messages, and where the next page begins; None at the end."""

    messages: Sequence[StoredMessage]
    next: Position | None


@dataclass(frozen=True, slots=True)
class UnprocessedPage:
    """Messages in the order of their arrival, and the arrival after which the next page begins."""

    messages: Sequence[StoredMessage]
    next: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message. Its error is for those that failed, were retried or ignored."""

    message: MessageRef
    status: Status
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Marked:
    """What is noted now about a message of the batch, which may be what was noted before.

    `known` is false while the message is not stored: a consumer of the queue can be faster than the database.
    """

    message: MessageRef
    status: Status
    attempts: int
    changed: bool
    known: bool


@dataclass(frozen=True, slots=True, eq=False)
class HotPage:
    """What Redis has of the newest messages, newest first, and the bodies they were decoded from.

    Only when `complete` is it all that was asked for; else the database must be asked, and `reason` says why.
    In `made` a reader keeps what it made of the page, for whoever gets this very page next.
    """

    events: Sequence[Event]
    bodies: Sequence[bytes]
    complete: bool
    reason: str | None = None
    made: dict[object, Any] = field(default_factory=dict)


def event_of(row: Any) -> Event:
    """The event in a row of `messages_newest`."""
    fields = {name: row[name] for name in _PLAIN}
    for name in _JSON:
        value = row[name]
        fields[name] = msgspec.json.decode(value) if value is not None else None
    sender = None
    if row["sender_id"] is not None:
        sender = Sender(id=row["sender_id"], name=row["sender_name"], username=row["sender_username"])
    return Event(id=row["event_id"], sender=sender, **fields)
