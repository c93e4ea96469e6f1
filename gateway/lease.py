"""The lease that keeps an account on one host: asked for before a connection is made, renewed while it lasts.

Two leases protect an account: one of its authorisation key, which Telegram kills when two hosts use it, and
one of its user, whom two logins on two hosts would otherwise capture twice. They live in PostgreSQL
(`gateway/database/leases.py`). A database that is down stops nobody who held them last: a file in the state
directory remembers that.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

import structlog

from gateway import metrics
from gateway.database.leases import GRACE, Claim, Lease, LeaseConnection, LeaseTable
from gateway.errors import ConfigurationError, LeaseLost, SchemaError, SinkUnavailable
from gateway.lease_record import LeaseRecordFile, holder_of, key_lease, user_lease
from gateway.settings import Settings

log = structlog.get_logger()

RENEW_SECONDS = 5.0
POLL_SECONDS = 2.0  # between two looks at a lease that another holds
PATIENCE_SECONDS = 2.0  # for the database, at the start of an account that this host held last
RELEASE_SECONDS = 2.0

UNAVAILABLE = (SinkUnavailable, ConfigurationError, SchemaError)


class Leases:
    """All leases of this process, on one connection. `run` renews them; `release` is for a clean stop."""

    def __init__(
        self, settings: Settings, *, renew_seconds: float = RENEW_SECONDS, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self.database = LeaseConnection(settings)
        self.record = LeaseRecordFile(settings.state_dir)
        self._state_dir = settings.state_dir
        self.server = settings.server
        self.poll_seconds = poll_seconds
        # An instance of telegram-gateway@.service has its state directory from no file that a shell reads.
        usual = settings.state_dir == Settings.model_fields["state_dir"].default
        self.command = f"{'' if usual else f'TELEGRAM_STATE_DIR={settings.state_dir} '}telegram-gateway"
        self._renew_seconds = renew_seconds
        self._accounts: list[AccountLease] = []
        self._reachable = True

    def account(self, name: str) -> "AccountLease":
        """The leases of one account."""
        lease = AccountLease(name, holder_of(name, self._state_dir), self)
        self._accounts.append(lease)
        return lease

    async def run(self) -> None:
        """Renews what is held, until cancelled. What another has taken is lost at once."""
        while True:
            await asyncio.sleep(self._renew_seconds)
            if any(account.held for account in self._accounts):
                try:
                    await self._renew()
                except UNAVAILABLE as error:
                    if self._reachable:
                        log.warning("leases_not_renewed", reason=str(error))
                    self._reachable = False
                else:
                    if not self._reachable:
                        log.info("leases_renewed_again")
                    self._reachable = True

    async def release(self, *accounts: "AccountLease") -> None:
        """Gives up the leases of `accounts` (default: all) so that another host may go on at once."""
        claims = [claim for account in accounts or self._accounts for claim in account.drop()]
        if not claims:
            return
        try:
            async with asyncio.timeout(RELEASE_SECONDS), self.database.table() as table:
                # Before it is given away: what became of a lost answer is not known.
                await self.record.forget(*(claim.name for claim in claims))
                await table.release(claims)
        except (*UNAVAILABLE, TimeoutError) as error:
            log.warning("leases_not_released", reason=str(error) or "no answer in time")

    async def _renew(self) -> None:
        async with self.database.table() as table:
            claims = [claim for account in self._accounts for claim in account.claims()]
            renewed = await table.renew(claims)
            for account in self._accounts:
                for claim in account.claims():
                    if claim in claims:
                        await account.judge(table, claim, still_ours=claim.name in renewed)


class AccountLease:
    """One account's leases, for its `Account`: acquired before it connects, watched while it is connected."""

    def __init__(self, account: str, holder: str, shared: Leases) -> None:
        self.held: dict[str, int] = {}
        self._account = account
        self.holder = holder
        self._shared = shared
        self._key = ""
        self._unconfirmed: set[str] = set()  # gone on with while the database was away
        self._usurped: set[str] = set()  # run by somebody else in this host's own name
        self._lost: set[str] = set()
        self._loss = asyncio.Event()
        self._reason = ""
        self._measure()

    @property
    def epoch(self) -> int | None:
        """The fencing epoch under which the account runs; None while it may not."""
        return self.held.get(self._key)

    @property
    def user_claim(self) -> Claim | None:
        """The lease of the Telegram user, once it is known who that is and while it is held."""
        user_id = self._shared.record.user(self._key)
        name = "" if user_id is None else user_lease(user_id, self._shared.server)
        return Claim(name, self.holder, self.held[name]) if name in self.held else None

    def table(self) -> AbstractAsyncContextManager[LeaseTable]:
        """As `LeaseConnection.table`."""
        return self._shared.database.table()

    async def acquire(self, auth_key: bytes, waiting: Callable[[str], None]) -> None:
        """Returns once the account may connect; `waiting` is told why not yet.

        The account must be disconnected: a former holder thereby says that it has stopped.
        """
        self._key = key_lease(auth_key)
        await self._acknowledge_loss()
        said = None
        while (reason := await self._obstacle()) is not None:
            if reason != said:
                log.warning("lease_waiting", account=self._account, reason=reason)
            said = reason
            waiting(reason)
            await asyncio.sleep(self._shared.poll_seconds)

    async def acquire_user(self, user_id: int) -> None:
        """Once it is known whose key this is: raises LeaseLost when another host runs that user."""
        await self._shared.record.learn_user(self._key, user_id)
        reason = await self._obstacle()
        if reason is not None:
            raise LeaseLost(reason)

    async def until_lost(self) -> NoReturn:
        """Raises LeaseLost when another host has taken the account."""
        await self._loss.wait()
        raise LeaseLost(self._reason)

    async def release(self) -> None:
        """Gives the account up, for good or for another host."""
        await self._shared.release(self)

    def claims(self) -> list[Claim]:
        """What this account believes to hold."""
        return [Claim(name, self.holder, epoch) for name, epoch in self.held.items()]

    def drop(self) -> list[Claim]:
        """Holds nothing any more; returns what there was."""
        claims = self.claims()
        self.held.clear()
        self._measure()
        return claims

    async def judge(self, table: LeaseTable, claim: Claim, *, still_ours: bool) -> None:
        """Looks into a lease that was (or was not) renewed."""
        name = claim.name
        if still_ours:
            self._unconfirmed.discard(name)
            return
        lease = await table.get(name)
        if lease is None or (lease.holder == self.holder and lease.epoch < claim.epoch):
            # The database is older than the lease: a restored backup, or a replica that was promoted.
            epoch = await table.acquire(name, self._account, self.holder, known_epoch=claim.epoch)
        elif lease.holder == self.holder and lease.acquired_at and name in self._unconfirmed:
            epoch = lease.epoch  # this host's own: the answer to its question had been lost
        else:
            epoch = None
        if epoch is not None and name in self.held:
            await self._hold(name, epoch)
        elif name in self.held:
            self._lose(name, lease)

    async def _acknowledge_loss(self) -> None:
        if not self._lost:
            return
        await self._shared.record.forget(*self._lost)
        try:
            async with self._shared.database.table() as table:
                for name in self._lost:
                    await table.stopped(name, self.holder)
        except UNAVAILABLE as error:
            # The new holder then waits out the grace period instead.
            log.warning("lease_loss_not_acknowledged", account=self._account, reason=str(error))
        self._lost.clear()
        self._loss.clear()

    async def _obstacle(self) -> str | None:
        """Acquires what is not held yet; why not, if not."""
        names = [self._key]
        if (user_id := self._shared.record.user(self._key)) is not None:
            names.append(user_lease(user_id, self._shared.server))
        for name in names:
            if name not in self.held and (reason := await self._acquire(name)) is not None:
                return reason
        return None

    async def _acquire(self, name: str) -> str | None:
        remembered = self._shared.record.epoch(name)
        try:
            async with (
                asyncio.timeout(None if remembered is None else PATIENCE_SECONDS),
                self._shared.database.table() as table,
            ):
                epoch = await table.acquire(
                    name,
                    self._account,
                    self.holder,
                    known_epoch=remembered or 0,
                    again=name not in self._usurped,
                )
                if epoch is not None:
                    await self._hold(name, epoch)
                    return None
                lease = await table.get(name)
        except (*UNAVAILABLE, TimeoutError) as error:
            reason = str(error) or "PostgreSQL does not answer"
            if remembered is None:
                return f"no lease, and this host did not hold it last: {reason}"
            log.warning("lease_unconfirmed", account=self._account, lease=name, reason=reason)
            self.held[name] = remembered
            self._unconfirmed.add(name)
            self._measure()
            return None
        await self._shared.record.forget(name)
        return self._why_not(lease)

    async def _hold(self, name: str, epoch: int) -> None:
        self.held[name] = epoch
        self._unconfirmed.discard(name)
        self._usurped.discard(name)
        self._measure()
        await self._shared.record.remember(name, epoch)
        log.info("lease_held", account=self._account, lease=name, epoch=epoch)

    def _lose(self, name: str, lease: Lease | None) -> None:
        epoch = self.held.pop(name)
        if lease is not None and lease.holder == self.holder and lease.acquired_at and not lease.free:
            self._usurped.add(name)
        self._lost.add(name)
        self._reason = self._why_not(lease)
        self._measure()
        self._loss.set()
        log.error("lease_lost", account=self._account, lease=name, epoch=epoch, reason=self._reason)

    def _why_not(self, lease: Lease | None) -> str:
        take = f"to move the account here: {self._shared.command} lease take --account {self._account}"
        if lease is None or lease.free:
            return "the lease is changing hands"
        if lease.holder != self.holder:
            return f"the lease {lease.name} is held by {lease.holder}, {_pulse(lease)}; {take}"
        if lease.previous is not None:
            return f"the lease {lease.name} was taken over and {lease.previous} has not yet stopped"
        return (
            f"the lease {lease.name} is in use by another gateway in this host's own name: a copied machine? "
            "Stop one, give it another hostname and machine-id, and restart the other"
        )

    def _measure(self) -> None:
        metrics.LEASE_HELD.labels(self._account).set(self.epoch is not None)
        metrics.LEASE_EPOCH.labels(self._account).set(self.epoch or 0)


class NoLease:
    """Where leases are off: every account may run at any time."""

    epoch = None

    async def acquire(self, auth_key: bytes, waiting: Callable[[str], None]) -> None:
        """Returns at once."""

    async def acquire_user(self, user_id: int) -> None:
        """Returns at once."""

    async def until_lost(self) -> NoReturn:
        """Never returns."""
        await asyncio.Event().wait()
        raise AssertionError

    async def release(self) -> None:
        """Returns at once."""


def _pulse(lease: Lease) -> str:
    if lease.silence < GRACE:
        return "which is alive"
    return f"silent since {lease.renewed_at:%F %T %Z}"
