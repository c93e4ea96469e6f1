"""Messages by their place in a chat's history, by id, and by search."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from telethon.tl import functions, types

from gateway.sandbox import tl
from gateway.sandbox.backend import RpcError
from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Message
from gateway.sandbox.rpc.call import Call, Handlers

handlers = Handlers()

_PAGE_LIMIT = 100
_IDS_LIMIT = 100
_KINDS_BY_FILTER = {
    types.InputMessagesFilterPhotos: ("photo",),
    types.InputMessagesFilterPhotoVideo: ("photo",),
    types.InputMessagesFilterDocument: ("document",),
    types.InputMessagesFilterUrl: ("webpage",),
}


@handlers.answers(functions.messages.GetHistoryRequest)
def get_history(call: Call, request: Any) -> Any:
    call.refuse_bots()
    chat = call.chat_named(request.peer)
    return _page(call, chat, chat.ids_for(call.me), request, request.offset_date)


@handlers.answers(functions.messages.GetRepliesRequest)
def get_replies(call: Call, request: Any) -> Any:
    call.refuse_bots()
    chat = call.chat_named(request.peer)
    thread = request.msg_id
    ids = _ids(call, chat, lambda message: thread in (message.topic, message.thread, message.reply_to))
    return _page(call, chat, ids, request, request.offset_date)


@handlers.answers(functions.messages.SearchRequest)
def search(call: Call, request: Any) -> Any:
    call.refuse_bots()
    chat = call.chat_named(request.peer)
    words = request.q.lower()
    kinds = _KINDS_BY_FILTER.get(type(request.filter))
    pinned = isinstance(request.filter, types.InputMessagesFilterPinned)
    sender = call.user_named(request.from_id) if request.from_id is not None else None

    def wanted(message: Message) -> bool:
        return (
            words in message.text.lower()
            and (kinds is None or (message.media is not None and message.media.kind in kinds))
            and (not pinned or message.pinned)
            and (sender is None or message.sender is sender)
            and (request.top_msg_id is None or message.topic == request.top_msg_id)
        )

    return _page(call, chat, _ids(call, chat, wanted), request, request.max_date)


@handlers.answers(functions.messages.GetMessagesRequest)
def get_messages(call: Call, request: Any) -> Any:
    _check_count(request.id)
    found = []
    for wanted in request.id:
        chat, own_id = call.me.mailbox.get(getattr(wanted, "id", 0), (None, 0))
        reachable = chat is not None and chat.refuses(call.me) is None
        found.append(chat.messages.get(own_id) if chat is not None and reachable else None)
    messages, users, chats = _exactly(call, request.id, found, None)
    return types.messages.Messages(messages, [], chats, users)


@handlers.answers(functions.channels.GetMessagesRequest)
def get_channel_messages(call: Call, request: Any) -> Any:
    channel = call.channel_named(request.channel)
    _check_count(request.id)
    found = []
    for wanted in request.id:
        if isinstance(wanted, types.InputMessagePinned):
            pinned = [
                message
                for message in channel.messages.values()
                if message.pinned and channel.shows(call.me, message.id)
            ]
            found.append(pinned[-1] if pinned else None)
            continue
        message = channel.message_for(call.me, getattr(wanted, "id", 0))
        if isinstance(wanted, types.InputMessageReplyTo):
            answered = message.reply_to if message is not None else None
            message = channel.message_for(call.me, answered) if answered is not None else None
        found.append(message)
    messages, users, chats = _exactly(call, request.id, found, channel)
    return types.messages.ChannelMessages(channel.log.pts, len(messages), messages, [], chats, users)


def _check_count(ids: list[Any]) -> None:
    if not ids:
        raise RpcError(400, "MESSAGE_IDS_EMPTY")
    if len(ids) > _IDS_LIMIT:
        raise RpcError(400, "LIMIT_INVALID")


def _exactly(
    call: Call, wanted: list[Any], found: list[Message | None], chat: Chat | None
) -> tuple[list[Any], list[Any], list[Any]]:
    """One object for each wanted id, an empty one where there is no message."""
    messages = [
        call.view.message(message)
        if message is not None
        else types.MessageEmpty(getattr(one, "id", 0), peer_id=call.view.peer(chat) if chat else None)
        for one, message in zip(wanted, found, strict=True)
    ]
    users, chats = call.view.people([m for m in found if m is not None], [chat] if chat else [])
    return messages, users, chats


def _ids(call: Call, chat: Chat, wanted: Callable[[Message], bool]) -> list[int]:
    return [
        message_id
        for message_id in chat.ids_for(call.me)
        if (message := chat.message_for(call.me, message_id)) is not None and wanted(message)
    ]


def _page(call: Call, chat: Chat, ids: list[int], request: Any, offset_date: Any) -> Any:
    """The part of `ids` that a request's offsets and limits ask for, newest first.

    `add_offset` counts from the offset towards older messages, and from there towards newer ones where it
    is negative.
    """
    older = bisect_left(ids, request.offset_id) if request.offset_id else len(ids)
    before = tl.timestamp(offset_date)
    if before and not request.offset_id:
        older = bisect_left(ids, before, key=lambda message_id: _date(call, chat, message_id))
    end = older - request.add_offset
    start = max(end - min(max(request.limit, 0), _PAGE_LIMIT), 0)
    chosen = [
        message_id
        for message_id in ids[start : max(end, 0)]
        if message_id > request.min_id and (not request.max_id or message_id < request.max_id)
    ]
    found = [
        message
        for message_id in reversed(chosen)
        if (message := chat.message_for(call.me, message_id)) is not None
    ]
    users, chats = call.view.people(found, [chat])
    messages = [call.view.message(message) for message in found]
    if chat.is_channel:
        return types.messages.ChannelMessages(chat.log.pts, len(ids), messages, [], chats, users)
    if len(messages) == len(ids):
        return types.messages.Messages(messages, [], chats, users)
    return types.messages.MessagesSlice(len(ids), messages, [], chats, users)


def _date(call: Call, chat: Chat, message_id: int) -> int:
    message = chat.message_for(call.me, message_id)
    assert message is not None
    return message.date
