"""The one record that travels from Telegram to every sink, and its identity.

`gateway.telegram.convert` makes events out of Telegram's objects; nothing after it knows Telegram's types.
An event is immutable and versioned: `v` changes only when a published field changes its meaning or goes.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1

Kind = Literal["message.new", "message.edited", "message.deleted"]
ChatType = Literal["private", "group", "supergroup", "channel"]
Source = Literal["mtproto", "backfill", "webhook", "import"]
MessageType = Literal["channel_post", "group_message", "private_message", "service"]


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote a message: a user, or a channel that posts under its own name (then `id` is a marked id)."""

    id: int
    name: str | None = None
    username: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one message.

    `account_scope` is 0 in channels and supergroups, which number their messages themselves, and the
    account's user id in private chats and basic groups, whose ids count per account. Deletions carry the
    ids only: everything that describes content is null.
    """

    v: int = SCHEMA_VERSION
    id: str
    kind: Kind
    account: str
    account_scope: int
    channel_id: str
    chat_type: ChatType
    chat_title: str | None = None
    chat_username: str | None = None
    message_id: int
    thread_id: int | None = None
    grouped_id: int | None = None
    reply_to: dict[str, Any] | None = None
    forward: dict[str, Any] | None = None
    sender: Sender | None = None
    text: str | None = None
    caption: str | None = None
    entities: list[dict[str, Any]] | None = None
    media_type: str | None = None
    media: dict[str, Any] | None = None
    telegram_date: datetime | None = None
    edit_date: datetime | None = None
    received_at: datetime
    source: Source
    message_type: MessageType | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def chat_key(self) -> str:
        """`channel_id`, with the account scope before it where ids count per account (as in Redis keys)."""
        return f"{self.account_scope}/{self.channel_id}" if self.account_scope else self.channel_id

    @property
    def content(self) -> str | None:
        """The words of the message: its text, or its media's caption."""
        return self.text if self.text is not None else self.caption

    @property
    def content_digest(self) -> str:
        """`content_hash` over what a reader would call the content of this message.

        Views, reactions and previews arrive as edits and change nothing in it. Media is known by its `id`;
        media without one (a place, a poll) counts with every field but those that others change.
        """
        media = self.media or None
        if media is not None:
            lasting = {name: value for name, value in media.items() if name not in _CHANGED_BY_OTHERS}
            media = media.get("id", lasting)
        return content_hash(self.text, self.caption, self.entities or None, self.media_type, media)


_CHANGED_BY_OTHERS = frozenset({"results", "completions"})  # votes, and tasks that were done

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event's JSON body, as every sink hands it on."""
    return _encoder.encode(event)


def decode(body: bytes) -> Event:
    """The event that `encode` made `body` from.

    Raises msgspec.ValidationError when `body` is not an event of this version.
    """
    return _decoder.decode(body)


def new_id(scope: int, channel_id: str, message_id: int) -> str:
    """The id of a message's first revision: the same whichever account saw it, and however often."""
    return f"{scope}:{channel_id}:{message_id}"


def edit_id(scope: int, channel_id: str, message_id: int, edit_date: datetime, content_hash: str) -> str:
    """The id of one edit. The hash is in it because two edits may share a second."""
    return f"{scope}:{channel_id}:{message_id}:edit:{int(edit_date.timestamp())}:{content_hash}"


def delete_id(scope: int, channel_id: str, message_id: int) -> str:
    """The id of a message's deletion."""
    return f"{scope}:{channel_id}:{message_id}:delete"


def content_hash(*parts: Any) -> str:
    """16 hex digits over what a reader would call the content; reactions and views must not be in `parts`."""
    return hashlib.blake2b(_encoder.encode(parts), digest_size=8).hexdigest()


def utc_now() -> datetime:
    """The current time, never on a full second.

    A consumer that parses with `%f` must find microseconds in every `received_at`, and ISO formatting
    leaves them out when they are zero.
    """
    now = datetime.now(UTC)
    return now if now.microsecond else now.replace(microsecond=1)
