"""The table of leases: which gateway may run which account. Each change is one statement, atomic by itself.

A lease is free, held, or taken over by hand: then its new holder waits until the previous one has said that
it stopped, or has been silent for `GRACE`. Nothing else expires.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg

from gateway.database.connection import CONNECTION_LOST, Connection, connect_direct
from gateway.errors import GatewayError, SchemaError, SinkUnavailable
from gateway.settings import Settings

# A holder that can reach the database learns of a take-over with its next renewal, well within this.
GRACE = timedelta(seconds=30)
ANSWER_SECONDS = 5.0
_LOST = (asyncpg.PostgresError, *CONNECTION_LOST)
NO_TABLE = "the database lacks the tables of leases; run: telegram-gateway db migrate"

_ACQUIRE = """
INSERT INTO telegram_gateway.account_leases AS lease (name, account, holder, epoch, acquired_at)
VALUES ($1, $2, $3, $4::bigint + 1, now())
ON CONFLICT (name) DO UPDATE SET
    account = excluded.account, holder = excluded.holder, epoch = greatest(lease.epoch + 1, excluded.epoch),
    acquired_at = now(), renewed_at = now(), released_at = NULL, previous = NULL
WHERE lease.released_at IS NOT NULL
    OR lease.holder = excluded.holder
    AND (lease.previous IS NULL OR lease.renewed_at < now() - $5::interval)
    AND (lease.acquired_at IS NULL OR $6)
RETURNING epoch
"""
_RENEW = """
UPDATE telegram_gateway.account_leases AS lease SET renewed_at = now()
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS mine (name, holder, epoch)
WHERE (lease.name, lease.holder, lease.epoch) = (mine.name, mine.holder, mine.epoch)
    AND lease.released_at IS NULL
RETURNING lease.name
"""
_RELEASE = """
UPDATE telegram_gateway.account_leases AS lease SET released_at = now()
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS mine (name, holder, epoch)
WHERE (lease.name, lease.holder, lease.epoch) = (mine.name, mine.holder, mine.epoch)
"""
_STOPPED = "UPDATE telegram_gateway.account_leases SET previous = NULL WHERE name = $1 AND previous = $2"
_TAKE = """
INSERT INTO telegram_gateway.account_leases AS lease (name, account, holder, epoch)
VALUES ($1, $2, $3, 1)
ON CONFLICT (name) DO UPDATE SET
    account = excluded.account, holder = excluded.holder, epoch = lease.epoch + 1, acquired_at = NULL,
    released_at = NULL,
    previous = CASE WHEN lease.released_at IS NULL THEN
        coalesce(lease.previous, CASE WHEN lease.acquired_at IS NOT NULL THEN lease.holder END) END
WHERE lease.holder <> excluded.holder OR lease.released_at IS NOT NULL
"""
_FREE = """
UPDATE telegram_gateway.account_leases SET released_at = now(), epoch = epoch + 1, previous = NULL
WHERE name = ANY ($1::text[]) AND released_at IS NULL AND renewed_at < now() - $2::interval
RETURNING name
"""
_ROWS = """
SELECT name, account, holder, epoch, acquired_at, renewed_at, released_at, previous,
    greatest(now() - renewed_at, interval '0') AS silence
FROM telegram_gateway.account_leases
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A row of the table; `silence` is how long ago it was renewed, by the server's clock."""

    name: str
    account: str
    holder: str
    epoch: int
    acquired_at: datetime | None
    renewed_at: datetime
    released_at: datetime | None
    previous: str | None
    silence: timedelta

    @property
    def free(self) -> bool:
        return self.released_at is not None

    @property
    def state(self) -> str:
        """In words, for people."""
        if self.released_at is not None:
            return f"free since {self.released_at:%F %T %Z}"
        if self.previous is not None:
            return f"taken over, waits for {self.previous} to stop"
        if self.acquired_at is None:
            return "taken over, not yet begun"
        seconds = self.silence.total_seconds()
        if self.silence > GRACE:
            return f"silent since {self.renewed_at:%F %T %Z}"
        return f"alive, renewed {seconds:.0f} s ago"


