"""Where an account stands, as one journal tells another: read from the one, adopted by the other.

That is its update state and its ledger with the open gaps, without what only holds for one login: access
hashes, and the `seq` and `qts` counters (https://core.telegram.org/api/updates).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import apsw
import msgspec

from gateway.journal.moments import moment
from gateway.journal.records import AccountState
from gateway.journal.schema import read_bounds
from gateway.journal.store import Store

_ACCOUNT = "SELECT pts, date FROM account_state WHERE account = ?"
# Gathered and grouped: joined, SQLite would compare every channel with every chat of the ledger.
_CHATS = """
WITH known (chat, pts, base, top, since, compared, gap) AS (
    SELECT -1000000000000 - channel_id, pts, NULL, NULL, NULL, NULL, NULL
    FROM channel_state WHERE account = ?1 AND pts > 0
    UNION ALL
    SELECT chat, NULL, base, top, since, compared, NULL FROM ledger WHERE account = ?1
    UNION ALL
    SELECT chat, NULL, NULL, NULL, NULL, NULL, json_object(
        'first', first_id, 'last', last_id, 'source', source, 'opened_at', opened_at,
        'reread', json(iif(reread, 'true', 'false'))
    )
    FROM gaps WHERE account = ?1 AND (state = 'open' OR why = 'no_access')
)
SELECT json_group_array(json(chat_position)) FROM (
    SELECT json_object(
        'chat', chat, 'pts', max(pts), 'base', max(base), 'top', max(top), 'since', max(since),
        'compared', json(iif(max(compared), 'true', 'false')),
        'gaps', json_group_array(json(gap)) FILTER (WHERE gap IS NOT NULL)
    ) AS chat_position
    FROM known GROUP BY chat
)
"""
_ADOPT_LEDGER = """
INSERT OR REPLACE INTO ledger (account, chat, base, top, compared, since)
SELECT ?1, value ->> 'chat', value ->> 'base', value ->> 'top', value ->> 'compared', value ->> 'since'
FROM json_each(?2) WHERE value ->> 'top' IS NOT NULL
"""
_ADOPT_GAPS = """
INSERT INTO gaps (account, chat, first_id, last_id, source, reread, state, opened_at)
SELECT ?1, chat.value ->> 'chat', gap.value ->> 'first', gap.value ->> 'last', gap.value ->> 'source',
    gap.value ->> 'reread', 'open', gap.value ->> 'opened_at'
FROM json_each(?2) chat, json_each(chat.value, '$.gaps') gap
"""


class OpenGap(msgspec.Struct, frozen=True):
    """Ids `first` to `last`, yet to be fetched, or with `reread` to be looked at for changes."""

    first: int
    last: int
    source: str
    reread: bool
    opened_at: int  # microseconds


class ChatPosition(msgspec.Struct, frozen=True):
    """A chat by its marked id (0 for ids that count per account): a channel's pts, and what the ledger knows.

    What could not be read for want of access counts as an open gap: the next host asks once more.
    """

    chat: int
    pts: int | None
    base: int | None
    top: int | None
    since: int | None  # microseconds
    compared: bool
    gaps: tuple[OpenGap, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """The account's pts and date, and every chat's position by marked id."""

    pts: int
    date: datetime
    chats: Mapping[int, ChatPosition]


def read_position(connection: apsw.Connection, account: str) -> tuple[Position, int] | None:
    """The position and the number of the last record it covers; None before the account's first state.

    To be called within one read transaction.
    """
    found = connection.execute(_ACCOUNT, (account,)).get
    if found is None:
        return None
    chats = msgspec.json.decode(connection.execute(_CHATS, (account,)).get, type=list[ChatPosition])
    pts, date = found
    return Position(pts, moment(date), {chat.chat: chat for chat in chats}), read_bounds(connection)[1]


def adopt_position(store: Store, account: str, position: Position) -> bool:
    """Starts the account from `position`; returns False, and changes nothing, when it has started already."""
    execute = store.connection.execute
    if execute(_ACCOUNT, (account,)).get is not None:
        return False
    chats = position.chats.values()
    channels = {-chat.chat - 1_000_000_000_000: chat.pts for chat in chats if chat.pts}
    store.set_state(account, AccountState(position.pts, 0, position.date, 0), channels, {})
    rows = msgspec.json.encode(list(chats)).decode()
    execute(_ADOPT_LEDGER, (account, rows))
    execute(_ADOPT_GAPS, (account, rows))
    store.ledger.load()
    store.ledger.changed = True
    return True
