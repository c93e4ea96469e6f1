"""What an account knows of the chats and people it meets: names, kinds and usernames, for filling events."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from telethon.tl import types

from gateway.event import ChatType, Event, Sender
from gateway.journal import ChatId, LedgerChanges
from gateway.telegram.plain import clean_text

MAX_PEOPLE = 50_000  # names of senders kept in memory; the oldest-seen go first


@dataclass(frozen=True, slots=True)
class ChatInfo:
    """A chat's kind and names; a forum is a supergroup with topics."""

    type: ChatType
    title: str | None
    username: str | None
    forum: bool = False


def marked_channel(channel_id: int) -> int:
    """The marked id of a channel or supergroup: -100 before the id."""
    return -(1_000_000_000_000 + channel_id)


def is_channel(marked_id: int) -> bool:
    """Whether a marked id is that of a channel or supergroup, which number their messages themselves."""
    return marked_id < -1_000_000_000_000


def channel_of(marked_id: int) -> int:
    """The unmarked id of a channel or supergroup."""
    return -marked_id - 1_000_000_000_000


def marked(peer: Any) -> int:
    """The marked id of a Peer: users as they are, basic groups negative, channels with -100 before."""
    if isinstance(peer, types.PeerChannel):
        return marked_channel(peer.channel_id)
    if isinstance(peer, types.PeerChat):
        return -int(peer.chat_id)
    return int(peer.user_id)


class Directory:
    """Names of chats (all of them) and people (the most recent `MAX_PEOPLE`)."""

    def __init__(self) -> None:
        self._chats: dict[int, ChatInfo] = {}
        self._people: OrderedDict[int, Sender] = OrderedDict()

    def learn(self, users: Iterable[Any], chats: Iterable[Any]) -> None:
        """Takes in the users and chats that came with an answer or a push."""
        for user in users:
            if isinstance(user, types.User):
                self._learn_user(user)
        for chat in chats:
            if isinstance(chat, types.Channel):
                if chat.min and marked_channel(chat.id) in self._chats:
                    continue  # as with people: the fuller record stays
                kind: ChatType = "channel" if chat.broadcast else "supergroup"
                self._chats[marked_channel(chat.id)] = ChatInfo(
                    kind, clean_text(chat.title), _username(chat), bool(chat.forum)
                )
            elif isinstance(chat, types.ChannelForbidden):
                kind = "channel" if chat.broadcast else "supergroup"
                self._chats.setdefault(marked_channel(chat.id), ChatInfo(kind, clean_text(chat.title), None))
            elif isinstance(chat, types.Chat | types.ChatForbidden):
                self._chats[-chat.id] = ChatInfo("group", clean_text(chat.title), None)

    def chat(self, marked_id: int) -> ChatInfo | None:
        """A chat's names; for a private chat those of the other person."""
        if marked_id > 0:
            person = self._people.get(marked_id)
            return ChatInfo("private", person.name, person.username) if person else None
        return self._chats.get(marked_id)

    def sender(self, marked_id: int) -> Sender:
        """Who has this id, with as much as is known."""
        if marked_id > 0:
            return self._people.get(marked_id) or Sender(id=marked_id)
        chat = self._chats.get(marked_id)
        return Sender(id=marked_id, name=chat.title, username=chat.username) if chat else Sender(id=marked_id)

    def _learn_user(self, user: Any) -> None:
        known = self._people.get(user.id)
        name = clean_text(" ".join(part for part in (user.first_name, user.last_name) if part)) or None
        if user.min and known is not None:
            # A `min` user may lack its names (https://core.telegram.org/api/min): keep the fuller record.
            return
        self._people[user.id] = Sender(id=user.id, name=name, username=_username(user))
        self._people.move_to_end(user.id)
        if len(self._people) > MAX_PEOPLE:
            self._people.popitem(last=False)


def _username(entity: Any) -> str | None:
    if entity.username:
        return clean_text(entity.username)
    for candidate in entity.usernames or ():
        if candidate.active:
            return clean_text(candidate.username)
    return None


class Switches:
    """The chats that people have switched off, for all accounts. `version` moves with each change."""

    def __init__(self) -> None:
        self.off: frozenset[ChatId] = frozenset()
        self.keys: frozenset[str] = frozenset()
        self.version = 0

    def set(self, off: Iterable[ChatId]) -> None:
        """From now on these are off, and no others."""
        self.off = frozenset(off)
        self.keys = frozenset(chat.key for chat in self.off)
        self.version += 1


class ChatFilter:
    """Whether an account's chat is captured: the operator's list names it (ids and @names; none means all),
    and nobody has switched it off.
    """

    def __init__(self, chats: Iterable[str], directory: Directory, switches: Switches | None = None) -> None:
        self.switches = switches or Switches()
        self.user_id = 0  # whose account it is, once that is known
        self._ids = {chat for chat in chats if not chat.startswith("@")}
        self._names = {chat[1:].lower() for chat in chats if chat.startswith("@")}
        self._directory = directory

    def __call__(self, event: Event) -> bool:
        return self.lists(event.channel_id) and event.chat_key not in self.switches.keys

    def wants(self, chat_id: str) -> bool:
        """Whether a chat (by its marked id) is captured now."""
        return self.lists(chat_id) and not self.is_off(int(chat_id))

    def is_off(self, chat_id: int) -> bool:
        """Whether people have switched a chat off."""
        return ChatId(0 if is_channel(chat_id) else self.user_id, chat_id) in self.switches.off

    def chats_off(self) -> list[int]:
        """Those of this account that are off."""
        return [chat for scope, chat in self.switches.off if scope in (0, self.user_id)]

    def of_captured(self, changes: LedgerChanges) -> LedgerChanges:
        """`changes` without what Telegram skipped in chats that are off."""
        missing = [missing for missing in changes.missing if not self.is_off(missing.chat)]
        return replace(
            changes, missing=missing, reread=[chat for chat in changes.reread if not self.is_off(chat)]
        )

    def lists(self, chat_id: str) -> bool:
        """Whether a chat is one that the operator wants, be it on or off."""
        if not self._ids and not self._names:
            return True
        if chat_id in self._ids:
            return True
        if not self._names:
            return False
        chat = self._directory.chat(int(chat_id))
        return chat is not None and chat.username is not None and chat.username.lower() in self._names

    def undecided(self, chat_id: int) -> bool:
        """Whether a chat may be one of the wanted names: it is not known yet what it is called."""
        return bool(self._names) and str(chat_id) not in self._ids and self._directory.chat(chat_id) is None

    @property
    def by_name(self) -> bool:
        """Whether what chats are called must be known to tell which are wanted."""
        return bool(self._names)
