"""The API's connections to PostgreSQL and Redis, either of which may be down at any time.

Nothing is connected before it is used, so the API starts whatever is down. A server that just refused is left
alone for a moment: requests meanwhile fail at once and do not queue up behind its timeouts.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

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

DATABASE_CONNECTIONS = 10  # of the 100 that PgBouncer takes, and the 20 that it has itself
IDLE_SECONDS = 300.0
WAIT_SECONDS = 5.0  # for one of them to be free
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


class Database(asyncpg.Pool):
    """A bounded pool through PgBouncer; to be awaited once, which connects nothing yet.

    A pooler makes its clients wait while the server behind it is down. `answered` finds that out, and until
    its question is settled nobody else has to: they are refused at once, with SinkUnavailable.
    """

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.db_dsn.get_secret_value()
        self._password = settings.db_password.get_secret_value() if settings.db_password else None
        self._pause = Pause()
        self._overdue: set[asyncio.Task[Any]] = set()
        super().__init__(
            min_size=0,
            max_size=DATABASE_CONNECTIONS,
            max_queries=0xFFFFFFFF,
            max_inactive_connection_lifetime=IDLE_SECONDS,
            connect=self._connect,
            reset=_nothing,
            loop=None,
            connection_class=asyncpg.Connection,
            record_class=asyncpg.Record,
        )

    def acquire(self, *, timeout: float | None = None) -> Any:
        """A connection within `timeout`, by default some seconds; TimeoutError when all stay busy."""
        if self._overdue:
            raise SinkUnavailable("PostgreSQL does not answer")
        return super().acquire(timeout=WAIT_SECONDS if timeout is None else timeout)

    async def answered(self, question: asyncio.Task[Any], within: float) -> bool:
        """Whether `question`, a short query of somebody's, is done by then; it goes on if not.

        Not cancelled: asyncpg would send a cancel request, on which poolers have crashed.
        """
        await asyncio.wait((question,), timeout=within)
        if not question.done():
            self._overdue.add(question)
            question.add_done_callback(self._overdue.discard)
        return question.done()

    async def _connect(self, *_: Any, **__: Any) -> Any:
        if self._pause.open:
            raise SinkUnavailable("PostgreSQL refused a connection a moment ago")
        try:
            return await connect(self._dsn, self._password)
        except (SinkUnavailable, ConfigurationError):
            self._pause.begin()
            raise


async def _nothing(_: Any) -> None:
    """A pooler's connection has no state to reset; the query would be a second round trip."""


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
