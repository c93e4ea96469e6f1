"""Obeys people who switch chats off and on: off means not captured by any account, on means caught up again.

The journal remembers what is off. A chat that comes back stays there until the journal holds the gap from its
last captured message to its newest one, in one transaction: a crash before that repeats the switch.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import structlog
from telethon import errors

from gateway import metrics
from gateway.journal import ChatId, Journal, LedgerChanges, Missing
from gateway.telegram.account import Account
from gateway.telegram.chat_history import newest_id
from gateway.telegram.chats import Switches, is_channel
from gateway.telegram.client import GatewayClient
from gateway.telegram.reasons import reason

log = structlog.get_logger()

ANSWER_SECONDS = 10.0
# Chats that Telegram is asked about one by one when many come back at once. For channels beyond that the
# comparison with the dialogs finds the same, and the others have their turn next time.
ASKED_AT_ONCE = 20
# How often a private chat is tried whose person is not known yet: the dialogs are read meanwhile.
INTRODUCTIONS = 15


class ChannelSwitches:
    """Applies to one daemon's accounts which chats are off."""

    def __init__(self, journal: Journal, accounts: Sequence[Account], switches: Switches) -> None:
        self._journal = journal
        self._accounts = accounts
        self._switches = switches
        self._remembered: set[ChatId] = set()  # what the journal has as off
        self._unintroduced: Counter[ChatId] = Counter()

    async def load(self) -> None:
        """Obeys what was known last."""
        self._remembered = await self._journal.switched_off()
        self._set(self._remembered)

    async def apply(self, off: Collection[ChatId]) -> None:
        """From now on `off` are off and no others; what cannot be caught up yet is tried with the next call.

        Raises JournalError.
        """
        newly_off = [chat for chat in off if chat not in self._remembered]
        if newly_off:
            # The journal first notes up to where they are captured.
            await self._journal.switch(newly_off, [], {})
            self._remembered.update(newly_off)
            log.info("chats_switched_off", chats=len(newly_off))
        coming = [chat for chat in self._remembered if chat not in off]
        # Private chats and basic groups have no ids of their own in which a hole would show. So they are
        # captured before it is asked how far they must be caught up, and what came twice is dropped.
        self._set([*off, *(chat for chat in coming if not chat.scope)])
        if coming:
            await self._switch_on(coming)

    async def _switch_on(self, coming: Sequence[ChatId]) -> None:
        on, changes = await self._what_is_missing(coming)
        if not on:
            return
        await self._journal.switch([], on, changes)
        self._remembered.difference_update(on)
        self._set(self._switches.off.difference(on))
        self._journal.recheck_gaps()
        for account in self._accounts:
            if account.client is not None:
                # Finds what came to a channel between the question for its newest message and now.
                account.client.message_box.ask_comparison()
        log.info("chats_switched_on", chats=len(on), waiting=len(coming) - len(on))

    def _set(self, off: Iterable[ChatId]) -> None:
        off = frozenset(off)
        if off != self._switches.off:
            self._switches.set(off)
        metrics.CHATS_SWITCHED_OFF.set(len(self._remembered))

    async def _what_is_missing(
        self, chats: Iterable[ChatId]
    ) -> tuple[list[ChatId], dict[str, LedgerChanges]]:
        """The chats that may count as on, and what each account has to have fetched of them."""
        on: list[ChatId] = []
        missing: dict[str, list[Missing]] = {}
        asked = 0
        for chat in chats:
            concerned = [account for account in self._accounts if self._may_be_of(account, chat)]
            if chat.scope and any(account.client is None for account in concerned):
                continue  # only its own history can tell, so it waits for the account's connection
            for account in concerned:
                client = account.client
                if client is None or not client.wanted.lists(str(chat.chat)):
                    continue
                if asked >= ASKED_AT_ONCE:
                    newest = None
                else:
                    asked += 1
                    newest = await self._newest(client, chat)
                if newest:
                    missing.setdefault(account.name, []).append(Missing(chat.chat, newest, "switched_on"))
                elif newest is None and chat.scope:
                    break
            else:
                on.append(chat)
        return on, {account: _changes(found) for account, found in missing.items()}

    def _may_be_of(self, account: Account, chat: ChatId) -> bool:
        return account.health.state != "dead" and (
            not chat.scope or account.health.user_id in (None, chat.scope)
        )

    async def _newest(self, client: GatewayClient, chat: ChatId) -> int | None:
        """The id of the newest message; 0 when the account cannot read the chat, None when asking failed."""
        peer = client.input_peer(chat.chat)
        if client.is_bot:
            return 0
        if peer is None:
            return self._introduce(client, chat)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await newest_id(client, peer)
        except (errors.BadRequestError, errors.ForbiddenError) as error:
            log.info("switched_on_unreadable", account=client.account, reason=reason(error))
            return 0
        except (errors.RPCError, OSError, TimeoutError) as error:
            log.info("switched_on_unanswered", account=client.account, reason=reason(error))
            return None

    def _introduce(self, client: GatewayClient, chat: ChatId) -> int | None:
        self._unintroduced[chat] += 1
        if not chat.scope or self._unintroduced[chat] > INTRODUCTIONS:
            del self._unintroduced[chat]
            return 0
        if self._unintroduced[chat] == 1:
            client.message_box.ask_comparison()
        return None


def _changes(missing: Sequence[Missing]) -> LedgerChanges:
    # What is known of a channel may have been edited or deleted meanwhile.
    return LedgerChanges(missing=missing, reread=[one.chat for one in missing if is_channel(one.chat)])
