"""The API's connections to PostgreSQL and Redis, either of which may be down at any time.

Nothing is connected before it is used, so the API starts whatever is down. A server that just refused is left
alone for a moment: requests meanwhile fail at once and do not queue up behind its timeouts.
"""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import asyncpg
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.database import connect
from gateway.errors import ConfigurationError, SinkUnavailable
from gateway.settings import Settings

Database: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

DATABASE_CONNECTIONS = 10  # of the 100 that PgBouncer takes, and the 20 that it has itself
IDLE_SECONDS = 300.0
REDIS_CONNECT_SECONDS = 1.0
REDIS_ANSWER_SECONDS = 2.0
PAUSE_SECONDS = 1.0  # how long a server that refused is not asked again


class Pause:
    """Remembers for `PAUSE_SECONDS` that a server did not accept a connection."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether it is too early to ask again."""
        return self._clock() < self._until

    def begin(self) -> None:
        """The server refused just now."""
        self._until = self._clock() + PAUSE_SECONDS


def open_database(settings: Settings) -> Database:
    """A bounded pool through PgBouncer; to be awaited once, which connects nothing yet."""
    pause = Pause()
    password = settings.db_password.get_secret_value() if settings.db_password else None

    async def connection(*_: Any, **__: Any) -> "asyncpg.Connection[asyncpg.Record]":
        if pause.open:
            raise SinkUnavailable("PostgreSQL refused a connection a moment ago")
        try:
            return await connect(settings.db_dsn.get_secret_value(), password)
        except (SinkUnavailable, ConfigurationError):
            pause.begin()
            raise

    async def nothing(_: Any) -> None:
        """A pooler's connection has no state to reset; the query would be a second round trip."""

    return asyncpg.create_pool(
        min_size=0,
        max_size=DATABASE_CONNECTIONS,
        max_inactive_connection_lifetime=IDLE_SECONDS,
        connect=connection,
        reset=nothing,
    )


class _Pausing:
    """A pool's connections, not asked for again while the server has just refused one."""

    _pause: Pause

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        if not connection.is_connected and self._pause.open:
            raise RedisConnectionError("Redis refused a connection a moment ago")
        try:
            await super().ensure_connection(connection)  # type: ignore[misc]  # the pool's
        except (RedisConnectionError, RedisTimeoutError, OSError):
            self._pause.begin()
            raise


class _Pool(_Pausing, ConnectionPool):
    def __init__(self, **options: Any) -> None:
        self._pause = Pause()
        super().__init__(**options)


class _SentinelPool(_Pausing, SentinelConnectionPool):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._pause = Pause()
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]  # redis-py's has no types


def open_redis(settings: Settings) -> Redis:
    """A client of the server or of the Sentinels' master; it neither retries nor waits for long."""
    options: dict[str, Any] = dict(parse_url(settings.redis_url.get_secret_value()))
    if settings.redis_password is not None:
        options["password"] = settings.redis_password.get_secret_value()
    once: dict[str, Any] = {
        "socket_connect_timeout": REDIS_CONNECT_SECONDS,
        "socket_timeout": REDIS_ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if not settings.redis_sentinels:
        return Redis.from_pool(_Pool(**options, **once))
    secret = settings.redis_sentinel_password
    addresses = [address.rpartition(":") for address in settings.redis_sentinels]
    make_sentinel: Any = Sentinel  # redis-py's carries no types
    sentinel = make_sentinel(
        [(host.strip("[]"), int(port)) for host, _, port in addresses],
        sentinel_kwargs={**once, "password": secret.get_secret_value() if secret else None},
    )
    for address in ("host", "port"):
        options.pop(address, None)
    return Redis.from_pool(_SentinelPool(settings.redis_master, sentinel, **options, **once))
