"""The world as one account sees it, in Telegram's objects: its own ids, access hashes and outgoing flags."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from telethon.tl import types

from gateway.sandbox import tl
from gateway.sandbox.chats import GENERAL_TOPIC, Chat
from gateway.sandbox.directory import Directory
from gateway.sandbox.messages import Entry, Message
from gateway.sandbox.users import User


class View:
    """Makes objects for one account."""

    def __init__(self, world: Directory, viewer: User) -> None:
        self.world = world
        self.viewer = viewer

    def user(self, user: User) -> Any:
        mine = user is self.viewer
        return types.User(
            user.id,
            is_self=mine or None,
            bot=user.is_bot or None,
            bot_info_version=1 if user.is_bot else None,
            access_hash=self.world.access_hash(self.viewer, "user", user.id),
            first_name=user.first_name,
            username=user.username,
            phone=user.phone if mine else None,
        )

    def chat(self, chat: Chat) -> Any:
        """The chat's own object; private chats have none."""
        if chat.kind == "group":
            if self.viewer.id in chat.banned:
                return types.ChatForbidden(chat.id, chat.title)
            moved = chat.migrated_to
            return types.Chat(
                chat.id,
                chat.title,
                types.ChatPhotoEmpty(),
                len(chat.members),
                chat.date,
                chat.version,
                creator=(chat.creator is self.viewer) or None,
                left=(self.viewer.id not in chat.members) or None,
                deactivated=(moved is not None) or None,
                migrated_to=types.InputChannel(
                    moved.id, self.world.access_hash(self.viewer, "channel", moved.id)
                )
                if moved is not None
                else None,
            )
        access_hash = self.world.access_hash(self.viewer, "channel", chat.id)
        broadcast = chat.kind == "channel"
        if chat.refuses(self.viewer):
            return types.ChannelForbidden(
                chat.id, access_hash, chat.title, broadcast=broadcast or None, megagroup=not broadcast or None
            )
        return types.Channel(
            chat.id,
            chat.title,
            types.ChatPhotoEmpty(),
            chat.joined[self.viewer.id] if self.viewer.id in chat.members else chat.date,
            creator=(chat.creator is self.viewer) or None,
            left=(self.viewer.id not in chat.members) or None,
            broadcast=broadcast or None,
            megagroup=not broadcast or None,
            forum=chat.forum or None,
            has_link=(chat.discussion is not None) or None,
            access_hash=access_hash,
            username=chat.username,
        )

    def peer(self, chat: Chat) -> Any:
        if chat.is_channel:
            return types.PeerChannel(chat.id)
        return types.PeerChat(chat.id) if chat.kind == "group" else types.PeerUser(chat.other(self.viewer).id)

    def input_channel(self, chat: Chat) -> Any:
        return types.InputChannel(chat.id, self.world.access_hash(self.viewer, "channel", chat.id))

    def message(self, message: Message) -> Any:
        chat = message.chat
        common: dict[str, Any] = {
            "id": message.id_for(self.viewer.id),
            "peer_id": self.peer(chat),
            "date": message.date,
            "out": message.sender is self.viewer or None,
            "post": (chat.kind == "channel") or None,
            "from_id": self._from(message),
            "reply_to": self._reply_header(message),
        }
        if message.action is not None:
            return types.MessageService(action=tl.action(message.action), **common)
        attached = message.media
        posted = chat.kind == "channel"
        return types.Message(
            message=message.text,
            entities=tl.entities(message.entities),
            media=tl.media(
                attached,
                self.world.access_hash(self.viewer, "media", attached.id),
                self.world.file_reference,
            )
            if attached is not None
            else None,
            fwd_from=self._forward_header(message),
            grouped_id=message.grouped_id,
            edit_date=message.edit_date,
            edit_hide=message.edit_hidden or None,
            pinned=message.pinned or None,
            reactions=tl.reactions(message.reactions),
            views=1 if posted else None,
            forwards=0 if posted else None,
            replies=types.MessageReplies(0, 0, comments=True, channel_id=chat.discussion.id)
            if chat.discussion is not None
            else None,
            post_author=message.sender.first_name if chat.signatures and message.sender is not None else None,
            **common,
        )

    def update(self, entry: Entry) -> Any:
        """The update that a live session is pushed for an entry."""
        pts, count, chat = entry.pts, entry.pts_count, entry.chat
        if entry.message is not None:
            kind = ("New" if entry.kind == "new" else "Edit") + ("Channel" if chat.is_channel else "")
            return getattr(types, f"Update{kind}Message")(self.message(entry.message), pts, count)
        ids = list(entry.ids)
        if entry.kind == "delete":
            if chat.is_channel:
                return types.UpdateDeleteChannelMessages(chat.id, ids, pts, count)
            return types.UpdateDeleteMessages(ids, pts, count)
        if entry.kind == "pin":
            if chat.is_channel:
                return types.UpdatePinnedChannelMessages(chat.id, ids, pts, count, pinned=True)
            return types.UpdatePinnedMessages(self.peer(chat), ids, pts, count, pinned=True)
        return types.UpdateReadHistoryInbox(self.peer(chat), ids[0], 0, pts, count)

    def updates(self, entries: Iterable[Entry], *, extra: Iterable[Any] = ()) -> Any:
        """An Updates object with everybody it names."""
        entries = list(entries)
        users, chats = self.named(entries)
        return types.Updates(
            [*extra, *(self.update(entry) for entry in entries)], users, chats, self.world.now(), 0
        )

    def named(self, entries: Iterable[Entry]) -> tuple[list[Any], list[Any]]:
        """The user and chat objects that go with entries."""
        chats: dict[Chat, None] = {}
        messages = []
        for entry in entries:
            chats[entry.chat] = None
            if entry.message is not None:
                messages.append(entry.message)
        return self.people(messages, chats)

    def people(self, messages: Iterable[Message], chats: Iterable[Chat] = ()) -> tuple[list[Any], list[Any]]:
        """The user and chat objects that messages and chats refer to."""
        named_users: dict[User, None] = {}
        named_chats: dict[Chat, None] = dict.fromkeys(chats)
        for message in messages:
            named_chats[message.chat] = None
            self.collect(message, named_users, named_chats)
        for chat in [chat for chat in named_chats if chat.kind == "private"]:
            del named_chats[chat]
            named_users.update(dict.fromkeys(chat.members.values()))
        return [self.user(user) for user in named_users], [self.chat(chat) for chat in named_chats]

    def collect(self, message: Message, users: dict[User, None], chats: dict[Chat, None]) -> None:
        """Notes whom a message refers to, besides its chat."""
        if message.sender is not None:
            users[message.sender] = None
        if message.speaks_for is not None:
            chats[message.speaks_for] = None
        forward, action = message.forward, message.action
        if forward is not None and forward.user is not None:
            users[forward.user] = None
        if forward is not None and forward.channel is not None:
            chats[forward.channel] = None
        if action is not None:
            users.update((self.world.users[user_id], None) for user_id in action.users)
            if action.name == "ChatMigrateTo":
                chats[self.world.channels[action.peer_id]] = None

    def _from(self, message: Message) -> Any:
        if message.chat.kind == "channel":
            return None
        if message.speaks_for is not None:
            return types.PeerChannel(message.speaks_for.id)
        if message.sender is None:  # an anonymous admin speaks as the supergroup
            return types.PeerChannel(message.chat.id)
        return types.PeerUser(message.sender.id)

    def _reply_header(self, message: Message) -> Any:
        reply_to, topic = message.reply_to, message.topic
        if topic is not None and topic != GENERAL_TOPIC:
            if reply_to is None or reply_to == topic:
                return types.MessageReplyHeader(forum_topic=True, reply_to_msg_id=topic)
            return types.MessageReplyHeader(forum_topic=True, reply_to_msg_id=reply_to, reply_to_top_id=topic)
        if reply_to is None:
            return None
        thread = message.thread if message.thread != reply_to else None
        return types.MessageReplyHeader(reply_to_msg_id=self.reply_id(message), reply_to_top_id=thread)

    def reply_id(self, message: Message) -> int | None:
        """The id, as this account counts, of what a message replies to."""
        if message.chat.is_channel:
            return message.reply_to
        return (message.reply_ids or {}).get(self.viewer.id)

    def _forward_header(self, message: Message) -> Any:
        forward = message.forward
        if forward is None:
            return None
        source = (
            types.PeerUser(forward.user.id)
            if forward.user is not None
            else types.PeerChannel(forward.channel.id)
            if forward.channel is not None
            else None
        )
        saved = forward.automatic
        return types.MessageFwdHeader(
            forward.date,
            from_id=source,
            channel_post=forward.channel_post,
            saved_from_peer=source if saved else None,
            saved_from_msg_id=forward.channel_post if saved else None,
        )
