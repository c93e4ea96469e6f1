"""The ground truth: what an account could see, in order, told by the world and not by what was sent.

It is worked out here from the world's own records; what clients make of the wire is compared with it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from operator import itemgetter
from typing import Literal

import msgspec

from gateway.sandbox.chats import GENERAL_TOPIC
from gateway.sandbox.messages import Entry, Message
from gateway.sandbox.tl import snake
from gateway.sandbox.users import User

TruthKind = Literal["message.new", "message.edited", "message.deleted"]


class TruthEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One change that the account could see.

    `id` is the gateway's event id; an edit's lacks its last part, the content hash. `text` is None where the
    words are a `caption` (photos and documents), in service messages and in deletions. A NUL in it is U+FFFD:
    no database would take it. A `reaction` is an
    edit that changes no content. `pushed` is False for imported history. `position` counts the world's
    changes, `posted_at` is its time in seconds since the epoch.
    """

    position: int
    posted_at: float
    kind: TruthKind
    id: str
    account_scope: int
    channel_id: str
    message_id: int
    text: str | None = None
    caption: str | None = None
    date: datetime | None = None
    edit_date: datetime | None = None
    grouped_id: int | None = None
    thread_id: int | None = None
    reply_to_msg_id: int | None = None
    sender_id: int | None = None
    out: bool = False
    media: str | None = None
    action: str | None = None
    reaction: bool = False
    pushed: bool = True


def truth_of(user: User, since: int = 0) -> list[TruthEvent]:
    """Everything after position `since`, in the order in which it happened; one event a deleted id."""
    found: list[tuple[int, Entry]] = [(entry.index, entry) for entry in user.records if entry.index > since]
    for chat, windows in user.windows.items():
        for start, end in windows:
            found.extend(
                (entry.index, entry)
                for entry in chat.records
                if entry.index > max(start, since) and (end is None or entry.index <= end)
            )
    found.sort(key=itemgetter(0))
    return [event for _, entry in found for event in _events(user, entry)]


def _events(user: User, entry: Entry) -> list[TruthEvent]:
    scope = 0 if entry.chat.is_channel else user.id
    channel_id = str(entry.chat.marked_id_for(user))
    if entry.message is not None:
        return [_written(user, entry, entry.message, scope, channel_id)]
    return [
        TruthEvent(
            position=entry.index,
            posted_at=entry.at,
            kind="message.deleted",
            id=f"{scope}:{channel_id}:{message_id}:delete",
            account_scope=scope,
            channel_id=channel_id,
            message_id=message_id,
        )
        for message_id in entry.ids
    ]


def _written(user: User, entry: Entry, message: Message, scope: int, channel_id: str) -> TruthEvent:
    message_id = message.id_for(user.id)
    identity = f"{scope}:{channel_id}:{message_id}"
    if entry.kind == "edit":
        identity += f":edit:{message.edit_date}"
    captioned = message.media is not None and message.media.kind != "webpage"
    service = message.action is not None
    words = message.text.replace("\0", "\ufffd")
    in_topic = message.topic is not None and message.topic != GENERAL_TOPIC
    return TruthEvent(
        position=entry.index,
        posted_at=entry.at,
        kind="message.edited" if entry.kind == "edit" else "message.new",
        id=identity,
        account_scope=scope,
        channel_id=channel_id,
        message_id=message_id,
        text=None if captioned or service else words,
        caption=words or None if captioned else None,
        date=datetime.fromtimestamp(message.date, UTC),
        edit_date=datetime.fromtimestamp(message.edit_date, UTC) if message.edit_date is not None else None,
        grouped_id=message.grouped_id,
        thread_id=message.topic if in_topic else message.thread,
        reply_to_msg_id=_replied(user, message, in_topic),
        sender_id=message.sender.id if message.sender is not None else None,
        out=message.sender is user,
        media=message.media.kind if message.media is not None else None,
        action=snake(message.action.name) if message.action is not None else None,
        reaction=entry.reaction,
        pushed=entry.pts > 0,
    )


def _replied(user: User, message: Message, in_topic: bool) -> int | None:
    """What the message answers, by the account's ids: in a topic at least the message that opened it."""
    if message.reply_to is None:
        return message.topic if in_topic else None
    if message.chat.is_channel:
        return message.reply_to
    return (message.reply_ids or {}).get(user.id)
