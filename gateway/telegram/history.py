"""What an operator may ask of the ledger: a chat's history, and ids to be fetched again.

Reached over the control socket. Both only open gaps, which `gateway.telegram.backfill` fetches, so they
outlive the request, the connection and the process.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from telethon import errors

from gateway.control import answer, body_of, json_lines
from gateway.errors import ConfigurationError, GatewayError
from gateway.event import utc_now
from gateway.journal import Batch, Journal, LedgerChanges, Missing
from gateway.journal.ledger import ACCOUNT_IDS
from gateway.telegram.account import Account
from gateway.telegram.chat_history import first_id_since, id_before, newest_id
from gateway.telegram.chats import is_channel
from gateway.telegram.client import GatewayClient
from gateway.telegram.dialogs import newest_account_id
from gateway.telegram.reasons import reason

BACKFILL_PATH = "/backfill"
OPEN_PATH = "/gaps/open"
PROGRESS_SECONDS = 0.25  # between two lines of progress


class HistoryOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A chat (marked id or @name), from a moment on or its newest `limit` messages, before what is known.

    With `to_present` also what is newer than anything known; and, without a moment, only that.
    """

    chat: str
    since: datetime | None = None
    limit: int | None = None
    account: str | None = None
    to_present: bool = False


class OpenOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Ids of a chat to be fetched again, whatever the ledger says of them."""

    chat: str
    first: int
    last: int
    account: str | None = None


@dataclass(frozen=True, slots=True)
class OpenHistory:
    """What an order came to: ids of a chat in an account's ledger; none when `first` is above `last`."""

    account: Account
    chat: int
    first: int
    last: int
    started: datetime


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a backfill is: message ids in all, still to fetch, and (at its end) absent at Telegram."""

    chat: str
    account: str
    connected: bool
    total: int
    left: int
    absent: int | None = None


class HistoryDesk:
    """Takes the orders for one daemon's accounts; `delivered` returns once the sinks that are up have all."""

    def __init__(
        self, journal: Journal, accounts: Sequence[Account], delivered: Callable[[], Awaitable[None]]
    ) -> None:
        self._journal = journal
        self._accounts = accounts
        self._delivered = delivered

    def routes(self) -> list[web.RouteDef]:
        return [web.post(BACKFILL_PATH, self._backfill), web.post(OPEN_PATH, self._open)]

    async def _backfill(self, request: web.Request) -> web.StreamResponse:
        order = await body_of(request, HistoryOrder)
        async with json_lines(request) as (response, send):
            history = await self.open_history(order)
            async for progress in self.progress(history):
                await send(progress)
            await self._delivered()
            absent = await self.absent(history)
            await send(msgspec.structs.replace(progress, absent=absent))
        return response

    async def open_history(self, order: HistoryOrder) -> OpenHistory:
        """Opens what was asked for as a gap. Raises GatewayError when it cannot be."""
        account, client, chat, peer = await self._find(order.chat, order.account)
        if client.wanted.is_off(chat):
            raise ConfigurationError(f"the chat {order.chat} is switched off; switch it on first")
        first, last = await self._range(client, chat, peer, order)
        started = utc_now()
        if first <= last:
            missing = Missing(chat, last, "history", first)
            await self._journal.append(Batch(account.name, ledger=LedgerChanges(missing=[missing])))
        return OpenHistory(account, chat, first, last, started)

    async def progress(self, history: OpenHistory) -> AsyncIterator[Progress]:
        """How far it is fetched, a few times a second, until all of it is."""
        total = left = await self._left(history)
        while True:
            yield Progress(
                chat=str(history.chat),
                account=history.account.name,
                connected=history.account.client is not None,
                total=total,
                left=left,
            )
            if not left:
                return
            await asyncio.sleep(PROGRESS_SECONDS)
            left = await self._left(history)

    async def _open(self, request: web.Request) -> web.Response:
        order = await body_of(request, OpenOrder)
        if not 0 < order.first <= order.last:
            raise ConfigurationError("ids start at 1, and the first must not be above the last")
        account, client, chat, peer = await self._find(order.chat, order.account)
        try:
            newest = await (newest_id(client, peer) if is_channel(chat) else newest_account_id(client))
        except errors.RPCError as error:
            raise GatewayError(f"Telegram does not open the chat {order.chat}: {reason(error)}") from None
        if order.first > newest:
            # The ledger would take them for gone, and not miss them once there are messages with these ids.
            raise ConfigurationError(f"the newest message of {order.chat} has id {newest}")
        chat = chat if is_channel(chat) else ACCOUNT_IDS
        missing = Missing(chat, min(order.last, newest), "hand", order.first, known_too=True)
        await self._journal.append(Batch(account.name, ledger=LedgerChanges(missing=[missing])))
        return answer({"account": account.name, "chat": str(chat)})

    async def _find(self, chat: str, name: str | None) -> tuple[Account, GatewayClient, int, Any]:
        """A connected account that can read the chat, and the chat as it knows it."""
        candidates = [account for account in self._accounts if name in (None, account.name)]
        if not candidates:
            raise ConfigurationError(f"this gateway has no account {name!r}; it is not in TELEGRAM_ACCOUNTS")
        connected = [(account, account.client) for account in candidates if account.client is not None]
        if not connected:
            raise GatewayError("the account is not connected to Telegram now; see: telegram-gateway status")
        for account, client in connected:
            try:
                marked_id = await client.resolve(chat)
            except errors.RPCError as error:
                raise GatewayError(f"Telegram does not name the chat {chat}: {reason(error)}") from None
            peer = None if marked_id is None else client.input_peer(marked_id)
            if marked_id is not None and peer is not None:
                return account, client, marked_id, peer
        raise ConfigurationError(
            f"no connected account has chat {chat} among its dialogs; check the id "
            "(telegram-gateway tail shows them), or join the chat first"
        )

    async def _range(
        self, client: GatewayClient, chat: int, peer: Any, order: HistoryOrder
    ) -> tuple[int, int]:
        """The ids to fetch: from what was asked for, up to where the ledger begins."""
        ledger = await self._journal.ledger(client.account)
        known = ledger.get(chat if is_channel(chat) else ACCOUNT_IDS)
        # Where ids count per account, what is newer than what is known has no beginning in this chat.
        to_present = order.to_present and is_channel(chat)
        try:
            last = await newest_id(client, peer) if known is None or to_present else known.base
            if order.since is not None:
                first = await first_id_since(client, peer, order.since)
            else:
                first = 1 if known is None or not to_present else known.top + 1
            if order.limit is not None:
                first = max(first, await id_before(client, peer, last, order.limit))
        except errors.RPCError as error:
            raise GatewayError(
                f"Telegram does not open the history of {order.chat}: {reason(error)}"
            ) from None
        return first, last

    async def absent(self, history: OpenHistory) -> int:
        """How many ids Telegram turned out not to have."""
        gaps = await self._journal.gaps(history.account.name, history.chat, "absent")
        return sum(
            gap.last - gap.first + 1 for gap in gaps if gap.closed_at and gap.closed_at >= history.started
        )

    async def _left(self, history: OpenHistory) -> int:
        gaps = await self._journal.gaps(history.account.name, history.chat, "open")
        return sum(
            max(0, min(gap.last, history.last) - max(gap.first, history.first) + 1)
            for gap in gaps
            if not gap.reread
        )
