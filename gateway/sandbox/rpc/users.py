"""Looking people up."""

from __future__ import annotations

from typing import Any

from telethon.tl import functions, types

from gateway.sandbox import tl
from gateway.sandbox.backend import RpcError
from gateway.sandbox.rpc.call import Call, Handlers
from gateway.sandbox.users import User

handlers = Handlers()


@handlers.answers(functions.users.GetUsersRequest)
def get_users(call: Call, request: Any) -> Any:
    return [call.view.user(call.user_named(peer)) for peer in request.id]


@handlers.answers(functions.users.GetFullUserRequest)
def get_full_user(call: Call, request: Any) -> Any:
    user = call.user_named(request.id)
    full = types.UserFull(
        user.id, settings=types.PeerSettings(), notify_settings=tl.notify_settings(), common_chats_count=0
    )
    return types.users.UserFull(full, [], [call.view.user(user)])


@handlers.answers(functions.contacts.GetContactsRequest)
def get_contacts(call: Call, request: Any) -> Any:
    friends = [chat.other(call.me) for chat in call.me.chats if chat.kind == "private"]
    contacts = [types.Contact(friend.id, mutual=False) for friend in friends]
    return types.contacts.Contacts(contacts, 0, [call.view.user(friend) for friend in friends])


@handlers.answers(functions.contacts.ResolveUsernameRequest)
def resolve_username(call: Call, request: Any) -> Any:
    found = call.world.by_username(request.username)
    if found is None:
        raise RpcError(400, "USERNAME_NOT_OCCUPIED")
    if isinstance(found, User):
        return types.contacts.ResolvedPeer(types.PeerUser(found.id), [], [call.view.user(found)])
    return types.contacts.ResolvedPeer(types.PeerChannel(found.id), [call.view.chat(found)], [])
