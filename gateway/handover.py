"""Hands an account from host to host: keeps in PostgreSQL where it stands, and starts from what another left.

What is left covers only what every sink but the cache has taken. So the next host, whose journal knows
nothing of the account, misses nothing even if the last one never comes back; it fetches again what was newer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import NoReturn

import structlog

from gateway import metrics
from gateway.database.leases import Claim
from gateway.database.positions import leave_position, left_position
from gateway.journal import ChatPosition, Journal
from gateway.lease import RELEASE_SECONDS, UNAVAILABLE, AccountLease

log = structlog.get_logger()

LEAVE_SECONDS = 5.0
FIRST_SECONDS = 0.5  # as long as the database has nothing of this holder
CHAT_SECONDS = 0.003  # the database is given this time for each changed chat: 10 000 of them every 30 s
RETRY_SECONDS = 2.0


class Handover:
    """One account's. `delivered` returns once the sinks have the journal's records up to a number."""

    def __init__(
        self,
        account: str,
        journal: Journal,
        lease: AccountLease,
        delivered: Callable[[int], Awaitable[None]],
    ) -> None:
        self._account = account
        self._journal = journal
        self._lease = lease
        self._delivered = delivered
        # What the database has, and under which claim; None while that is not known.
        self._left: tuple[Claim, Mapping[int, ChatPosition]] | None = None
        self._leaving = asyncio.Lock()
        self._possible = True

    async def adopt(self, waiting: Callable[[str], None]) -> bool:
        """Starts an account that the journal knows nothing of from where its last host left it, if one did.

        Returns whether it did; `waiting` is told why that is not known yet. The user's lease must be held.
        """
        while (await self._journal.load_state(self._account))[0] is None:
            claim = self._lease.user_claim
            if claim is None:
                return False
            try:
                async with self._lease.table() as table:
                    position = await left_position(table.connection, claim.name)
            except UNAVAILABLE as error:
                # To start from the present would lose what the last host did not get.
                reason = f"where the account's last host stopped is not known: {error}"
                log.warning("position_unknown", account=self._account, reason=reason)
                waiting(reason)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if position is None:
                return False
            log.info("position_adopted", account=self._account, chats=len(position.chats), date=position.date)
            return await self._journal.adopt(self._account, position)
        return False

    async def run(self) -> NoReturn:
        """Leaves the account's position again and again, until cancelled."""
        while True:
            changed = 0
            try:
                changed = await self.leave()
            except UNAVAILABLE as error:
                if self._possible:
                    log.warning("position_not_left", account=self._account, reason=str(error))
                self._possible = False
            else:
                self._possible = True
            pause = LEAVE_SECONDS if self._left or not self._possible else FIRST_SECONDS
            await asyncio.sleep(max(pause, changed * CHAT_SECONDS))

    async def finish(self) -> None:
        """Leaves the position once more, for a clean stop, when the sinks have everything."""
        with suppress(TimeoutError, *UNAVAILABLE):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self.leave()
                return
        log.warning("position_not_left", account=self._account, reason="a sink or the database is behind")

    async def leave(self) -> int:
        """Leaves the position as soon as it is delivered; returns how many chats changed.

        Raises SinkUnavailable, ConfigurationError or SchemaError.
        """
        async with self._leaving:
            claim = self._lease.user_claim
            found = await self._journal.position(self._account) if claim else None
            if claim is None or found is None:
                return 0
            position, last_seq = found
            await self._delivered(last_seq)
            before = self._left[1] if self._left is not None and self._left[0] == claim else None
            anew = before is None or not before.keys() <= position.chats.keys()
            changed = [
                chat
                for number, chat in position.chats.items()
                if anew or before is None or before.get(number) != chat
            ]
            self._left = None
            async with self._lease.table() as table:
                if not await leave_position(table.connection, claim, position, changed, anew=anew):
                    return 0
            self._left = (claim, position.chats)
            metrics.LEASE_POSITION.labels(self._account).set(time.time())
            return len(changed)
