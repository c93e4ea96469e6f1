"""The sandbox's world: what happens in its chats, in pure synchronous state without any I/O.

Every change is numbered, logged for differences and the ground truth, and told to the listener at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from gateway.sandbox.chats import GENERAL_TOPIC, Chat, Topic
from gateway.sandbox.membership import Membership
from gateway.sandbox.messages import Action, Entity, Entry, Forward, Media, Message
from gateway.sandbox.recording import Step
from gateway.sandbox.users import User

_FIRST_ALBUM_ID = 13_000_000_000_000_001


class World(Membership):
    """People post, edit, react, delete, join and leave here (the last two in `Membership`).

    A message is named by its `Message` or by its id in the chat (`Message.id`). Where no sender is given, a
    channel posts as itself, a supergroup gets an anonymous admin's message, and in groups and private chats
    the last member speaks.
    """

    def add_supergroup(
        self,
        title: str,
        members: Iterable[User],
        *,
        forum: bool = False,
        username: str | None = None,
        hidden_history: bool = False,
    ) -> Chat:
        """A supergroup. A forum starts with its creation message, which is its General topic.

        With `hidden_history` those who join later do not see what was written before.
        """
        chat = self._add_channel("supergroup", title, members, username, forum)
        chat.hidden_history = hidden_history
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

    def edit_topic(
        self,
        chat: Chat,
        topic: Topic,
        *,
        title: str = "",
        closed: bool | None = None,
        sender: User | None = None,
    ) -> Message:
        """Renames a topic, closes it or opens it again; returns the service message that says so."""
        topic.title = title or topic.title
        return self._service(chat, Action("TopicEdit", title, closed=closed), sender, topic=topic.id)

    def link_discussion(self, channel: Chat, group: Chat) -> None:
        """From now on every post of the channel is copied to the supergroup, where it is commented on."""
        if channel.kind != "channel" or group.kind != "supergroup":
            raise ValueError("a channel has a supergroup for its discussion")
        channel.discussion = group
        for chat in (channel, group):
            chat.version += 1

    def copy_of(self, post: Message) -> Message:
        """The copy of a channel's post in the discussion group: comments are answers to it."""
        group = post.chat.discussion
        for message in reversed(group.messages.values()) if group is not None else ():
            forward = message.forward
            if forward is not None and forward.automatic and forward.channel_post == post.id:
                return message
        raise ValueError(f"{post.chat.ref} has no copy of {post.id} in a discussion group")

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
        self._copy_to_discussion(chat, [message])
        return message

    def post_many(
        self, chat: Chat, texts: Iterable[str], *, sender: User | None = None, per_push: int = 1
    ) -> list[Message]:
        """A burst of plain messages; `per_push` of them share one push."""
        messages = [self._compose(chat, text, sender) for text in texts]
        for start in range(0, len(messages), per_push):
            part = messages[start : start + per_push]
            self._tell(chat, *(self._record(chat, message) for message in part))
            self._copy_to_discussion(chat, part)
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
        self._copy_to_discussion(chat, messages)
        return messages

    def edit(
        self,
        chat: Chat,
        message: Message | int,
        text: str,
        *,
        entities: Sequence[Entity] = (),
        media: Media | str | None = None,
    ) -> Message:
        """New words, and new media where there is any; the media stays otherwise."""
        before = self._message(chat, message)
        edited = msgspec.structs.replace(
            before,
            text=text,
            media=self._with_id(media) if media is not None else before.media,
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

    def _copy_to_discussion(self, channel: Chat, posts: Sequence[Message]) -> None:
        group = channel.discussion
        if group is None:
            return
        copies = [
            self._new_message(
                group,
                text=post.text,
                entities=post.entities,
                media=post.media,
                grouped_id=post.grouped_id,
                speaks_for=channel,
                forward=Forward(post.date, channel=channel, channel_post=post.id, automatic=True),
            )
            for post in posts
        ]
        self._tell(group, *(self._record(group, copy) for copy in copies))

    def skip_ids(self, chat: Chat, n: int) -> None:
        """Uses up `n` ids that no message of this chat will ever have, as service messages for others do."""
        chat.next_message_id += n
        if not chat.is_channel:
            for user in chat.members.values():
                user.next_message_id += n

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
