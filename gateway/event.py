"""The one record that travels from Telegram to every sink, and its identity.

`gateway.telegram.convert` makes events out of Telegram's objects; nothing after it knows Telegram's types.
An event is immutable and versioned: `v` changes only when a published field changes its meaning or goes.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

SCHEMA_VERSION = 1

Kind = Literal["message.new", "message.edited", "message.deleted"]
ChatType = Literal["private", "group", "supergroup", "channel"]
Source = Literal["mtproto", "backfill", "webhook", "import"]
MessageType = Literal["channel_post", "group_message", "private_message", "service"]


_At = Meta(extra_json_schema={"format": "date-time"})


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote a message: a user, or a chat that posts under its own name."""

    id: Annotated[int, Meta(description="The user's id, or the marked id of the chat.")]
    name: Annotated[
        str | None, Meta(description="First and last name, or the chat's title; null if not known.")
    ] = None
    username: Annotated[str | None, Meta(description="Public name without @; null if there is none.")] = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one message.

    `account_scope` is 0 in channels and supergroups, which number their messages themselves, and the
    account's user id in private chats and basic groups, whose ids count per account. Deletions carry the
    ids only: everything that describes content is null.

    The descriptions are published (`gateway.contracts`): to change one is to change what the field means.
    """

    v: Annotated[int, Meta(description="Version of this contract.")] = SCHEMA_VERSION
    id: Annotated[
        str,
        Meta(
            description="The same for the same revision of the same message, however often and by whichever "
            "account it was captured: deduplicate by it."
        ),
    ]
    kind: Annotated[Kind, Meta(description="What happened to the message.")]
    account: Annotated[str, Meta(description="The gateway's name of the account that captured the change.")]
    account_scope: Annotated[
        int,
        Meta(
            description="Whose message ids these are: 0 in channels and supergroups, which have their own; "
            "the account's user id in private chats and basic groups, where ids count per account."
        ),
    ]
    channel_id: Annotated[
        str,
        Meta(
            description="The chat: its marked id as text. Negative with -100 before it for channels and "
            "supergroups, negative for basic groups, the other user's id for private chats."
        ),
    ]
    chat_type: Annotated[ChatType, Meta(description="What kind of chat it is.")]
    chat_title: Annotated[
        str | None,
        Meta(description="Its title or the other person's name; null if not known, and in deletions."),
    ] = None
    chat_username: Annotated[
        str | None, Meta(description="Its public name without @; null if there is none, and in deletions.")
    ] = None
    message_id: Annotated[
        int, Meta(description="The message's number, unique within account_scope and channel_id together.")
    ]
    thread_id: Annotated[
        int | None,
        Meta(
            description="The forum topic or comment thread: the id of the message it began with. Null "
            "outside threads, and in deletions."
        ),
    ] = None
    grouped_id: Annotated[
        int | None,
        Meta(description="The same for all messages of one album; null outside albums, and in deletions."),
    ] = None
    reply_to: Annotated[
        dict[str, Any] | None,
        Meta(description="What the message answers; null if nothing, and in deletions."),
    ] = None
    forward: Annotated[
        dict[str, Any] | None,
        Meta(description="Where the message was forwarded from; null if it was not, and in deletions."),
    ] = None
    sender: Annotated[
        Sender | None,
        Meta(
            description="Who wrote it, a channel itself for its posts; null if not known, and in deletions."
        ),
    ] = None
    text: Annotated[
        str | None,
        Meta(
            description="The words of a message without media, or with a link preview; empty if it has none. "
            "Null where media has a caption instead, in service messages and in deletions."
        ),
    ] = None
    caption: Annotated[
        str | None,
        Meta(description="The words under media; null if there are none or text has them, and in deletions."),
    ] = None
    entities: Annotated[
        list[dict[str, Any]] | None,
        Meta(
            description="Formatting, links and mentions in text or caption; null if there are none, and in "
            "deletions."
        ),
    ] = None
    media_type: Annotated[
        str | None,
        Meta(
            description="What is attached; Telegram invents new kinds, so expect unknown ones. Null if "
            "nothing is, and in deletions.",
            examples=["photo", "video", "document", "voice", "webpage", "poll"],
        ),
    ] = None
    media: Annotated[
        dict[str, Any] | None,
        Meta(description="What is known of the attachment, never its bytes; null if media_type is."),
    ] = None
    telegram_date: Annotated[
        datetime | None,
        _At,
        Meta(
            description="When the message was posted: UTC, by Telegram's clock, in whole seconds. Null in "
            "deletions."
        ),
    ] = None
    edit_date: Annotated[
        datetime | None,
        _At,
        Meta(
            description="When it was last edited: UTC, by Telegram's clock, in whole seconds. Null if it "
            "never was, and in deletions; never null in message.edited."
        ),
    ] = None
    received_at: Annotated[
        datetime, _At, Meta(description="When the gateway received it: UTC, with microseconds.")
    ]
    source: Annotated[
        Source,
        Meta(
            description="How it came: mtproto as it happened, backfill from the chat's history later, "
            "webhook or import from elsewhere."
        ),
    ]
    message_type: Annotated[
        MessageType | None,
        Meta(description="What kind of message it is; service messages tell of an event. Null in deletions."),
    ] = None
    metadata: Annotated[
        dict[str, Any],
        Meta(description="What else is known. Not content: it may differ from account to account."),
    ] = msgspec.field(default_factory=dict)

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


def as_edit(event: Event) -> Event:
    """The edit that gave a message its present words; `event` shows it and has an edit date."""
    if event.edit_date is None:
        raise ValueError(f"message {event.id} was never edited")
    identity = edit_id(
        event.account_scope, event.channel_id, event.message_id, event.edit_date, event.content_digest
    )
    return msgspec.structs.replace(event, id=identity, kind="message.edited")


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
