"""Which chats people have switched off, kept in the journal's file: a start without the database obeys too.

What a switch means for the ledger is in the same transaction: where an account stands in a chat that goes
off, and the gap that a chat which comes back has to have fetched.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import apsw
import msgspec

from gateway.journal.records import LedgerChanges
from gateway.journal.store import Store

_LOAD = "SELECT json_group_array(json_array(scope, chat)) FROM switched_off"
_ADD = "INSERT OR IGNORE INTO switched_off (scope, chat) VALUES (?, ?)"
_REMOVE = "DELETE FROM switched_off WHERE scope = ? AND chat = ?"


class ChatId(NamedTuple):
    """A chat for all accounts: its marked id, and the account's user where ids count per account."""

    scope: int
    chat: int

    @property
    def key(self) -> str:
        """As in `Event.chat_key`."""
        return f"{self.scope}/{self.chat}" if self.scope else str(self.chat)


def load_switched_off(connection: apsw.Connection) -> set[ChatId]:
    """The chats that were off when this was last written."""
    return {ChatId(*row) for row in msgspec.json.decode(connection.execute(_LOAD).get)}


def switch(
    store: Store, off: Iterable[ChatId], on: Sequence[ChatId], changes: Mapping[str, LedgerChanges]
) -> None:
    """Switches chats, and enters for each account what has to be fetched of those that come back."""
    for chat in off:
        store.connection.execute(_ADD, chat)
        if chat.scope:
            store.ledger.hold(chat.chat)
    for account, change in changes.items():
        store.ledger.apply(account, (), change)
    for chat in on:
        store.connection.execute(_REMOVE, chat)
        store.ledger.release(chat.chat)