class Claim(NamedTuple):
    """What a gateway believes to hold."""

    name: str
    holder: str
    epoch: int


class LeaseTable:
    """The statements on one direct connection. Raises what asyncpg raises."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def acquire(
        self, name: str, account: str, holder: str, *, known_epoch: int = 0, again: bool = True
    ) -> int | None:
        """The new epoch, above `known_epoch`, when the lease was free or this holder's; None when it is not.

        Without `again` a lease that someone already runs as this holder counts as another's.
        """
        epoch: int | None = await self.connection.fetchval(
            _ACQUIRE, name, account, holder, known_epoch, GRACE, again
        )
        return epoch

    async def renew(self, claims: Sequence[Claim]) -> set[str]:
        """Says that the accounts run under these leases; returns the names of those that still hold."""
        rows = await self.connection.fetch(_RENEW, *_columns(claims))
        return {row[0] for row in rows}

    async def release(self, claims: Sequence[Claim]) -> None:
        """Frees those that still hold, for whoever asks next."""
        await self.connection.execute(_RELEASE, *_columns(claims))

    async def stopped(self, name: str, holder: str) -> None:
        """Says that `holder`, from whom the lease was taken, has stopped: the new one may begin."""
        await self.connection.execute(_STOPPED, name, holder)

    async def take(self, name: str, account: str, holder: str) -> bool:
        """Gives the lease to `holder`, whoever has it; False when it has it already."""
        return await self.connection.execute(_TAKE, name, account, holder) != "INSERT 0 0"

    async def free(self, names: Sequence[str]) -> set[str]:
        """Frees those of `names` whose holder has been silent for `GRACE`; returns them."""
        rows = await self.connection.fetch(_FREE, names, GRACE)
        return {row[0] for row in rows}

    async def get(self, name: str) -> Lease | None:
        row = await self.connection.fetchrow(f"{_ROWS} WHERE name = $1", name)
        return Lease(**row) if row is not None else None

    async def all(self) -> list[Lease]:
        """Every lease, in order of account and name."""
        return [Lease(**row) for row in await self.connection.fetch(f"{_ROWS} ORDER BY account, name")]


class LeaseConnection:
    """A gateway's one connection to the table, opened when it is needed and again when it was lost."""

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.db_direct_dsn.get_secret_value()
        self._password = settings.db_password.get_secret_value() if settings.db_password else None
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def table(self) -> AsyncIterator[LeaseTable]:
        """The table, for one caller at a time. Raises SinkUnavailable, ConfigurationError or SchemaError."""
        async with self._lock:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect_direct(self._dsn, self._password)
            connection = self._connection
            silence = asyncio.get_running_loop().call_later(ANSWER_SECONDS, connection.terminate)
            try:
                yield LeaseTable(connection)
            except asyncpg.UndefinedTableError:
                raise SchemaError(NO_TABLE) from None
            except _LOST as error:
                self.close()
                raise SinkUnavailable(f"PostgreSQL did not answer about the lease: {error}") from error
            except asyncio.CancelledError:
                self.close()
                raise
            finally:
                silence.cancel()

    def close(self) -> None:
        """Drops the connection; leases stay as they are."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


@asynccontextmanager
async def lease_table(settings: Settings) -> AsyncIterator[LeaseTable]:
    """The table on a connection of its own. Raises GatewayError, or one of its kinds."""
    password = settings.db_password.get_secret_value() if settings.db_password else None
    connection = await connect_direct(settings.db_direct_dsn.get_secret_value(), password)
    try:
        yield LeaseTable(connection)
    except asyncpg.UndefinedTableError:
        raise SchemaError(NO_TABLE) from None
    except _LOST as error:
        raise GatewayError(f"the database did not carry it out: {error}") from error
    finally:
        connection.terminate()


def _columns(claims: Sequence[Claim]) -> tuple[list[str], list[str], list[int]]:
    return (
        [claim.name for claim in claims],
        [claim.holder for claim in claims],
        [claim.epoch for claim in claims],
    )
