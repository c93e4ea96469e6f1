"""Chats themselves: what they are, who is in them, joining and leaving."""

from __future__ import annotations

from typing import Any

from telethon.tl import functions, types

from gateway.sandbox import tl
from gateway.sandbox.backend import RpcError
from gateway.sandbox.chats import Chat
from gateway.sandbox.rpc.call import Call, Handlers

handlers = Handlers()


@handlers.answers(functions.channels.GetChannelsRequest)
def get_channels(call: Call, request: Any) -> Any:
    return types.messages.Chats([call.view.chat(call.channel_named(peer)) for peer in request.id])


@handlers.answers(functions.messages.GetChatsRequest)
def get_chats(call: Call, request: Any) -> Any:
    return types.messages.Chats([call.view.chat(call.group_with_id(chat_id)) for chat_id in request.id])


@handlers.answers(functions.channels.GetFullChannelRequest)
def get_full_channel(call: Call, request: Any) -> Any:
    channel = call.channel_named(request.channel)
    full = types.ChannelFull(
        channel.id,
        about="",
        read_inbox_max_id=call.me.read_up_to.get(channel, 0),
        read_outbox_max_id=0,
        unread_count=0,
        chat_photo=types.PhotoEmpty(0),
        notify_settings=tl.notify_settings(),
        bot_info=[],
        pts=channel.log.pts,
        participants_count=len(channel.members),
        linked_chat_id=channel.discussion.id if channel.discussion is not None else None,
    )
    return types.messages.ChatFull(full, [call.view.chat(channel)], [])


@handlers.answers(functions.messages.GetFullChatRequest)
def get_full_chat(call: Call, request: Any) -> Any:
    group = call.group_with_id(request.chat_id)
    creator_id = group.creator.id if group.creator is not None else 0
    participants = [
        types.ChatParticipantCreator(user_id)
        if user_id == creator_id
        else types.ChatParticipant(user_id, creator_id, group.date)
        for user_id in group.members
    ]
    full = types.ChatFull(
        group.id,
        about="",
        participants=types.ChatParticipants(group.id, participants, group.version),
        notify_settings=tl.notify_settings(),
    )
    users = [call.view.user(user) for user in group.members.values()]
    return types.messages.ChatFull(full, [call.view.chat(group)], users)


@handlers.answers(functions.channels.GetParticipantRequest)
def get_participant(call: Call, request: Any) -> Any:
    channel = call.channel_named(request.channel)
    user = call.user_named(request.participant)
    if user.id not in channel.members:
        raise RpcError(400, "USER_NOT_PARTICIPANT")
    if user is channel.creator:
        found: Any = types.ChannelParticipantCreator(user.id, types.ChatAdminRights())
    elif user is call.me:
        found = types.ChannelParticipantSelf(user.id, user.id, channel.joined[user.id])
    else:
        found = types.ChannelParticipant(user.id, channel.joined[user.id])
    return types.channels.ChannelParticipant(found, [], [call.view.user(user)])


@handlers.answers(functions.channels.JoinChannelRequest)
def join_channel(call: Call, request: Any) -> Any:
    channel = call.channel_named(request.channel)
    if call.me.id in channel.members:
        raise RpcError(400, "USER_ALREADY_PARTICIPANT")
    return _moved(call, channel, joins=True)


@handlers.answers(functions.channels.LeaveChannelRequest)
def leave_channel(call: Call, request: Any) -> Any:
    channel = call.channel_named(request.channel)
    if call.me.id not in channel.members:
        raise RpcError(400, "USER_NOT_PARTICIPANT")
    return _moved(call, channel, joins=False)


def _moved(call: Call, channel: Chat, *, joins: bool) -> Any:
    with call.services.delivery.answering(call.session, call.me) as caught:
        if joins:
            call.world.join(channel, call.me)
        else:
            call.world.leave(channel, call.me)
    users, chats = call.view.named(caught)
    updates = [types.UpdateChannel(channel.id), *(call.view.update(entry) for entry in caught)]
    return types.Updates(updates, users, chats or [call.view.chat(channel)], call.world.now(), call.me.seq)
