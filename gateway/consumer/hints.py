"""The consumer's marks in Redis: which event of a message it was done with last.

Redis decides nothing: a mark that is missing is no proof that an event is new, nor is one that is there a
proof that it is done. It postpones a look into the database, or stands in where a consumer has none.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from gateway.consumer.settings import ConsumerSettings
from gateway.errors import ConfigurationError, SinkUnavailable
from gateway.event import Event

log = structlog.get_logger()

CONNECT_TIMEOUT = 1.0  # seconds
ANSWER_TIMEOUT = 2.0  # seconds
PAUSE_SECONDS = 1.0  # how long a server that failed is left alone: its timeouts would slow every event down


class Cache:
    """A client of Redis, or of the master that Sentinels name. After a failure it is left alone a moment."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self.client = _client(settings)
        self._away_until = 0.0
        self._away = False

    async def close(self) -> None:
        """Disconnects."""
        await self.client.aclose()

    async def pipeline(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The answers to `commands`, in one round trip. Raises SinkUnavailable; never asks twice."""
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            with self.watched():
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
        except (AuthenticationError, NoPermissionError) as error:
            raise ConfigurationError(f"Redis refuses the consumer's login: {error}") from None
        return answers

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notes whether Redis answers inside. Raises SinkUnavailable, at once just after it did not."""
        if time.monotonic() < self._away_until:
            raise SinkUnavailable("Redis failed a moment ago")
        try:
            yield
        except (AuthenticationError, NoPermissionError):
            raise
        except (RedisError, OSError, SinkUnavailable) as error:
            self._away_until = time.monotonic() + PAUSE_SECONDS
            if not self._away:
                log.warning("consumer_cache_unavailable", reason=str(error) or type(error).__name__)
            self._away = True
            raise SinkUnavailable(f"Redis: {error}") from error
        self._away = False


class Hints:
    """One consumer's marks."""

    def __init__(self, cache: Cache, settings: ConsumerSettings) -> None:
        self._cache = cache
        self._consumer = settings.name
        self._ttl = int(settings.dedup_ttl.total_seconds())

    async def seen(self, events: Sequence[Event]) -> list[bool]:
        """Which of `events` carry a mark. Raises SinkUnavailable."""
        (marks,) = await self._cache.pipeline(("MGET", *map(self.key, events)))
        if isinstance(marks, RedisError):
            raise SinkUnavailable(f"Redis: {marks}")
        return [mark == event.id.encode() for mark, event in zip(marks, events, strict=True)]

    async def remember(self, event: Event) -> None:
        """Marks `event`, if Redis is there: it is a hint, and nothing waits for it."""
        try:
            await self._cache.pipeline(("SET", self.key(event), event.id, "EX", self._ttl))
        except SinkUnavailable as error:
            log.debug("consumer_mark_skipped", reason=str(error))

    def key(self, event: Event) -> str:
        """Where the mark of the event's message is; it holds the id of one event."""
        return f"telegram:dedup:{self._consumer}:{event.chat_key}:{event.message_id}"


def _client(settings: ConsumerSettings) -> Redis:
    once: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": ANSWER_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    options: dict[str, Any] = dict(parse_url(settings.redis_url)) if settings.redis_url else {}
    if settings.redis_password is not None:
        options["password"] = settings.redis_password
    if not settings.redis_sentinels:
        return Redis(**options, **once)
    for address in ("host", "port"):
        options.pop(address, None)
    make_sentinel: Any = Sentinel  # redis-py's carries no types
    sentinel = make_sentinel(
        [
            (host.strip("[]"), int(port))
            for host, _, port in (address.rpartition(":") for address in settings.redis_sentinels)
        ],
        sentinel_kwargs={**once, "password": settings.redis_sentinel_password},
    )
    client: Redis = sentinel.master_for(settings.redis_master, **options, **once)
    return client
