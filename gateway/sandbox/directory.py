"""Who and what exists in the sandbox's world: users, chats, memberships, and each account's access hashes."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from gateway.sandbox.chats import Chat, ChatKind
from gateway.sandbox.messages import Entry, Media
from gateway.sandbox.updates import UpdateLog
from gateway.sandbox.users import User

DEFAULT_CODE = "12345"
DEFAULT_LOG_LIMIT = 10_000  # entries

_FIRST_USER_ID = 700_000_001
_FIRST_GROUP_ID = 400_000_001
_FIRST_CHANNEL_ID = 1_600_000_001
_CHATS_A_GENERATION = 10_000
_MESSAGES_A_GENERATION = 1_000_000


class Listener(Protocol):
    """Who is told of every change at once, in order: the delivery to live sessions."""

    def channel_changed(self, chat: Chat, entries: Sequence[Entry]) -> None: ...

    def account_changed(self, user: User, entries: Sequence[Entry]) -> None: ...

    def membership_changed(self, user: User, chat: Chat) -> None: ...


class _NoListener:
    def channel_changed(self, chat: Chat, entries: Sequence[Entry]) -> None: ...

    def account_changed(self, user: User, entries: Sequence[Entry]) -> None: ...

    def membership_changed(self, user: User, chat: Chat) -> None: ...


class Directory:
    """The same seed and the same calls give the same ids and hashes, so a new process knows its clients.

    A new process starts a new world, though. Its `generation` moves chats and private messages to ids that
    no client has seen yet; users keep theirs, and with them their logins.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        log_limit: int = DEFAULT_LOG_LIMIT,
        generation: int = 0,
    ) -> None:
        self._generation = generation
        self.default_code = DEFAULT_CODE
        self.log_limit = log_limit
        self.difference_limit = 100  # entries in one answer; more come as slices
        # Telegram's differences show each message as it is by now, and deleted ones not at all; then nobody
        # can tell what a client should have seen. True replays every revision as it was pushed.
        self.replays_revisions = True
        self.users: dict[int, User] = {}
        self.chats: dict[str, Chat] = {}
        self.channels: dict[int, Chat] = {}
        self.groups: dict[int, Chat] = {}
        self.media: dict[int, Media] = {}
        self._references = 0  # how often all file references have expired
        self.elsewhere: set[int] = set()  # ids of media that only another data centre gives out
        self.served: deque[tuple[int, int, int]] = deque(maxlen=100_000)  # downloads: media, offset, bytes
        self.listener: Listener = _NoListener()
        self.position = 0  # changes so far, over all chats
        self._clock = clock
        self._secret = hashlib.blake2b(f"sandbox {seed}".encode()).digest()
        self._hashes: dict[tuple[int, str, int], int] = {}
        self._privates: dict[frozenset[int], Chat] = {}

    @property
    def file_reference(self) -> bytes:
        """What a message's media is asked for with; good until `expire_references`."""
        return b"ref %d" % self._references

    def expire_references(self) -> None:
        """Makes every file reference given out so far useless; messages fetched from now on have new ones."""
        self._references += 1

    def now(self) -> int:
        return int(self._clock())

    def add_user(
        self,
        first_name: str,
        *,
        phone: str | None = None,
        username: str | None = None,
        password: str | None = None,
        bot_token: str | None = None,
        code: str | None = None,
    ) -> User:
        """A person, or a bot when there is a `bot_token`. `code` is the login code, 12345 unless told."""
        first_message = 1 + self._generation * _MESSAGES_A_GENERATION
        user = User(
            _FIRST_USER_ID + len(self.users),
            first_name,
            UpdateLog(self.log_limit, first_message),
            next_message_id=first_message,
            phone="".join(filter(str.isdigit, phone)) if phone else None,
            username=username,
            password=password,
            bot_token=bot_token,
            code=code,
        )
        self.users[user.id] = user
        return user

    def add_group(self, title: str, members: Iterable[User]) -> Chat:
        """A basic group; the first member is its creator."""
        chat = self._new_chat("group", self._next_id(_FIRST_GROUP_ID, self.groups), title, members)
        self.groups[chat.id] = chat
        return chat

    def add_channel(self, title: str, members: Iterable[User], *, username: str | None = None) -> Chat:
        """A broadcast channel; the first member is its creator. With a username it is public."""
        return self._add_channel("channel", title, members, username)

    def _add_channel(
        self, kind: ChatKind, title: str, members: Iterable[User], username: str | None, forum: bool = False
    ) -> Chat:
        chat = self._new_chat(kind, self._next_id(_FIRST_CHANNEL_ID, self.channels), title, members)
        chat.username = username
        chat.forum = forum
        self.channels[chat.id] = chat
        for user in list(chat.members.values()):
            self._enter(chat, user)
        return chat

    def private(self, a: User, b: User) -> Chat:
        """The chat of these two, made when it is first asked for."""
        key = frozenset((a.id, b.id))
        chat = self._privates.get(key)
        if chat is None:
            chat = Chat("private", len(self._privates) + 1, "", self.now(), UpdateLog(0))
            chat.members = {a.id: a, b.id: b}
            self._privates[key] = self.chats[chat.ref] = chat
            for user in chat.members.values():
                user.chats[chat] = None
        return chat

    def chat(self, ref: str | int) -> Chat:
        """The chat of a `Chat.ref`. Raises KeyError when there is none."""
        return self.chats[str(ref)]

    def user_by_phone(self, phone: str) -> User | None:
        digits = "".join(filter(str.isdigit, phone))
        return next((user for user in self.users.values() if user.phone == digits), None)

    def user_by_bot_token(self, token: str) -> User | None:
        return next((user for user in self.users.values() if user.bot_token == token), None)

    def by_username(self, username: str) -> User | Chat | None:
        wanted = username.removeprefix("@").lower()
        everything: list[User | Chat] = [*self.users.values(), *self.channels.values()]
        return next((one for one in everything if (one.username or "").lower() == wanted), None)

    def access_hash(self, viewer: User, kind: str, peer_id: int) -> int:
        """What this account must show to name a peer; another account's hash for the same peer differs."""
        key = (viewer.id, kind, peer_id)
        known = self._hashes.get(key)
        if known is None:
            digest = hashlib.blake2b(
                f"{viewer.id} {kind} {peer_id}".encode(), key=self._secret[:32], digest_size=8
            ).digest()
            known = self._hashes[key] = int.from_bytes(digest, "little", signed=True) or 1
        return known

    def _next_id(self, first: int, existing: dict[int, Chat]) -> int:
        return first + self._generation * _CHATS_A_GENERATION + len(existing)

    def _new_chat(self, kind: ChatKind, chat_id: int, title: str, members: Iterable[User]) -> Chat:
        chat = Chat(kind, chat_id, title, self.now(), UpdateLog(self.log_limit))
        chat.members = {user.id: user for user in members}
        chat.creator = next(iter(chat.members.values()), None)
        for user in chat.members.values():
            user.chats[chat] = None
            chat.joined[user.id] = chat.date
        self.chats[chat.ref] = chat
        return chat

    def _enter(self, chat: Chat, user: User) -> None:
        """Opens the window in which the user sees the channel, and tells the user's sessions."""
        if chat.hidden_history:
            chat.visible_from[user.id] = chat.next_message_id
        chat.members[user.id] = user
        chat.joined[user.id] = self.now()
        user.chats[chat] = None
        user.windows.setdefault(chat, []).append((self.position, None))
        self._notice(chat, user)

    def _exit(self, chat: Chat, user: User) -> None:
        chat.members.pop(user.id, None)
        user.chats.pop(chat, None)
        windows = user.windows.get(chat)
        if windows and windows[-1][1] is None:
            windows[-1] = (windows[-1][0], self.position)
        self._notice(chat, user)

    def _notice(self, chat: Chat, user: User) -> None:
        chat.version += 1
        user.seq += 1
        user.notices.append((self.now(), chat))
        self.listener.membership_changed(user, chat)
