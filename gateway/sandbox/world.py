"""The sandbox's world: what happens in its chats, in pure synchronous state without any I/O.

Every change is numbered, logged for differences and the ground truth, and told to the listener at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from gateway.sandbox.chats import GENERAL_TOPIC, Chat, Topic
from gateway.sandbox.messages import Action, Entity, Entry, Media, Message
from gateway.sandbox.recording import Recorder, Step
from gateway.sandbox.users import User

_FIRST_ALBUM_ID = 13_000_000_000_000_001


class World(Recorder):
    """People post, edit, react, delete, join and leave here.

    A message is named by its `Message` or by its id in the chat (`Message.id`). Where no sender is given, a
    channel posts as itself, a supergroup gets an anonymous admin's message, and in groups and private chats
    the last member speaks.
    """

    def add_supergroup(
        self, title: str, members: Iterable[User], *, forum: bool = False, username: str | None = None
    ) -> Chat:
        """A supergroup. A forum starts with its creation message, which is its General topic."""
        chat = self._add_channel("supergroup", title, members, username, forum)
        if forum:
            first = self._new_message(chat, sender=chat.creator, action=Action("ChannelCreate", title))
            self._record(chat, first, pushed=False)
            chat.topics[GENERAL_TOPIC] = Topic(GENERAL_TOPIC, "General", first.date, chat.creator, first.id)
        return chat

    def add_topic(self, chat: Chat, title: str, *, sender: User | None = None) -> Topic:
        if not chat.forum:
            raise ValueError(f"{chat.title!r} is no forum; make it with add_supergroup(…, forum=True)")
        opened = self._service(chat, Action("TopicCreate", title), sender)
        topic = Topic(opened.id, title, opened.date, opened.sender, opened.id)
        chat.topics[topic.id] = topic
        return topic

    def post(
        self,
        chat: Chat,
        text: str = "",
        *,
        sender: User | None = None,
        reply_to: Message | int | None = None,
        topic: Topic | int | None = None,
        media: Media | str | None = None,
        grouped_id: int | None = None,
        forward_from: User | Chat | Message | None = None,
        entities: Sequence[Entity] = (),
        date: datetime | int | None = None,
    ) -> Message:
        """One new message, pushed to every member at once. A media name means sample media of that kind."""
        message = self._compose(
            chat, text, sender, reply_to, topic, media, grouped_id, forward_from, entities, date
        )
        self._tell(chat, self._record(chat, message))
        return message

    def post_many(
        self, chat: Chat, texts: Iterable[str], *, sender: User | None = None, per_push: int = 1
    ) -> list[Message]:
        """A burst of plain messages; `per_push` of them share one push."""
        messages = [self._compose(chat, text, sender) for text in texts]
        for start in range(0, len(messages), per_push):
            self._tell(chat, *(self._record(chat, message) for message in messages[start : start + per_push]))
        return messages

    def post_album(
        self,
        chat: Chat,
        captions: Sequence[str],
        *,
        sender: User | None = None,
        media: Media | str = "photo",
        topic: Topic | int | None = None,
    ) -> list[Message]:
        """Several media that Telegram shows as one: one message each, one `grouped_id`, one push."""
        grouped_id = _FIRST_ALBUM_ID + self.position
        messages = [
            self._compose(chat, caption, sender, topic=topic, media=media, grouped_id=grouped_id)
            for caption in captions
        ]
        self._tell(chat, *(self._record(chat, message) for message in messages))
        return messages

    def edit(
        self, chat: Chat, message: Message | int, text: str, *, entities: Sequence[Entity] = ()
    ) -> Message:
        edited = msgspec.structs.replace(
            self._message(chat, message),
            text=text,
            entities=tuple(entities),
            edit_date=self.now(),
            edit_hidden=False,
        )
        self._revise(chat, edited)
        return edited

    def react(self, chat: Chat, message: Message | int, emoji: str = "👍") -> Message:
        """One more reaction. It reaches clients as an edit that changes no content."""
        before = self._message(chat, message)
        counts = dict(before.reactions)
        counts[emoji] = counts.get(emoji, 0) + 1
        reacted = msgspec.structs.replace(
            before,
            reactions=tuple(counts.items()),
            edit_date=before.edit_date or self.now(),
            edit_hidden=before.edit_date is None or before.edit_hidden,
        )
        self._revise(chat, reacted, reaction=True)
        return reacted

    def delete(self, chat: Chat, ids: Iterable[Message | int] | Message | int) -> list[int]:
        """Deletes for everybody what of `ids` exists; returns those ids."""
        wanted = [ids] if isinstance(ids, Message | int) else list(ids)
        gone = [chat.remove(one.id if isinstance(one, Message) else one) for one in wanted]
        messages = [message for message in gone if message is not None]
        if messages:
            self._erase(chat, messages)
        return [message.id for message in messages]

    def set_title(self, chat: Chat, title: str, *, sender: User | None = None) -> Message:
        chat.title = title
        chat.version += 1
        return self._service(chat, Action("ChatEditTitle", title), sender)

    def pin(self, chat: Chat, message: Message | int, *, sender: User | None = None) -> Message:
        """Pins a message; returns the service message that says so."""
        pinned = msgspec.structs.replace(self._message(chat, message), pinned=True)
        chat.messages[pinned.id] = pinned
        if chat.is_channel:
            step: Step = [(None, self._entry(chat, chat, "pin", ids=(pinned.id,)))]
        else:
            step = [
                (user, self._entry(user, chat, "pin", ids=(pinned.id_for(user.id),)))
                for user in self._participants(chat, pinned)
            ]
        self._tell(chat, step)
        return self._service(chat, Action("PinMessage"), sender, reply_to=pinned.id)

    def join(self, chat: Chat, user: User) -> None:
        """Adds a member; groups and supergroups say so in a service message."""
        if chat.kind == "private" or user.id in chat.members:
            return
        if chat.is_channel:
            self._enter(chat, user)
        else:
            chat.members[user.id] = user
            user.chats[chat] = None
            chat.version += 1
        if chat.kind != "channel":
            self._service(chat, Action("ChatAddUser", users=(user.id,)), user)

    def leave(self, chat: Chat, user: User) -> None:
        """Takes a member out; a basic group tells the one who leaves, too."""
        if chat.kind == "private" or user.id not in chat.members:
            return
        farewell = Action("ChatDeleteUser", users=(user.id,))
        if chat.kind == "group":
            self._service(chat, farewell, user)
            del chat.members[user.id]
            chat.version += 1
        else:
            self._exit(chat, user)
            if chat.kind == "supergroup":
                self._service(chat, farewell, user)

    def migrate(self, group: Chat) -> Chat:
        """Turns a basic group into a supergroup, which is a new chat; the group stays behind, closed."""
        if group.kind != "group" or group.migrated_to is not None:
            raise ValueError(f"{group.title!r} is no open basic group, so it cannot migrate")
        chat = self._add_channel("supergroup", group.title, group.members.values(), None)
        moved = self._compose(group, "", group.creator, action=Action("ChatMigrateTo", peer_id=chat.id))
        group.migrated_to = chat
        group.version += 1
        self._tell(group, self._record(group, moved))
        self._service(chat, Action("ChannelMigrateFrom", group.title, peer_id=group.id), group.creator)
        return chat

    def import_history(
        self, chat: Chat, n: int, *, text: str = "Histórico {}", sender: User | None = None, seconds: int = 60
    ) -> list[Message]:
        """`n` older messages, `seconds` apart, that are in the history but are never pushed."""
        first = max(self.now() - n * seconds, chat.messages[chat.ids[-1]].date if chat.ids else 0)
        messages = []
        for i in range(n):
            date = min(first + i * seconds, self.now())
            message = self._compose(chat, text.format(i + 1), sender, date=date)
            self._record(chat, message, pushed=False)
            messages.append(message)
        return messages

    def read(self, user: User, chat: Chat, max_id: int) -> Entry | None:
        """The user has read up to `max_id`, as the account counts; its other sessions learn it."""
        user.read_up_to[chat] = max(max_id, user.read_up_to.get(chat, 0))
        if chat.is_channel:
            return None
        entry = self._entry(user, chat, "read_inbox", ids=(user.read_up_to[chat],))
        self.listener.account_changed(user, (entry,))
        return entry

    def _service(
        self, chat: Chat, action: Action, sender: User | None, *, reply_to: int | None = None
    ) -> Message:
        message = self._compose(chat, "", sender, reply_to, action=action)
        self._tell(chat, self._record(chat, message))
        return message

    def _message(self, chat: Chat, message: Message | int) -> Message:
        message_id = message.id if isinstance(message, Message) else message
        if message_id not in chat.messages:
            raise ValueError(f"{chat.ref} holds no message {message_id}; it was deleted, or never there")
        return chat.messages[message_id]

    def _compose(
        self,
        chat: Chat,
        text: str,
        sender: User | None = None,
        reply_to: Message | int | None = None,
        topic: Topic | int | None = None,
        media: Media | str | None = None,
        grouped_id: int | None = None,
        forward_from: User | Chat | Message | None = None,
        entities: Sequence[Entity] = (),
        date: datetime | int | None = None,
        action: Action | None = None,
    ) -> Message:
        if chat.migrated_to is not None:
            raise ValueError(f"{chat.title!r} became the supergroup {chat.migrated_to.ref}; post there")
        if sender is None and not chat.is_channel:
            sender = next(reversed(chat.members.values()))
        answered = self._message(chat, reply_to) if reply_to is not None else None
        return self._new_message(
            chat,
            text=text,
            sender=sender,
            reply_to=answered.id if answered is not None else None,
            reply_ids=answered.ids if answered is not None else None,
            topic=topic.id if isinstance(topic, Topic) else topic,
            media=self._with_id(media) if media is not None else None,
            grouped_id=grouped_id,
            forward=self._forward(forward_from) if forward_from is not None else None,
            entities=tuple(entities),
            date=int(date.timestamp()) if isinstance(date, datetime) else date,
            action=action,
        )
