"""What the API's endpoints stand on, opened once by the application and given to each request."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Self

from redis.asyncio import Redis

from gateway.api.auth import Authenticator
from gateway.api.caching import ResponseCache
from gateway.api.connections import Database, open_redis
from gateway.api.daemon import DaemonClient
from gateway.api.health import HealthCheck
from gateway.api.rate_limit import AddressLimit, RateLimiter
from gateway.settings import Settings


class Resources:
    """Held at `app.state.resources` while the application lives.

    `database` is a pool that connects when it is used: it raises SinkUnavailable (a 503) when it cannot.
    `redis` may be down as well: readers catch RedisError and go on without. `stopping` is set when the server
    has been told to stop: whatever answers for long ends then.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.database = Database(settings)
        self.redis: Redis = open_redis(settings)
        self.daemon = DaemonClient(settings.metrics_addr)
        self.rate_limiter = RateLimiter(self.redis, settings.api_rate_limit)
        self.authenticator = Authenticator(self.database, AddressLimit(settings.api_failed_limit), self.start)
        self.cache = ResponseCache(self.redis)
        self.health = HealthCheck(settings, self.database, self.redis, self.daemon, self.start)
        self._stack = AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._parts: set[asyncio.Task[Any]] = set()

    @property
    def rabbitmq_url(self) -> str:
        """The broker's URL, which may name several hosts; the password is in `settings.rabbitmq_password`."""
        return self.settings.rabbitmq_url.get_secret_value()

    def start(self, part: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Runs `part` beside the requests until the application ends; an error in it ends the API."""
        task = self._group.create_task(part, name=name)
        self._parts.add(task)
        task.add_done_callback(self._parts.discard)
        return task

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self.daemon.close)
        self._stack.push_async_callback(self.redis.aclose)
        self._stack.callback(self.database.terminate)
        await self.database  # it makes no connection yet
        await self._stack.enter_async_context(self._group)
        self.start(self.authenticator.run(), "tokens used")
        self.start(self.cache.run(), "cache marks")
        return self

    async def __aexit__(self, *failure: Any) -> bool | None:
        self.stopping.set()
        for part in self._parts:
            part.cancel()
        return await self._stack.__aexit__(*failure)
