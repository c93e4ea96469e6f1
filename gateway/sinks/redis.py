"""The Redis sink: the last hour of messages, and which revision of each was delivered last.

It stands behind the runner and in front of consumers that poll. Redis is a cache here: it decides nothing,
and may be emptied, evicted or failed over at any time; the sink simply goes on writing.

What is written for an event (`{chat}` is the channel id, behind `{scope}/` where ids count per account):

- `telegram:msg:{chat}:{message_id}`: the newest revision's JSON, for an hour from its writing;
- `telegram:channel:{chat}:recent`: message ids by date in ms; only dates of the last hour are ever in it;
- `telegram:channel:{chat}:recent:mark`: a new value with each change to these, so that readers can keep them;
- `telegram:dedup:{chat}:{message_id}`: the newest revision's id, for two hours.

A deletion removes the first two and leaves its id in the last. History that was fetched or imported and is
older than the hour changes what is already there, but is not made hot again: a long backfill must not push
the live hour out of memory.

How, and in which order of revisions, is in `gateway.sinks.redis_script`.
"""

import time
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError

from gateway.errors import ConfigurationError, SinkUnavailable
from gateway.journal import Record
from gateway.sinks.redis_script import SCRIPT, script_input

log = structlog.get_logger()

CHUNK_RECORDS = 250  # one script call; the server serves nobody else for some 2 ms meanwhile
CONNECT_TIMEOUT = 2.0  # seconds
ANSWER_TIMEOUT = 3.0  # seconds
SENTINEL_TIMEOUT = 1.0  # seconds
MASTER_CHECK_INTERVAL = 2.0  # seconds


class RedisSink:
    """Writes to the server of `url`, or to the master that `sentinels` (host:port) name.

    With Sentinels, `url` gives what is not an address: user, database, TLS. `password` wins over the URL's.
    """

    name = "redis"

    def __init__(
        self,
        url: str | None,
        *,
        password: str | None = None,
        sentinels: Sequence[str] = (),
        sentinel_password: str | None = None,
        master: str = "telegram",
    ) -> None:
        self._url = url
        self._password = password
        self._sentinel_addresses = tuple(sentinels)
        self._sentinel_password = sentinel_password
        self._master_name = master
        self._sentinel: Any = None  # redis-py's Sentinel carries no types
        self._client: Redis | None = None
        self._address: tuple[str, int] = ("", 0)
        self._script = ""
        self._master_checked_at = 0.0

    async def open(self) -> None:
        """Finds the master, connects and loads the script."""
        await self._disconnect()
        options: dict[str, Any] = dict(parse_url(self._url)) if self._url else {}
        if self._sentinel_addresses:
            self._address = await self._find_master()
            options |= {"host": self._address[0], "port": self._address[1]}
            self._master_checked_at = time.monotonic()
        else:
            self._address = (options.get("host", "localhost"), options.get("port", 6379))
        if self._password is not None:
            options["password"] = self._password
        options = {
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": ANSWER_TIMEOUT,
            "max_connections": 1,
            **options,
            # The runner retries; a retry in here would hide the outage and delay the search for a new master.
            "retry": Retry(NoBackoff(), 0),
        }
        self._client = Redis.from_pool(ConnectionPool(**options))
        try:
            self._script = await self._client.script_load(SCRIPT)
        except (AuthenticationError, NoPermissionError) as error:
            raise ConfigurationError(
                f"Redis at {self._place} refuses the login or a command ({error}); "
                "set TELEGRAM_REDIS_PASSWORD and the user's rights (deploy/redis)"
            ) from None
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error

    async def deliver(self, records: Sequence[Record]) -> None:
        """Writes the records in chunks, each in one atomic step on the server."""
        client = self._client
        if client is None:
            raise SinkUnavailable("not connected to Redis")
        await self._check_master()
        try:
            if not records:
                await client.ping()
            for start in range(0, len(records), CHUNK_RECORDS):
                chunk = records[start : start + CHUNK_RECORDS]
                keys, arguments = script_input([(record.event, record.body) for record in chunk])
                try:
                    await client.evalsha(self._script, len(keys), *keys, *arguments)
                except NoScriptError:
                    # The server was restarted or its scripts flushed while the connection lived on.
                    self._script = await client.script_load(SCRIPT)
                    await client.evalsha(self._script, len(keys), *keys, *arguments)
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error

    async def close(self) -> None:
        """Disconnects from the server and the Sentinels."""
        await self._disconnect()
        if self._sentinel is not None:
            sentinel, self._sentinel = self._sentinel, None
            for client in sentinel.sentinels:
                await _close_quietly(client)

    async def _disconnect(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await _close_quietly(client)

    @property
    def _place(self) -> str:
        return f"{self._address[0]}:{self._address[1]}"

    def _unavailable(self, error: Exception) -> SinkUnavailable:
        return SinkUnavailable(f"Redis at {self._place}: {str(error) or type(error).__name__}")

    async def _find_master(self) -> tuple[str, int]:
        if self._sentinel is None:
            addresses = [address.rpartition(":") for address in self._sentinel_addresses]
            sentinel: Any = Sentinel
            self._sentinel = sentinel(
                [(host.strip("[]"), int(port)) for host, _, port in addresses],
                sentinel_kwargs={
                    "password": self._sentinel_password,
                    "socket_connect_timeout": SENTINEL_TIMEOUT,
                    "socket_timeout": SENTINEL_TIMEOUT,
                    "retry": Retry(NoBackoff(), 0),
                },
            )
        try:
            host, port = await self._sentinel.discover_master(self._master_name)
        except (RedisError, OSError):
            raise SinkUnavailable(
                f"no Sentinel of {', '.join(self._sentinel_addresses)} names a live master "
                f"{self._master_name!r}; check TELEGRAM_REDIS_MASTER and "
                "TELEGRAM_REDIS_SENTINEL_PASSWORD if they should"
            ) from None
        return str(host), int(port)

    async def _check_master(self) -> None:
        """Leaves a master that was voted out: it goes on accepting writes until a Sentinel demotes it."""
        if not self._sentinel_addresses:
            return
        now = time.monotonic()
        if now - self._master_checked_at < MASTER_CHECK_INTERVAL:
            return
        self._master_checked_at = now
        try:
            address = await self._find_master()
        except SinkUnavailable as error:
            log.warning("redis_master_unknown", writing_to=self._place, reason=str(error))
            return
        if address != self._address:
            raise SinkUnavailable(
                f"the Sentinels moved the master from {self._place} to {address[0]}:{address[1]}"
            )


async def _close_quietly(client: Redis) -> None:
    try:
        await client.aclose()
        await client.connection_pool.disconnect()
    except (RedisError, OSError) as error:
        log.debug("redis_close_failed", reason=str(error))
