"""The consumer's connections to PostgreSQL through PgBouncer, bounded, and its failures sorted.

A failure is either the server's, which passes (SinkUnavailable), or one that only a person can mend
(ConfigurationError, SchemaError); errors of a handler's own statements stay what they are.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import asyncpg
import structlog

from gateway.database.connection import CONNECTION_LOST, connect
from gateway.errors import ConfigurationError, SchemaError, SinkUnavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

log = structlog.get_logger()

Transaction: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

ANSWER_LIMIT = 30.0  # seconds; only for a server that went silent
_IDLE_SECONDS = 60.0

# Connection, resources, intervention, system; rollbacks by conflict; a lock that took too long; and a
# server that was a primary until a moment ago.
_PASSING_CLASSES = frozenset({"08", "53", "57", "58", "40", "55"})
_PASSING = frozenset({"25006"})
_STATEMENT_TOOK_TOO_LONG = "57014"  # in a handler's statement, more likely the statement's fault
_SCHEMA_LACKS = frozenset({"42P01", "42883", "3F000", "42703"})


class Database:
    """A pool that connects when it is needed, and survives the server's being away."""

    def __init__(self, dsn: str, password: str | None, *, connections: int) -> None:
        async def connection(*_: Any, **__: Any) -> "asyncpg.Connection[asyncpg.Record]":
            return await connect(dsn, password)

        async def nothing(_: Any) -> None:
            """A pooled connection has no state to reset, and resetting would be one more round trip."""

        self._pool = asyncpg.create_pool(
            min_size=0,
            max_size=connections,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            connect=connection,
            reset=nothing,
        )
        self._away = False

    async def __aenter__(self) -> Self:
        await self._pool  # makes no connection yet
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Transaction]:
        """A connection for statements of our own. Raises SinkUnavailable, SchemaError, ConfigurationError."""
        try:
            with sorted_failures():
                async with self._pool.acquire() as connection:
                    with answer_limit(connection):
                        yield connection
        except SinkUnavailable as error:
            self._was_away(str(error))
            raise
        self._is_there()

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """As asyncpg's, with sorted failures."""
        async with self.connection() as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """As asyncpg's, with sorted failures."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """As asyncpg's, with sorted failures."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that a handler writes in.

        Raises SinkUnavailable when the server failed; what is wrong with the handler's statements, and
        whatever else it raises, stays what it is.
        """
        lost = True  # until there is a connection
        try:
            async with self._pool.acquire() as connection:
                try:
                    async with connection.transaction():
                        yield connection
                finally:
                    lost = connection.is_closed()  # asked before the pool has it back
        except SinkUnavailable as error:
            self._was_away(str(error))
            raise
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            lost = lost or isinstance(error, asyncpg.InternalClientError)
            # A handler's own network may fail, or it misuses the connection: neither is the server's fault.
            if not lost and not (isinstance(error, asyncpg.PostgresError) and _passes(error)):
                raise
            self._was_away(reason := _reason(error))
            raise SinkUnavailable(f"PostgreSQL: {reason}") from error
        self._is_there()

    def _was_away(self, reason: str) -> None:
        if not self._away:
            log.warning("consumer_database_unavailable", reason=reason)
        self._away = True

    def _is_there(self) -> None:
        if self._away:
            log.info("consumer_database_back")
        self._away = False


@contextmanager
def answer_limit(connection: Transaction) -> Iterator[None]:
    """Drops a connection whose server does not answer.

    Rather than asyncpg's own timeout, which sends a cancel request: PgBouncer 1.18 can crash on those.
    """
    timer = asyncio.get_running_loop().call_later(ANSWER_LIMIT, connection.terminate)
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def sorted_failures() -> Iterator[None]:
    """For statements of our own: what passes by itself, and what only a person can mend."""
    try:
        yield
    except asyncpg.PostgresError as error:
        reason = _reason(error)
        if _passes(error) or error.sqlstate == _STATEMENT_TOOK_TOO_LONG:
            raise SinkUnavailable(f"PostgreSQL: {reason}") from error
        if error.sqlstate in _SCHEMA_LACKS:
            raise SchemaError(
                f"the database lacks what a consumer needs: {reason}; run telegram-gateway db migrate"
            ) from None
        if (error.sqlstate or "")[:2] == "42":
            raise ConfigurationError(
                f"PostgreSQL refuses the consumer: {reason}; grant its user what it needs in telegram_gateway"
            ) from None
        raise
    except CONNECTION_LOST as error:
        raise SinkUnavailable(f"lost PostgreSQL: {_reason(error)}") from error


def _passes(error: asyncpg.PostgresError) -> bool:
    code = error.sqlstate or ""
    return code != _STATEMENT_TOOK_TOO_LONG and (code[:2] in _PASSING_CLASSES or code in _PASSING)


def _reason(error: Exception) -> str:
    # Not a server's detail, which may quote a row.
    return str(error.args[0]) if error.args else type(error).__name__
