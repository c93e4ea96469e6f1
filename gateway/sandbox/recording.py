"""How a change becomes numbered entries: in a channel's log, or in the log of every account that sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from gateway.sandbox.chats import Chat, Topic
from gateway.sandbox.directory import Directory
from gateway.sandbox.messages import Action, Entity, Entry, EntryKind, Forward, Media, Message
from gateway.sandbox.users import User

_FIRST_MEDIA_ID = 5_000_000_000_000_001
_CONTENT_KINDS = ("new", "edit", "delete")

# One change, as each sequence it went into holds it; a channel's own sequence belongs to no user.
Step = list[tuple[User | None, Entry]]


class Recorder(Directory):
    """Numbers messages and changes, and keeps the logs and the ground truth."""

    def _new_message(self, chat: Chat, *, date: int | None = None, **fields: Any) -> Message:
        """A message with its ids, not yet in the chat."""
        ids = None
        if not chat.is_channel:
            ids = {}
            for user in chat.members.values():
                ids[user.id] = user.next_message_id
                user.next_message_id += 1
        message = Message(
            id=chat.next_message_id, chat=chat, date=self.now() if date is None else date, ids=ids, **fields
        )
        chat.next_message_id += 1
        return message

    def _record(self, chat: Chat, message: Message, *, pushed: bool = True) -> Step:
        """Puts a new message into the chat and into the logs."""
        chat.messages[message.id] = message
        chat.ids.append(message.id)
        if message.topic is not None and message.topic in chat.topics:
            chat.topics[message.topic].top_message = message.id
        if chat.is_channel:
            return [(None, self._entry(chat, chat, "new", message, pushed=pushed))]
        step: Step = []
        for user in self._participants(chat, message):
            own_id = message.id_for(user.id)
            user.mailbox[own_id] = (chat, message.id)
            user.ids_by_chat.setdefault(chat, []).append(own_id)
            step.append((user, self._entry(user, chat, "new", message, pushed=pushed)))
        return step

    def _revise(self, chat: Chat, message: Message, *, reaction: bool = False) -> None:
        """Puts a message's next revision in its place, and tells."""
        chat.messages[message.id] = message
        if chat.is_channel:
            step: Step = [(None, self._entry(chat, chat, "edit", message, reaction=reaction))]
        else:
            step = [
                (user, self._entry(user, chat, "edit", message, reaction=reaction))
                for user in self._participants(chat, message)
            ]
        self._tell(chat, step)

    def _erase(self, chat: Chat, messages: Sequence[Message]) -> None:
        """Tells of messages that the chat no longer holds, each account in its own ids."""
        if chat.is_channel:
            entry = self._entry(chat, chat, "delete", ids=tuple(message.id for message in messages))
            self._tell(chat, [(None, entry)])
            return
        step: Step = []
        for user in chat.members.values():
            own_ids = tuple(message.id_for(user.id) for message in messages if user.id in (message.ids or {}))
            for own_id in own_ids:
                del user.mailbox[own_id]
                user.ids_by_chat[chat].remove(own_id)
            if own_ids:
                step.append((user, self._entry(user, chat, "delete", ids=own_ids)))
        self._tell(chat, step)

    def _tell(self, chat: Chat, *steps: Step) -> None:
        """Hands what happened to the listener: everything of these steps in one push per receiver."""
        if chat.is_channel:
            self.listener.channel_changed(chat, [entry for step in steps for _, entry in step])
            return
        by_user: dict[User, list[Entry]] = {}
        for step in steps:
            for user, entry in step:
                assert user is not None
                by_user.setdefault(user, []).append(entry)
        for user, entries in by_user.items():
            self.listener.account_changed(user, entries)

    def _entry(
        self,
        owner: Chat | User,
        chat: Chat,
        kind: EntryKind,
        message: Message | None = None,
        ids: tuple[int, ...] = (),
        *,
        reaction: bool = False,
        pushed: bool = True,
    ) -> Entry:
        """The next entry of the sequence of a channel (its own) or of an account."""
        self.position += 1
        count = len(ids) or 1
        pts = owner.log.advance(count) if pushed else 0
        entry = Entry(self.position, kind, chat, self._clock(), pts, count, message, ids, reaction)
        if pushed:
            owner.log.append(entry)
        if kind in _CONTENT_KINDS:
            owner.records.append(entry)
        return entry

    @staticmethod
    def _participants(chat: Chat, message: Message) -> list[User]:
        """The members whose accounts hold the message."""
        ids = message.ids or {}
        return [user for user in chat.members.values() if user.id in ids]

    def _with_id(self, media: Media | str) -> Media:
        """The media as the world holds it, to be downloaded by its id."""
        made = Media.sample(media) if isinstance(media, str) else media
        if not made.id:
            made = msgspec.structs.replace(made, id=_FIRST_MEDIA_ID + len(self.media), date=self.now())
            self.media[made.id] = made
        return made

    def _forward(self, source: User | Chat | Message) -> Forward:
        if isinstance(source, User):
            return Forward(self.now(), user=source)
        if isinstance(source, Chat):
            return Forward(self.now(), channel=source)
        if source.forward is not None:
            return source.forward
        if source.sender is not None:
            return Forward(source.date, user=source.sender)
        return Forward(source.date, channel=source.chat, channel_post=source.id)

    def _service(
        self,
        chat: Chat,
        action: Action,
        sender: User | None,
        *,
        reply_to: int | None = None,
        topic: int | None = None,
    ) -> Message:
        message = self._compose(chat, "", sender, reply_to, topic, action=action)
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
            thread=_thread(chat, answered) if action is None else None,
            media=self._with_id(media) if media is not None else None,
            grouped_id=grouped_id,
            forward=self._forward(forward_from) if forward_from is not None else None,
            entities=tuple(entities),
            date=int(date.timestamp()) if isinstance(date, datetime) else date,
            action=action,
        )


def _thread(chat: Chat, answered: Message | None) -> int | None:
    """The message that the thread of an answer began with. Only supergroups have them; forums have topics."""
    if answered is None or chat.kind != "supergroup" or chat.forum:
        return None
    return answered.thread or answered.id
