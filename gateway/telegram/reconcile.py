"""Compares every dialog with what the account has tracked and with the ledger, and has the rest fetched.

The stream alone is not enough: Telegram does not always push big channels to a passive session, a loss at the
tail shows only with the next push, a channel joined while the gateway was down is not in the stream at all,
and a channel's pts and access hash come with the dialogs.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from telethon import errors

from gateway.journal import Batch, ChatLedger, Journal, LedgerChanges, Missing
from gateway.journal.ledger import ACCOUNT_IDS
from gateway.telegram.chat_history import first_id_since
from gateway.telegram.chats import channel_of
from gateway.telegram.client import GatewayClient
from gateway.telegram.dialogs import ChatDialog, patiently, read_dialogs
from gateway.telegram.reasons import UndecodableAnswer

log = structlog.get_logger()

# For pushes and differences that were on their way while the dialogs were read.
SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How many channels were behind in their update state, and how many gaps the comparison opened."""

    behind: int
    missing: int


async def reconcile(client: GatewayClient, journal: Journal) -> Reconciled:
    """Goes through all dialogs once.

    Channels that are new are tracked from their present state on, and fetched from the moment of joining if
    that was after the gateway began with this account. The others' state is compared, and where it is the
    same, their newest message: what the ledger lacks of it is a gap.

    Raises RPCError when Telegram refuses the dialogs, JournalError when the journal fails.
    """
    dialogs: dict[int, ChatDialog] = {}
    asked_for = set(client.message_box.unreachable)
    newest_of_all = 0
    complete = True
    try:
        async for answer, page in read_dialogs(partial(patiently, client)):
            client.learn(answer.users, answer.chats)
            client.meet(answer.users)
            newest_of_all = max([newest_of_all, *(d.top_message for d in page if d.pts is None)])
            dialogs |= {dialog.chat: dialog for dialog in page if client.wanted.lists(str(dialog.chat))}
    except UndecodableAnswer:
        # The chats behind it have been used less lately than the one that cannot be told.
        complete = False
        log.warning("dialogs_incomplete", account=client.account, chats=len(dialogs))
    box = client.message_box
    channels = {chat: dialog for chat, dialog in dialogs.items() if dialog.pts}
    newest_account_id = max(
        (d.top_message for d in dialogs.values() if d.pts is None and not client.wanted.is_off(d.chat)),
        default=0,
    )
    behind = {
        channel_of(chat)
        for chat, dialog in channels.items()
        if (known := box.map.get(channel_of(chat))) is not None and known.pts < (dialog.pts or 0)
    }
    client.unreadable = asked_for - {channel_of(chat) for chat in channels} if complete else set()

    await client.intake.checkpoint()
    ledger = await journal.ledger(client.account)
    changes = await _what_is_new(client, ledger, dialogs, newest_of_all if complete else None)
    if changes:
        await journal.append(Batch(client.account, ledger=changes))
    for chat, dialog in channels.items():
        if channel_of(chat) not in box.map:
            box.try_set_channel_state(channel_of(chat), dialog.pts or 0)
    if client.unreadable:
        # Left, or never a member. Their pushes are captured without gap detection by pts.
        log.info("channels_not_in_dialogs", account=client.account, count=len(client.unreadable))
    box.unreachable -= asked_for

    tops = {
        chat: dialog.top_message
        for chat, dialog in channels.items()
        if channel_of(chat) not in behind and not client.wanted.is_off(chat)
    }
    tops[ACCOUNT_IDS] = newest_account_id
    suspects = _above(tops, ledger) - {missing.chat for missing in changes.missing}
    if behind or ACCOUNT_IDS in suspects:
        client.resync(*behind)
    opened = await _open_missing(client, journal, tops, suspects) if suspects else 0
    return Reconciled(len(behind), len(changes.missing) + opened)


async def _what_is_new(
    client: GatewayClient,
    ledger: dict[int, ChatLedger],
    dialogs: dict[int, ChatDialog],
    newest_account_id: int | None,
) -> LedgerChanges:
    account = ledger.get(ACCOUNT_IDS)
    tracked = {} if account is not None or newest_account_id is None else {ACCOUNT_IDS: newest_account_id}
    missing: list[Missing] = []
    reread: list[int] = []
    reopened: list[int] = []
    for chat, dialog in dialogs.items():
        known = ledger.get(chat)
        off = client.wanted.is_off(chat)
        if dialog.pts is None and off and known is None:
            mark = newest_account_id if account is None else account.mark
            if mark is not None:
                tracked[chat] = mark  # what comes behind it is missed once it is switched on
        if not dialog.pts:
            continue
        if known is not None and known.no_access and dialog.joined is not None:
            reopened.append(chat)
        if known is None or not known.compared:
            joined = dialog.joined
            # Telegram tells whole seconds: what happened in the same one may have been later.
            if account is not None and joined is not None and joined >= account.since.replace(microsecond=0):
                first = await _first_id_since(client, chat, joined)
                if first is None:
                    continue  # the next comparison tries again
                if off:
                    tracked[chat] = first - 1
                    continue
                missing.append(Missing(chat, dialog.top_message, "joined", first))
            tracked[chat] = dialog.top_message
        elif off:
            continue
        elif channel_of(chat) not in client.message_box.map:
            # Its state was lost, so whatever happened in it since is unknown.
            missing.append(Missing(chat, dialog.top_message, "reconciliation"))
            reread.append(chat)
    return LedgerChanges(tracked=tracked, missing=missing, reread=reread, reopened=reopened)


async def _first_id_since(client: GatewayClient, chat: int, moment: datetime) -> int | None:
    """The id from which on a chat's messages are not older than `moment`; None when it cannot be read."""
    try:
        return await first_id_since(client, client.input_peer(chat), moment)
    except (errors.BadRequestError, errors.ServerError):
        return None


async def _open_missing(
    client: GatewayClient, journal: Journal, tops: dict[int, int], suspects: set[int]
) -> int:
    """Opens gaps up to the newest message where, after a while, the ledger still does not reach it."""
    await asyncio.sleep(SETTLE_SECONDS)
    await client.intake.checkpoint()
    ledger = await journal.ledger(client.account)
    still = _above({chat: tops[chat] for chat in suspects}, ledger)
    if still:
        missing = [Missing(chat, tops[chat], "reconciliation") for chat in sorted(still)]
        await journal.append(Batch(client.account, ledger=LedgerChanges(missing=missing)))
    return len(still)


def _above(tops: dict[int, int], ledger: dict[int, ChatLedger]) -> set[int]:
    """The chats whose newest message is above what the ledger knows of them."""
    return {chat for chat, top in tops.items() if chat in ledger and top > ledger[chat].top}
