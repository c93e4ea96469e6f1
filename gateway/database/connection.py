"""Connections to PostgreSQL: pooled for the sink, direct for migrations; errors say what to do."""

import ipaddress
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from gateway.errors import ConfigurationError, SinkUnavailable

CONNECT_TIMEOUT = 10.0  # seconds
# What asyncpg raises, besides the server's own errors, when a connection is gone; the last to a query that
# comes between the server's farewell and the end of the connection.
CONNECTION_LOST = (asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)

_POOLER_REFUSALS = (
    "SASL authentication failed",
    "password authentication failed",
    "no such database",
    "no such user",
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def connect(dsn: str, password: str | None = None, *, setting: str = "TELEGRAM_DB_DSN") -> Connection:
    """A connection that works through PgBouncer's transaction pooling: nothing is prepared beyond one query.

    `setting` names, in errors, where the operator wrote `dsn`. Raises SinkUnavailable when the server cannot
    be reached now, ConfigurationError when it never will be with these settings.
    """
    try:
        parts = urlsplit(dsn)
        where = f"{parts.hostname}:{parts.port or 5432}"
    except ValueError as error:
        raise ConfigurationError(f"{setting} is not usable: {error}") from None
    try:
        return await asyncpg.connect(
            dsn,
            password=password,
            timeout=CONNECT_TIMEOUT,
            statement_cache_size=0,
            # On loopback, asking for TLS costs a round trip and gains nothing.
            ssl=False if _is_loopback(parts.hostname) and "sslmode" not in parse_qs(parts.query) else None,
            server_settings={"application_name": "telegram-gateway"},
        )
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise ConfigurationError(
            f"PostgreSQL at {where} refuses user {parts.username or 'of this process'}: {error}; "
            f"check TELEGRAM_DB_PASSWORD and the user in {setting}"
        ) from None
    except asyncpg.InvalidCatalogNameError:
        raise ConfigurationError(
            f"PostgreSQL at {where} has no database {unquote(parts.path.lstrip('/'))}; "
            f"create it, or correct {setting}"
        ) from None
    except asyncpg.ProtocolViolationError as error:
        # PgBouncer's one code for everything, from a wrong password to a server that is down.
        if str(error).startswith(_POOLER_REFUSALS):
            raise ConfigurationError(
                f"PgBouncer at {where} refuses: {error}; check TELEGRAM_DB_PASSWORD, user and database in "
                f"{setting}, and PgBouncer's own list of users"
            ) from None
        raise SinkUnavailable(f"PgBouncer at {where} cannot reach PostgreSQL: {error}") from error
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        reason = str(error) or f"no answer within {CONNECT_TIMEOUT:.0f} s"
        raise SinkUnavailable(f"cannot connect to PostgreSQL at {where} ({setting}): {reason}") from error
    except (asyncpg.InterfaceError, ValueError) as error:
        raise ConfigurationError(f"{setting} is not usable: {error}") from None


async def connect_direct(dsn: str, password: str | None = None) -> Connection:
    """A connection to the server itself, for what needs a session: migrations, locks that outlive a query.

    Raises ConfigurationError when a pooler answers, otherwise as `connect` does.
    """
    setting = "TELEGRAM_DB_DIRECT_DSN"
    connection = await connect(dsn, password, setting=setting)
    try:
        process = await connection.fetchval("SELECT pg_backend_pid()")
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        connection.terminate()
        raise SinkUnavailable(f"lost PostgreSQL while connecting ({setting}): {error}") from error
    # A pooler hands out a process id of its own making.
    if process != connection.get_server_pid():
        connection.terminate()
        raise ConfigurationError(
            f"{setting} leads to a connection pooler such as PgBouncer; "
            "set it to PostgreSQL's own address (port 5434 in the shipped configuration)"
        )
    return connection


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
