"""A chat of the sandbox's world: private chat, basic group, supergroup or channel."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal

from gateway.sandbox.messages import Entry, Message
from gateway.sandbox.updates import UpdateLog
from gateway.sandbox.users import User

ChatKind = Literal["private", "group", "supergroup", "channel"]

GENERAL_TOPIC = 1


@dataclass(slots=True, eq=False)
class Topic:
    """A forum topic; its id is the id of the service message that opened it."""

    id: int
    title: str
    date: int
    creator: User | None
    top_message: int


@dataclass(slots=True, eq=False, repr=False)
class Chat:
    """`id` is bare, `ref` is what the control interface and the truth call the chat.

    `messages` holds the newest revision of every message that was not deleted, by the chat's own ids, and
    `ids` the same ids in order.
    """

    kind: ChatKind
    id: int
    title: str
    date: int
    log: UpdateLog
    username: str | None = None
    forum: bool = False
    signatures: bool = False
    members: dict[int, User] = field(default_factory=dict)
    creator: User | None = None
    messages: dict[int, Message] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    next_message_id: int = 1
    topics: dict[int, Topic] = field(default_factory=dict)
    records: list[Entry] = field(default_factory=list)
    version: int = 1
    migrated_to: Chat | None = None
    migrated_from: Chat | None = None
    discussion: Chat | None = None  # of a channel: the supergroup that its posts are copied to
    hidden_history: bool = False  # new members do not see what was written before they came
    joined: dict[int, int] = field(default_factory=dict)  # when each member came, by user id
    visible_from: dict[int, int] = field(default_factory=dict)  # the first message id that a member may see
    banned: dict[int, str] = field(default_factory=dict)  # what Telegram says to whom it keeps out

    def __repr__(self) -> str:
        return f"<{self.kind} {self.ref} {self.title!r}>"

    @property
    def is_channel(self) -> bool:
        """Whether it numbers its messages itself and has its own pts (channels and supergroups)."""
        return self.kind in ("channel", "supergroup")

    @property
    def marked_id(self) -> int:
        """The id by which Telegram libraries tell kinds apart; not for private chats, which have two."""
        return -1_000_000_000_000 - self.id if self.is_channel else -self.id

    @property
    def ref(self) -> str:
        if self.kind == "private":
            return ":".join(str(user_id) for user_id in self.members)
        return str(self.marked_id)

    def marked_id_for(self, viewer: User) -> int:
        """As `marked_id`; a private chat is known by the other person's id."""
        return self.other(viewer).id if self.kind == "private" else self.marked_id

    def other(self, viewer: User) -> User:
        """Whom the viewer talks to in a private chat: oneself, in the chat with oneself."""
        return next((user for user in self.members.values() if user is not viewer), viewer)

    def remove(self, message_id: int) -> Message | None:
        """Forgets a message; None when there is none of this id."""
        message = self.messages.pop(message_id, None)
        if message is not None:
            del self.ids[bisect_left(self.ids, message_id)]
        return message

    def refuses(self, viewer: User) -> str | None:
        """The error that keeps the viewer out: of a ban, or of a private chat that one is no member of."""
        if viewer.id in self.banned:
            return self.banned[viewer.id]
        private = self.is_channel and self.username is None and viewer.id not in self.members
        return "CHANNEL_PRIVATE" if private else None

    def shows(self, viewer: User, message_id: int) -> bool:
        """Whether a message of this id, as the chat counts, is not hidden from the viewer."""
        return message_id >= self.visible_from.get(viewer.id, 0)

    def ids_for(self, viewer: User) -> list[int]:
        """The ids of the messages that the viewer can find, oldest first, as the viewer counts."""
        if not self.is_channel:
            return viewer.ids_by_chat.get(self, [])
        hidden = bisect_left(self.ids, self.visible_from.get(viewer.id, 0))
        return self.ids[hidden:] if hidden else self.ids

    def message_for(self, viewer: User, message_id: int) -> Message | None:
        """The message that the viewer knows by this id."""
        if self.is_channel:
            return self.messages.get(message_id) if self.shows(viewer, message_id) else None
        chat, own_id = viewer.mailbox.get(message_id, (None, 0))
        return self.messages.get(own_id) if chat is self else None

    def top_for(self, viewer: User) -> Message | None:
        """The newest message that the viewer can find."""
        ids = self.ids_for(viewer)
        return self.message_for(viewer, ids[-1]) if ids else None
