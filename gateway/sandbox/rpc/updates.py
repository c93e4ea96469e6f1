"""The update state, and what a client missed since the state it shows."""

from __future__ import annotations

from typing import Any

from msgspec import structs
from telethon.tl import functions, types

from gateway.sandbox import tl
from gateway.sandbox.backend import RpcError
from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Entry
from gateway.sandbox.rpc.call import Call, Handlers
from gateway.sandbox.rpc.dialogs import dialog, state

handlers = Handlers()

_TOO_LONG_MESSAGES = 20


@handlers.answers(functions.updates.GetStateRequest)
def get_state(call: Call, request: Any) -> Any:
    return state(call)


@handlers.answers(functions.updates.GetDifferenceRequest)
def get_difference(call: Call, request: Any) -> Any:
    log = call.me.log
    entries = log.since(request.pts)
    if entries is None or call.services.faults.takes_too_long(call.me):
        return types.updates.DifferenceTooLong(log.pts)
    if request.pts_total_limit is not None and len(entries) > request.pts_total_limit:
        return types.updates.DifferenceTooLong(log.pts)
    limit = min(call.world.difference_limit, request.pts_limit or call.world.difference_limit)
    hints = _channel_hints(call, tl.timestamp(request.date))
    if not entries and not hints:
        return types.updates.DifferenceEmpty(call.world.now(), call.me.seq)
    part, is_last = entries[:limit], len(entries) <= limit
    messages, others = _divide(call, part)
    users, chats = call.view.named(part)
    if not is_last:
        return types.updates.DifferenceSlice(messages, [], others, chats, users, state(call, part[-1].pts))
    named = {entry.chat for entry in part}
    chats += [call.view.chat(chat) for chat in {chat: None for _, chat in hints if chat not in named}]
    others += [hint for hint, _ in hints]
    return types.updates.Difference(messages, [], others, chats, users, state(call))


def _channel_hints(call: Call, date: int) -> list[tuple[Any, Chat]]:
    """Updates that name the channels in which something happened since `date`, with their chats."""
    hints = [
        (types.UpdateChannelTooLong(chat.id, pts=chat.log.pts), chat)
        for chat in call.me.chats
        if chat.is_channel and chat.log.entries and chat.log.entries[-1].at >= date
    ]
    changed = {chat: None for when, chat in call.me.notices if when >= date}
    return hints + [(types.UpdateChannel(chat.id), chat) for chat in changed]


@handlers.answers(functions.updates.GetChannelDifferenceRequest)
def get_channel_difference(call: Call, request: Any) -> Any:
    channel = call.channel_named(request.channel)
    if request.pts <= 0:
        raise RpcError(400, "PERSISTENT_TIMESTAMP_EMPTY")
    log = channel.log
    entries = log.since(request.pts)
    if entries is None or call.services.faults.takes_too_long(channel):
        ids = channel.ids_for(call.me)[-_TOO_LONG_MESSAGES:]
        newest = [channel.messages[message_id] for message_id in reversed(ids)]
        users, chats = call.view.people(newest, [channel])
        return types.updates.ChannelDifferenceTooLong(
            dialog(call, channel),
            [call.view.message(message) for message in newest],
            chats,
            users,
            final=True,
        )
    if not entries:
        return types.updates.ChannelDifferenceEmpty(log.pts, final=True)
    part = entries[: min(request.limit, call.world.difference_limit)]
    shown = [entry for entry in part if entry.message is None or channel.shows(call.me, entry.message.id)]
    messages, others = _divide(call, shown)
    users, chats = call.view.named(shown)
    return types.updates.ChannelDifference(
        part[-1].pts, messages, others, chats, users, final=True if len(part) == len(entries) else None
    )


def _divide(call: Call, entries: list[Entry]) -> tuple[list[Any], list[Any]]:
    """New messages, and everything else as the updates that live sessions got."""
    if not call.world.replays_revisions:
        entries = [current for entry in entries if (current := _as_it_is_now(entry)) is not None]
    messages = [
        call.view.message(entry.message)
        for entry in entries
        if entry.kind == "new" and entry.message is not None
    ]
    return messages, [call.view.update(entry) for entry in entries if entry.kind != "new"]


def _as_it_is_now(entry: Entry) -> Entry | None:
    """The entry with the newest revision of its message; None when that has been deleted."""
    if entry.message is None:
        return entry
    message = entry.chat.messages.get(entry.message.id)
    return structs.replace(entry, message=message) if message is not None else None
