"""What a client does in chats: send, forward, edit, delete, read. Its own updates are in the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from telethon.tl import functions, types

from gateway.sandbox import tl
from gateway.sandbox.backend import RpcError
from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Entry, Media, Message
from gateway.sandbox.rpc.call import Call, Handlers
from gateway.sandbox.users import User

handlers = Handlers()


@handlers.answers(functions.messages.SendMessageRequest)
def send_message(call: Call, request: Any) -> Any:
    if not request.message:
        raise RpcError(400, "MESSAGE_EMPTY")
    chat = _writable(call, request.peer)
    return _once(call, chat, request.random_id, lambda: _post(call, chat, request))


@handlers.answers(functions.messages.SendMediaRequest)
def send_media(call: Call, request: Any) -> Any:
    chat = _writable(call, request.peer)
    media = _media(call, request.media)
    return _once(call, chat, request.random_id, lambda: _post(call, chat, request, media))


@handlers.answers(functions.messages.ForwardMessagesRequest)
def forward_messages(call: Call, request: Any) -> Any:
    source = call.chat_named(request.from_peer)
    chat = _writable(call, request.to_peer)
    messages = [call.message_named(source, message_id) for message_id in request.id]

    def forward() -> None:
        for message in messages:
            call.world.post(
                chat,
                message.text,
                sender=call.me,
                media=message.media,
                forward_from=message,
                entities=message.entities,
            )

    return _once(call, chat, request.random_id[0], forward, request.random_id)


@handlers.answers(functions.messages.EditMessageRequest)
def edit_message(call: Call, request: Any) -> Any:
    chat = _writable(call, request.peer)
    message = call.message_named(chat, request.id)
    if message.sender is not call.me:
        raise RpcError(403, "MESSAGE_AUTHOR_REQUIRED")
    entities = tl.entities_from(request.entities)
    if request.message is None or (request.message == message.text and entities == message.entities):
        raise RpcError(400, "MESSAGE_NOT_MODIFIED")
    with call.services.delivery.answering(call.session, call.me) as caught:
        call.world.edit(chat, message, request.message, entities=entities)
    return call.view.updates(caught)


@handlers.answers(functions.messages.DeleteMessagesRequest)
def delete_messages(call: Call, request: Any) -> Any:
    by_chat: dict[Chat, list[int]] = {}
    for message_id in request.id:
        if message_id in call.me.mailbox:
            chat, own_id = call.me.mailbox[message_id]
            by_chat.setdefault(chat, []).append(own_id)
    with call.services.delivery.answering(call.session, call.me) as caught:
        for chat, ids in by_chat.items():
            call.world.delete(chat, ids)
    return types.messages.AffectedMessages(call.me.log.pts, sum(entry.pts_count for entry in caught))


@handlers.answers(functions.channels.DeleteMessagesRequest)
def delete_channel_messages(call: Call, request: Any) -> Any:
    channel = call.channel_named(request.channel)
    messages = [channel.messages[one] for one in request.id if one in channel.messages]
    if channel.creator is not call.me and any(message.sender is not call.me for message in messages):
        raise RpcError(403, "MESSAGE_DELETE_FORBIDDEN")
    with call.services.delivery.answering(call.session, call.me) as caught:
        call.world.delete(channel, messages)
    return types.messages.AffectedMessages(channel.log.pts, sum(entry.pts_count for entry in caught))


@handlers.answers(functions.messages.ReadHistoryRequest)
def read_history(call: Call, request: Any) -> Any:
    chat = call.chat_named(request.peer)
    ids = chat.ids_for(call.me)
    with call.services.delivery.answering(call.session, call.me) as caught:
        call.world.read(call.me, chat, request.max_id or (ids[-1] if ids else 0))
    return types.messages.AffectedMessages(call.me.log.pts, len(caught))


@handlers.answers(functions.channels.ReadHistoryRequest)
def read_channel_history(call: Call, request: Any) -> Any:
    call.world.read(call.me, call.channel_named(request.channel), request.max_id)
    return True


def _writable(call: Call, peer: Any) -> Chat:
    chat = call.chat_named(peer)
    if chat.migrated_to is not None:
        raise RpcError(400, "CHAT_ID_INVALID")
    if chat.kind == "channel" and chat.creator is not call.me:
        raise RpcError(403, "CHAT_WRITE_FORBIDDEN")
    if call.me.id not in chat.members:
        raise RpcError(403, "CHAT_WRITE_FORBIDDEN")
    return chat


def _post(call: Call, chat: Chat, request: Any, media: Media | None = None) -> Message:
    reply_to, topic = _reply(call, chat, request.reply_to)
    return call.world.post(
        chat,
        request.message,
        sender=call.me,
        reply_to=reply_to,
        topic=topic,
        media=media,
        entities=tl.entities_from(request.entities),
    )


def _reply(call: Call, chat: Chat, reply_to: Any) -> tuple[Message | None, int | None]:
    """What is answered, and in which topic, out of an InputReplyTo."""
    if not isinstance(reply_to, types.InputReplyToMessage):
        return None, None
    topic = reply_to.top_msg_id
    if chat.forum and reply_to.reply_to_msg_id in chat.topics:
        return None, reply_to.reply_to_msg_id
    return call.message_named(chat, reply_to.reply_to_msg_id), topic


def _media(call: Call, media: Any) -> Media:
    if isinstance(media, types.InputMediaWebPage):
        return Media.webpage(media.url)
    if isinstance(media, types.InputMediaPhoto | types.InputMediaDocument):
        known = call.world.media.get(media.id.id)
        if known is None:
            raise RpcError(400, "MEDIA_EMPTY")
        return known
    if not isinstance(media, types.InputMediaUploadedPhoto | types.InputMediaUploadedDocument):
        raise RpcError(400, "MEDIA_INVALID")
    parts = call.services.uploads.pop(media.file.id, {})
    if sorted(parts) != list(range(media.file.parts)):
        raise RpcError(400, "FILE_PARTS_INVALID")
    data = b"".join(parts[number] for number in sorted(parts))
    if isinstance(media, types.InputMediaUploadedPhoto):
        return Media.photo(data)
    return Media.document(data, media.file.name, media.mime_type)


def _once(
    call: Call, chat: Chat, random_id: int, send: Callable[[], object], random_ids: list[int] | None = None
) -> Any:
    """The answer to a sending; the same answer again when the client repeats it with the same random_id."""
    key = (call.me.id, random_id)
    sent = call.services.sent
    if key not in sent:
        with call.services.delivery.answering(call.session, call.me) as caught:
            send()
        sent[key] = _sent(call.me, call, chat, caught, random_ids or [random_id])
    return sent[key]


def _sent(me: User, call: Call, chat: Chat, caught: list[Entry], random_ids: list[int]) -> Any:
    message = caught[0].message
    assert message is not None
    short = call.services.delivery.short_updates and len(caught) == 1 and message.media is None
    if short and chat.kind == "private" and chat.other(me) is not me and message.forward is None:
        return types.UpdateShortSentMessage(
            message.id_for(me.id),
            caught[0].pts,
            caught[0].pts_count,
            message.date,
            out=True,
            entities=tl.entities(message.entities),
        )
    ids = [
        types.UpdateMessageID(entry.message.id_for(me.id), random_id)
        for entry, random_id in zip(caught, random_ids, strict=True)
        if entry.message is not None
    ]
    return call.view.updates(caught, extra=ids)
