"""From a change in the world to the live sessions of all who see it: serialised once, pushed at once."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from telethon.tl import types

from gateway.sandbox.backend import ClientSession
from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Entry, Message
from gateway.sandbox.users import User
from gateway.sandbox.view import View
from gateway.sandbox.world import World

_VECTOR = struct.Struct("<Ii")
_VECTOR_ID = 0x1CB5C415
_PAIR = struct.Struct("<ii")
_UPDATES = types.Updates.CONSTRUCTOR_ID.to_bytes(4, "little")
_NEW_CHANNEL = types.UpdateNewChannelMessage.CONSTRUCTOR_ID.to_bytes(4, "little")
_EDIT_CHANNEL = types.UpdateEditChannelMessage.CONSTRUCTOR_ID.to_bytes(4, "little")


class Delivery:
    """The world's listener. `short_updates` lets plain private and group texts travel as UpdateShort…."""

    def __init__(self, world: World, *, short_updates: bool = True) -> None:
        self.short_updates = short_updates
        self.min_chats = False  # pushes name chats in their `min` form, whose access hash is good for nothing
        self._world = world
        self._live: dict[User, dict[ClientSession, None]] = {}
        self._known: dict[ClientSession, set[object]] = {}  # whom a session has been told about
        self._views: dict[User, View] = {}
        self._user_bytes: dict[tuple[User, User], bytes] = {}
        self._chat_bytes: dict[tuple[User, Chat], tuple[int, bytes]] = {}
        self._answering: tuple[ClientSession, User, list[Entry]] | None = None
        self._attached = asyncio.Event()
        world.listener = self

    def attach(self, user: User, session: ClientSession) -> None:
        """From now on the session gets the user's updates."""
        self._live.setdefault(user, {})[session] = None
        self._known.setdefault(session, set())
        self._attached.set()
        self._attached.clear()

    def detach(self, session: ClientSession) -> None:
        self._known.pop(session, None)
        for user in [user for user, sessions in self._live.items() if session in sessions]:
            del self._live[user][session]
            if not self._live[user]:
                del self._live[user]

    def sessions(self, user: User) -> list[ClientSession]:
        return list(self._live.get(user, ()))

    async def connected(self, user: User) -> None:
        """Returns once a session of the user is live."""
        while user not in self._live:
            await self._attached.wait()

    def view(self, user: User) -> View:
        view = self._views.get(user)
        if view is None:
            view = self._views[user] = View(self._world, user)
        return view

    @contextmanager
    def answering(self, session: ClientSession, user: User) -> Iterator[list[Entry]]:
        """What happens to `user` meanwhile is collected for the session's answer instead of pushed to it."""
        caught: list[Entry] = []
        self._answering = (session, user, caught)
        try:
            yield caught
        finally:
            self._answering = None

    def channel_changed(self, chat: Chat, entries: Sequence[Entry]) -> None:
        shared: dict[tuple[int, bool], bytes] = {}
        members = chat.members
        if self._answering is not None and self._answering[1].id in members:
            self._answering[2].extend(entries)
        for user, sessions in self._live.items():
            if user.id in members:
                self._push(user, sessions, self._channel_updates(user, entries, shared))

    def account_changed(self, user: User, entries: Sequence[Entry]) -> None:
        if self._answering is not None and self._answering[1] is user:
            self._answering[2].extend(entries)
        sessions = self._live.get(user)
        if not sessions:
            return
        if self.short_updates and len(entries) == 1 and _is_plain(entries[0]):
            self._push_short(user, sessions, entries[0])
        else:
            self._push(user, sessions, bytes(self.view(user).updates(entries)))

    def membership_changed(self, user: User, chat: Chat) -> None:
        sessions = self._live.get(user)
        if sessions:
            update = types.UpdateChannel(chat.id)
            chats = [self.view(user).chat(chat)]
            self._push(user, sessions, bytes(types.Updates([update], [], chats, self._world.now(), user.seq)))

    def announce(self, user: User, update: Any) -> None:
        """Pushes a hint that belongs to no sequence: an update, or UpdatesTooLong."""
        if not isinstance(update, types.UpdatesTooLong):
            update = types.UpdateShort(update, self._world.now())
        self._push(user, self._live.get(user, {}), bytes(update))

    def _push(self, user: User, sessions: dict[ClientSession, None], payload: bytes) -> None:
        answering = self._answering[0] if self._answering is not None else None
        for session in sessions:
            if session is not answering and session.receives_updates:
                session.push(payload)

    def _push_short(self, user: User, sessions: dict[ClientSession, None], entry: Entry) -> None:
        """The short form, and the full one to sessions that have not met the people yet, as Telegram does."""
        assert entry.message is not None
        whom = (entry.chat, entry.message.sender)
        short = full = b""
        for session in sessions:
            if whom in self._known[session]:
                short = short or bytes(self._short(user, entry))
                self._push(user, {session: None}, short)
            else:
                self._known[session].add(whom)
                full = full or bytes(self.view(user).updates((entry,)))
                self._push(user, {session: None}, full)

    def _short(self, user: User, entry: Entry) -> Any:
        message = self.view(user).message(entry.message) if entry.message is not None else None
        assert message is not None
        assert entry.message is not None
        common = {
            "id": message.id,
            "message": message.message,
            "pts": entry.pts,
            "pts_count": entry.pts_count,
            "date": message.date,
            "out": message.out,
            "reply_to": message.reply_to,
            "entities": message.entities,
        }
        if entry.chat.kind == "private":
            return types.UpdateShortMessage(user_id=entry.chat.other(user).id, **common)
        sender = entry.message.sender
        assert sender is not None
        return types.UpdateShortChatMessage(from_id=sender.id, chat_id=entry.chat.id, **common)

    def _channel_updates(
        self, user: User, entries: Sequence[Entry], shared: dict[tuple[int, bool], bytes]
    ) -> bytes:
        """An Updates object, put together from parts that are the same for many pushes or many accounts."""
        view = self.view(user)
        users: dict[User, None] = {}
        chats: dict[Chat, None] = {entries[0].chat: None}
        parts = [_UPDATES, _VECTOR.pack(_VECTOR_ID, len(entries))]
        for entry in entries:
            message = entry.message
            if message is None:
                parts.append(bytes(view.update(entry)))
                continue
            view.collect(message, users, chats)
            parts.append(_NEW_CHANNEL if entry.kind == "new" else _EDIT_CHANNEL)
            parts.append(self._message_bytes(view, message, entry.index, shared))
            parts.append(_PAIR.pack(entry.pts, entry.pts_count))
        parts.append(_VECTOR.pack(_VECTOR_ID, len(users)))
        parts.extend(self._user(view, one) for one in users)
        parts.append(_VECTOR.pack(_VECTOR_ID, len(chats)))
        parts.extend(self._chat(view, one) for one in chats)
        parts.append(_PAIR.pack(self._world.now(), 0))
        return b"".join(parts)

    @staticmethod
    def _message_bytes(
        view: View, message: Message, index: int, shared: dict[tuple[int, bool], bytes]
    ) -> bytes:
        if message.media is not None:  # its access hash is the account's own
            return bytes(view.message(message))
        key = (index, message.sender is view.viewer)
        known = shared.get(key)
        if known is None:
            known = shared[key] = bytes(view.message(message))
        return known

    def _user(self, view: View, user: User) -> bytes:
        key = (view.viewer, user)
        known = self._user_bytes.get(key)
        if known is None:
            known = self._user_bytes[key] = bytes(view.user(user))
        return known

    def _chat(self, view: View, chat: Chat) -> bytes:
        if self.min_chats:
            least = view.chat(chat)
            least.min = True
            return bytes(least)
        key = (view.viewer, chat)
        known = self._chat_bytes.get(key)
        if known is None or known[0] != chat.version:
            known = self._chat_bytes[key] = (chat.version, bytes(view.chat(chat)))
        return known[1]


def _is_plain(entry: Entry) -> bool:
    message = entry.message
    return (
        entry.kind == "new"
        and message is not None
        and message.action is None
        and message.media is None
        and message.forward is None
        and message.grouped_id is None
    )
