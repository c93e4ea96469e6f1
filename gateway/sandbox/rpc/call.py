"""One request being answered: who asks, and what the peers named in it are in the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from telethon.tl import types

from gateway.sandbox.accounts import Accounts
from gateway.sandbox.backend import ClientSession, RpcError
from gateway.sandbox.chats import Chat
from gateway.sandbox.delivery import Delivery
from gateway.sandbox.faults import SandboxFaults
from gateway.sandbox.messages import Message
from gateway.sandbox.users import User
from gateway.sandbox.view import View
from gateway.sandbox.world import World


@dataclass(slots=True)
class Services:
    """What handlers work with; `address` is where clients reach the server."""

    world: World
    delivery: Delivery
    accounts: Accounts
    faults: SandboxFaults
    address: Callable[[], tuple[str, int]]
    uploads: dict[int, dict[int, bytes]]
    sent: dict[tuple[int, int], Any]  # answers by user and random_id, for clients that ask again


@dataclass(slots=True)
class Call:
    """A request's context. `me` raises where nobody is logged in."""

    services: Services
    session: ClientSession
    user: User | None

    @property
    def me(self) -> User:
        if self.user is None:
            raise RpcError(401, "AUTH_KEY_UNREGISTERED")
        return self.user

    @property
    def world(self) -> World:
        return self.services.world

    @property
    def view(self) -> View:
        return self.services.delivery.view(self.me)

    def refuse_bots(self) -> None:
        if self.me.is_bot:
            raise RpcError(400, "BOT_METHOD_INVALID")

    def user_named(self, peer: Any) -> User:
        """The user of an InputUser or InputPeerUser."""
        if isinstance(peer, types.InputUserSelf | types.InputPeerSelf):
            return self.me
        user = self.world.users.get(getattr(peer, "user_id", 0))
        if user is None:
            raise RpcError(400, "USER_ID_INVALID")
        if hasattr(peer, "access_hash") and user is not self.me:
            self._check_hash(peer.access_hash, "user", user.id, "USER_ID_INVALID")
        return user

    def channel_named(self, peer: Any) -> Chat:
        """The channel or supergroup of an InputChannel or InputPeerChannel, if the caller may see it."""
        chat = self.world.channels.get(getattr(peer, "channel_id", 0))
        if chat is None:
            raise RpcError(400, "CHANNEL_INVALID")
        if hasattr(peer, "access_hash"):
            self._check_hash(peer.access_hash, "channel", chat.id, "CHANNEL_INVALID")
        if self.services.faults.refuses_channel(self.me, chat):
            raise RpcError(400, "CHANNEL_PRIVATE")
        refusal = chat.refuses(self.me)
        if refusal is not None:
            raise RpcError(400, refusal)
        return chat

    def group_with_id(self, chat_id: int) -> Chat:
        chat = self.world.groups.get(chat_id)
        if chat is not None and self.me.id in chat.banned:
            raise RpcError(403, chat.banned[self.me.id])
        if chat is None or chat not in self.me.chats:
            raise RpcError(400, "CHAT_ID_INVALID")
        return chat

    def chat_named(self, peer: Any) -> Chat:
        """The chat of an InputPeer."""
        if isinstance(peer, types.InputDialogPeer):
            peer = peer.peer
        if hasattr(peer, "channel_id"):
            return self.channel_named(peer)
        if hasattr(peer, "chat_id"):
            return self.group_with_id(peer.chat_id)
        if isinstance(peer, types.InputPeerEmpty):
            raise RpcError(400, "PEER_ID_INVALID")
        return self.world.private(self.me, self.user_named(peer))

    def message_named(self, chat: Chat, message_id: int) -> Message:
        """The message of a chat, by the id that the caller's account knows."""
        message = chat.message_for(self.me, message_id)
        if message is None:
            raise RpcError(400, "MESSAGE_ID_INVALID")
        return message

    def _check_hash(self, shown: int, kind: str, peer_id: int, error: str) -> None:
        if self.me.is_bot and shown == 0:
            return  # bots may leave it out
        if shown != self.world.access_hash(self.me, kind, peer_id):
            raise RpcError(400, error)


Handler = Callable[[Call, Any], Any]
_Handler = TypeVar("_Handler", bound=Handler)


class Handlers:
    """Handlers by request class. Those marked `open` answer clients that are not logged in, too."""

    def __init__(self) -> None:
        self.by_request: dict[type[Any], tuple[Handler, bool]] = {}

    def answers(self, *requests: Any, open: bool = False) -> Callable[[_Handler], _Handler]:
        def register(handler: _Handler) -> _Handler:
            for request in requests:
                self.by_request[request] = (handler, open)
            return handler

        return register
