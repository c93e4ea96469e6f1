"""Everything that can go wrong on purpose: the wire's faults, and those that only the world can make."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from telethon.tl import types

from gateway.sandbox.accounts import Accounts
from gateway.sandbox.chats import Chat
from gateway.sandbox.delivery import Delivery
from gateway.sandbox.users import User
from gateway.sandbox.wire.faults import Faults

_ALWAYS = 1 << 62

_Key = TypeVar("_Key")


class SandboxFaults(Faults):
    """The wire's faults (by key), plus those of accounts and channels."""

    def __init__(self, delivery: Delivery, accounts: Accounts, seed: int = 0) -> None:
        super().__init__(seed)
        self._delivery = delivery
        self._accounts = accounts
        self._too_long: Counter[Chat | User] = Counter()
        self._private: Counter[tuple[User, Chat]] = Counter()

    def clear(self) -> None:
        """Ends every fault. Refused keys stay refused, as with Telegram."""
        super().clear()
        self._too_long.clear()
        self._private.clear()

    def too_long(self, target: Chat | User, *, times: int = 1, announce: bool = True) -> None:
        """Answers the next `times` differences of a channel or an account with TooLong.

        `announce` also pushes the hint that makes clients ask for the difference at once.
        """
        self._too_long[target] += times
        if not announce:
            return
        if isinstance(target, User):
            self._delivery.announce(target, types.UpdatesTooLong())
            return
        hint = types.UpdateChannelTooLong(target.id)
        for user in target.members.values():
            self._delivery.announce(user, hint)

    def channel_private(self, user: User, channel: Chat, *, times: int | None = 1) -> None:
        """Refuses the user's next `times` calls for the channel (None: all, until `clear`)."""
        self._private[user, channel] = _ALWAYS if times is None else times

    def auth_key_unregistered(self, user: User) -> int:
        """Ends the user's logins as if from another device; returns how many. Clients learn it by asking."""
        keys = self._accounts.keys_of(user)
        for key in keys:
            self._accounts.log_out(key)
        return len(keys)

    def auth_key_duplicated(self, user: User) -> int:
        """Refuses the user's keys for good, as after use from two places; returns how many."""
        keys = self._accounts.keys_of(user)
        for key in keys:
            self._accounts.mark_duplicated(key)
        return len(keys)

    def takes_too_long(self, target: Chat | User) -> bool:
        """Whether this difference is to be TooLong."""
        return self._take(self._too_long, target, "too_long")

    def refuses_channel(self, user: User, channel: Chat) -> bool:
        """Whether this call for the channel is to be refused."""
        return self._take(self._private, (user, channel), "channel_private")

    def _take(self, counter: Counter[_Key], key: _Key, kind: str) -> bool:
        if counter[key] <= 0:
            return False
        counter[key] -= 1
        return self._struck(kind)
