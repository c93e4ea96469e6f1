"""What the control interface can do to a sandbox, with names and ids in place of objects."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Entity, Media, Message
from gateway.sandbox.traffic import Mix
from gateway.sandbox.users import User

if TYPE_CHECKING:
    from gateway.sandbox.sandbox import Sandbox

_Command = Callable[..., Any]


class Commands:
    """Commands take JSON values and return them. Chats are named by `Chat.ref`, users by id.

    A command raises ValueError, KeyError or TypeError when its arguments make no sense.
    """

    PUBLIC: ClassVar[dict[str, _Command]] = {}

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._world = sandbox.world

    def user(self, user_id: int) -> User:
        if int(user_id) not in self._world.users:
            raise ValueError(f"there is no user {user_id}; GET / lists them")
        return self._world.users[int(user_id)]

    def chat(self, ref: str | int) -> Chat:
        if str(ref) not in self._world.chats:
            raise ValueError(f"there is no chat {ref!r}; GET / lists them")
        return self._world.chat(ref)

    def describe(self) -> dict[str, Any]:
        """Users and chats, and how to reach the server."""
        return {
            "server": f"{self._sandbox.host}:{self._sandbox.port}",
            "public_key": str(self._sandbox.public_key_path),
            "position": self._world.position,
            "users": [
                {
                    "id": user.id,
                    "first_name": user.first_name,
                    "phone": user.phone,
                    "username": user.username,
                    "bot_token": user.bot_token,
                    "sessions": len(self._sandbox.delivery.sessions(user)),
                }
                for user in self._world.users.values()
            ],
            "chats": [_described(chat) for chat in self._world.chats.values()],
        }

    def stats(self) -> dict[str, Any]:
        traffic = self._sandbox.traffic
        return {
            "position": self._world.position,
            "made": traffic.made,
            "rate": round(traffic.rate, 3),
            "by_kind": dict(traffic.by_kind),
            "running": traffic.running,
            "faults": dict(self._sandbox.faults.injected),
        }

    def add_user(self, first_name: str, **particulars: str) -> dict[str, Any]:
        return {"id": self._world.add_user(first_name, **particulars).id}

    def add_chat(
        self,
        kind: str,
        members: list[int],
        title: str = "",
        username: str | None = None,
        forum: bool = False,
    ) -> dict[str, Any]:
        people = [self.user(user_id) for user_id in members]
        if kind == "private":
            chat = self._world.private(*people)
        elif kind == "group":
            chat = self._world.add_group(title, people)
        elif kind == "channel":
            chat = self._world.add_channel(title, people, username=username)
        elif kind == "supergroup":
            chat = self._world.add_supergroup(title, people, forum=forum, username=username)
        else:
            raise ValueError(f"{kind!r} is no kind of chat; use private, group, channel or supergroup")
        return _described(chat)

    def add_topic(self, chat: str, title: str, sender: int | None = None) -> dict[str, Any]:
        return {"id": self._world.add_topic(self.chat(chat), title, sender=self._sender(sender)).id}

    def edit_topic(
        self, chat: str, topic: int, title: str = "", closed: bool | None = None
    ) -> dict[str, Any]:
        forum = self.chat(chat)
        if topic not in forum.topics:
            raise ValueError(f"{chat} has no topic {topic}")
        return _message(self._world.edit_topic(forum, forum.topics[topic], title=title, closed=closed))

    def link_discussion(self, channel: str, group: str) -> None:
        self._world.link_discussion(self.chat(channel), self.chat(group))

    def join(self, chat: str, user: int) -> None:
        self._world.join(self.chat(chat), self.user(user))

    def leave(self, chat: str, user: int) -> None:
        self._world.leave(self.chat(chat), self.user(user))

    def ban(self, chat: str, user: int, error: str | None = None) -> None:
        self._world.ban(self.chat(chat), self.user(user), error=error)

    def unban(self, chat: str, user: int) -> None:
        self._world.unban(self.chat(chat), self.user(user))

    def make_private(self, chat: str) -> None:
        self._world.make_private(self.chat(chat))

    def skip_ids(self, chat: str, n: int) -> None:
        self._world.skip_ids(self.chat(chat), n)

    def post(
        self,
        chat: str,
        text: str = "",
        sender: int | None = None,
        media: str | dict[str, str] | None = None,
        entities: list[dict[str, Any]] | None = None,
        **place: Any,
    ) -> dict[str, Any]:
        """`place`: reply_to, topic, grouped_id, date. Media is a kind, or its fields, `data` in base64."""
        return _message(
            self._world.post(
                self.chat(chat),
                text,
                sender=self._sender(sender),
                media=_media(media) if isinstance(media, dict) else media,
                entities=[Entity(**entity) for entity in entities or ()],
                **place,
            )
        )

    def post_many(
        self, chat: str, texts: list[str], sender: int | None = None, per_push: int = 1
    ) -> list[dict[str, Any]]:
        made = self._world.post_many(self.chat(chat), texts, sender=self._sender(sender), per_push=per_push)
        return [_message(message) for message in made]

    def post_album(self, chat: str, captions: list[str], sender: int | None = None) -> list[dict[str, Any]]:
        made = self._world.post_album(self.chat(chat), captions, sender=self._sender(sender))
        return [_message(message) for message in made]

    def edit(self, chat: str, message_id: int, text: str) -> dict[str, Any]:
        return _message(self._world.edit(self.chat(chat), message_id, text))

    def react(self, chat: str, message_id: int, emoji: str = "👍") -> dict[str, Any]:
        return _message(self._world.react(self.chat(chat), message_id, emoji))

    def delete(self, chat: str, ids: list[int]) -> list[int]:
        return self._world.delete(self.chat(chat), ids)

    def set_title(self, chat: str, title: str) -> dict[str, Any]:
        return _message(self._world.set_title(self.chat(chat), title))

    def pin(self, chat: str, message_id: int) -> dict[str, Any]:
        return _message(self._world.pin(self.chat(chat), message_id))

    def migrate(self, chat: str) -> dict[str, Any]:
        return _described(self._world.migrate(self.chat(chat)))

    def import_history(self, chat: str, n: int, **how: Any) -> int:
        return len(self._world.import_history(self.chat(chat), n, **how))

    async def traffic(
        self,
        rate: float,
        count: int | None = None,
        mix: dict[str, float] | None = None,
        chats: list[str] | None = None,
        wait: bool = False,
    ) -> dict[str, Any]:
        """Starts traffic in place of what runs; with `wait` it answers when `count` is reached."""
        await self._sandbox.traffic.start(
            rate,
            count=count,
            mix=Mix.of(mix or {}),
            chats=None if chats is None else [self.chat(ref) for ref in chats],
        )
        if wait and count is not None:
            await self._sandbox.traffic.finish()
        return self.stats()

    async def stop_traffic(self) -> dict[str, Any]:
        await self._sandbox.traffic.stop()
        return self.stats()

    def accept_login(self, token: str, user: int) -> None:
        """Scans a QR code: `token` is its tg://login link, or the token in it."""
        encoded = token.rpartition("token=")[2]
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        self._sandbox.accounts.accept_token(raw, self.user(user))

    def drop_connections(self, user: int | None = None) -> int:
        return self._sandbox.drop_connections(self._sender(user))

    async def restart(self, down_seconds: float = 0.0) -> None:
        await self._sandbox.restart(down_seconds)

    def fault(self, name: str, user: int | None = None, **how: Any) -> None:
        """A fault of the wire by its method's name, for one user's keys or everybody."""
        faults = self._sandbox.faults
        if name not in _WIRE_FAULTS:
            raise ValueError(f"{name!r} is no fault of the wire; there are {', '.join(_WIRE_FAULTS)}")
        keys: list[int | None] = [None]
        if user is not None:
            keys = list(self._sandbox.accounts.keys_of(self.user(user)))
            if not keys:
                raise ValueError(f"user {user} is not logged in anywhere")
        for key in keys:
            target = {} if name == "refuse_connections" else {"auth_key_id": key}
            getattr(faults, name)(**how, **target)

    def too_long(
        self, chat: str | None = None, user: int | None = None, times: int = 1, announce: bool = True
    ) -> None:
        if (chat is None) == (user is None):
            raise ValueError("say either chat or user")
        target = self.chat(chat) if chat is not None else self.user(user or 0)
        self._sandbox.faults.too_long(target, times=times, announce=announce)

    def channel_private(self, user: int, chat: str, times: int | None = 1) -> None:
        self._sandbox.faults.channel_private(self.user(user), self.chat(chat), times=times)

    def expire_references(self) -> None:
        self._world.expire_references()

    def auth_key_unregistered(self, user: int) -> int:
        return self._sandbox.faults.auth_key_unregistered(self.user(user))

    def auth_key_duplicated(self, user: int) -> int:
        return self._sandbox.faults.auth_key_duplicated(self.user(user))

    def clear_faults(self) -> None:
        self._sandbox.faults.clear()

    def _sender(self, user_id: int | None) -> User | None:
        return self.user(user_id) if user_id is not None else None


_WIRE_FAULTS = ("stall", "release", "refuse_connections", "fault_pushes", "fail_calls", "lose_answers")
_HELPERS = ("user", "chat", "describe", "stats")

Commands.PUBLIC.update(
    (name, command)
    for name, command in vars(Commands).items()
    if callable(command) and not name.startswith("_") and name not in _HELPERS
)


def _described(chat: Chat) -> dict[str, Any]:
    return {
        "chat": chat.ref,
        "kind": chat.kind,
        "title": chat.title,
        "username": chat.username,
        "forum": chat.forum,
        "members": list(chat.members),
        "messages": len(chat.ids),
        "migrated_to": chat.migrated_to.ref if chat.migrated_to is not None else None,
    }


def _message(message: Message) -> dict[str, Any]:
    return {"id": message.id, "date": message.date, "ids": message.ids}


def _media(described: dict[str, str]) -> Media:
    fields = dict(described)
    return Media(data=base64.b64decode(fields.pop("data", "")), **fields)  # type: ignore[arg-type]
