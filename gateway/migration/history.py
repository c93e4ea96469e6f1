"""Where our history begins: the journal is told, before its first start, up to where the old stack had come.

So what was posted between the old stack's last message and our first connection is missing in the ledger, or
behind the update state, and is fetched by what fetches everything else: differences, reconciliation,
backfill.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from telethon.tl.types.updates import State as UpdateState

from gateway.event import utc_now
from gateway.journal import Batch, ChatPosition, Journal, LedgerChanges, Position
from gateway.journal.ledger import ACCOUNT_IDS
from gateway.journal.moments import microseconds
from gateway.migration.rows import CHANNELS_ABOVE
from gateway.settings import Settings


async def begin_history(
    settings: Settings, account: str, newest: Mapping[int, int], states: Mapping[int, UpdateState]
) -> bool:
    """Enters the old stack's newest message of each chat, and its update state, into the journal.

    Returns False when the account has a state of its own already, as after a way back: then only chats
    that are
    new to the journal are entered, and everything else goes on from there. The daemon must be stopped.
    """
    tops = {chat: top for chat, top in newest.items() if chat < -CHANNELS_ABOVE}
    numbered_by_account = [top for chat, top in newest.items() if chat > -CHANNELS_ABOVE]
    if numbered_by_account:
        tops[ACCOUNT_IDS] = max(numbered_by_account)
    path = settings.journal_path
    async with Journal(
        path, retention=settings.journal_retention, max_bytes=settings.journal_max_bytes
    ) as journal:
        adopted = False
        if 0 in states:
            adopted = await journal.adopt(account, _position(tops, states))
        if not adopted:
            await journal.append(Batch(account, ledger=LedgerChanges(tracked=tops)))
        fresh = adopted or (await journal.load_state(account))[0] is None
    _give_to_owner(path)
    return fresh


def _position(tops: Mapping[int, int], states: Mapping[int, UpdateState]) -> Position:
    now = microseconds(utc_now())
    pts = {-CHANNELS_ABOVE - channel: state.pts for channel, state in states.items() if channel}
    chats = {
        chat: ChatPosition(
            chat=chat,
            pts=pts.get(chat),
            base=tops.get(chat),
            top=tops.get(chat),
            since=now if chat in tops else None,
            compared=chat in tops,
            gaps=(),
        )
        for chat in tops.keys() | pts.keys()
    }
    return Position(states[0].pts, states[0].date, chats)


def _give_to_owner(journal: Path) -> None:
    """Run by root, the journal must still be the gateway's user's."""
    owner = journal.parent.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for file in journal.parent.glob(f"{journal.name}*"):
        os.chown(file, owner.st_uid, owner.st_gid)
