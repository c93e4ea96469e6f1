"""The values of the sandbox's world: a message, what it carries, and one entry of an update log.

All are immutable. An edit makes a new `Message`, so a log entry keeps the revision it was made for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from gateway.sandbox.chats import Chat
    from gateway.sandbox.users import User

EntryKind = Literal["new", "edit", "delete", "pin", "read_inbox"]
MediaKind = Literal["photo", "document", "webpage", "other"]

# Starts and ends like a JPEG: sandbox media is there to be downloaded, not looked at.
TINY_JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + bytes(256) + b"\xff\xd9"


class Entity(msgspec.Struct, frozen=True):
    """Formatting of a part of a text; offset and length count UTF-16 units, as Telegram does."""

    type: str
    offset: int
    length: int
    url: str | None = None
    user_id: int | None = None
    language: str | None = None
    document_id: int | None = None


class Media(msgspec.Struct, frozen=True):
    """What is attached to a message. `id` is 0 until the world has given it one."""

    kind: MediaKind
    data: bytes = b""
    file_name: str = "file.bin"
    mime_type: str = "application/octet-stream"
    url: str = ""
    title: str = ""
    id: int = 0
    date: int = 0
    verbatim: Any = None  # a MessageMedia object that goes out as it is

    @classmethod
    def other(cls, media: Any) -> Media:
        """Media of any kind, as one of Telegram's MessageMedia objects."""
        kind: MediaKind = "webpage" if type(media).__name__ == "MessageMediaWebPage" else "other"
        return cls(kind, verbatim=media)

    @classmethod
    def photo(cls, data: bytes = TINY_JPEG) -> Media:
        return cls("photo", data, "photo.jpg", "image/jpeg")

    @classmethod
    def document(cls, data: bytes, file_name: str = "file.bin", mime_type: str = "text/plain") -> Media:
        return cls("document", data, file_name, mime_type)

    @classmethod
    def webpage(cls, url: str, title: str = "") -> Media:
        return cls("webpage", url=url, title=title)

    @classmethod
    def sample(cls, kind: str) -> Media:
        """Small media of a kind, for callers who do not care what is in it."""
        if kind == "photo":
            return cls.photo()
        if kind == "document":
            table = "ativo;entrada;alvo;stop\nPETR4;25,50;26,50;25,00\n"
            return cls.document(table.encode(), "sinais.csv", "text/csv")
        if kind == "webpage":
            return cls.webpage("https://example.org/analise", "Análise do dia")
        raise ValueError(f"{kind!r} is no kind of media; use photo, document or webpage")


class Forward(msgspec.Struct, frozen=True, eq=False):
    """Where a forwarded message came from: a user, or a post of a channel.

    `automatic` is the copy of a post in its channel's discussion group.
    """

    date: int
    user: User | None = None
    channel: Chat | None = None
    channel_post: int | None = None
    automatic: bool = False


class Action(msgspec.Struct, frozen=True, eq=False):
    """What a service message tells. `name` is Telegram's, without the MessageAction prefix."""

    name: str
    title: str = ""
    users: tuple[int, ...] = ()
    peer_id: int = 0
    closed: bool | None = None


class Message(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One revision of a message.

    `id` counts in the chat. In channels and supergroups that is Telegram's id; private chats and basic
    groups have an id per account, in `ids` by user id. `reply_to` and `topic` are ids of the chat.
    `sender` is None where the chat itself speaks: channel posts and anonymous admins. `speaks_for` is
    another chat that speaks here: the channel in its discussion group. `thread` is the message that a
    thread of replies in a supergroup began with.
    """

    id: int
    chat: Chat
    date: int
    text: str = ""
    sender: User | None = None
    speaks_for: Chat | None = None
    entities: tuple[Entity, ...] = ()
    reply_to: int | None = None
    topic: int | None = None
    thread: int | None = None
    media: Media | None = None
    grouped_id: int | None = None
    forward: Forward | None = None
    action: Action | None = None
    edit_date: int | None = None
    edit_hidden: bool = False
    pinned: bool = False
    reactions: tuple[tuple[str, int], ...] = ()
    ids: dict[int, int] | None = None
    reply_ids: dict[int, int] | None = None  # the answered message's ids

    def id_for(self, user_id: int) -> int:
        """The message's id as this user's account sees it."""
        return self.id if self.ids is None else self.ids[user_id]


class Entry(msgspec.Struct, frozen=True, eq=False):
    """One step of a sequence of updates, and at the same time one line of the ground truth.

    `ids` are as the owner of the sequence counts: the account's, or the channel's. `pts` is 0 for imported
    history, which was never pushed. `at` is when it happened, in seconds since the epoch.
    """

    index: int
    kind: EntryKind
    chat: Chat
    at: float
    pts: int
    pts_count: int
    message: Message | None = None
    ids: tuple[int, ...] = ()
    reaction: bool = False
