"""What the API needs and whether it is there: each server is asked every few seconds at most, and briefly.

An API without its database still answers what Redis holds, and the other way round; it is down without both.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import aio_pika
import aiormq.exceptions
import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.api import metrics
from gateway.api.connections import Database
from gateway.api.daemon import DaemonClient
from gateway.database.connection import CONNECTION_LOST
from gateway.errors import GatewayError
from gateway.settings import Settings
from gateway.urls import url_per_host

FRESH_SECONDS = 2.0
ANSWER_SECONDS = 2.0
_SCHEMA = "SELECT 1 FROM telegram_gateway.api_tokens LIMIT 1"

Start = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]


@dataclass(frozen=True)
class Verdict:
    """`problems` has one for each server that is not as it should be, by the server's name."""

    problems: dict[str, str]

    @property
    def status(self) -> Literal["healthy", "degraded", "down"]:
        """`down` without both stores, `degraded` with anything else missing."""
        if {"postgresql", "redis"} <= self.problems.keys():
            return "down"
        return "degraded" if self.problems else "healthy"


class HealthCheck:
    """At `resources.health`."""

    def __init__(
        self, settings: Settings, database: Database, redis: Redis, daemon: DaemonClient, start: Start
    ) -> None:
        self._settings = settings
        self._database = database
        self._redis = redis
        self._daemon = daemon
        self._probes = {
            "postgresql": _Probe("postgresql", self._ask_database, start, database.answered),
            "redis": _Probe("redis", self._ask_redis, start),
            "rabbitmq": _Probe("rabbitmq", self._ask_rabbitmq, start),
            "daemon": _Probe("daemon", self._ask_daemon, start),
        }

    async def verdict(self) -> Verdict:
        """The state of everything, not older than a few seconds."""
        answers = await asyncio.gather(*(probe.problem() for probe in self._probes.values()))
        return Verdict({name: text for name, text in zip(self._probes, answers, strict=True) if text})

    async def _ask_database(self) -> str | None:
        try:
            await self._database.fetchval(_SCHEMA)
        except asyncpg.UndefinedTableError:
            return "the schema is not this version's; run: telegram-gateway db migrate"
        return None

    async def _ask_redis(self) -> str | None:
        await self._redis.ping()
        return None

    async def _ask_rabbitmq(self) -> str | None:
        secret = self._settings.rabbitmq_password
        for parts in url_per_host(self._settings.rabbitmq_url.get_secret_value()):
            try:
                connection = await aio_pika.connect(
                    host=parts.hostname or "localhost",
                    port=parts.port or (5671 if parts.scheme == "amqps" else 5672),
                    login=parts.username or "guest",
                    password=secret.get_secret_value() if secret else parts.password or "guest",
                    virtualhost=parts.path.lstrip("/") or "/",
                    ssl=parts.scheme == "amqps",
                    timeout=ANSWER_SECONDS,
                )
            except (aiormq.exceptions.AMQPError, OSError, TimeoutError):
                continue
            await connection.close()
            return None
        return "not reachable"

    async def _ask_daemon(self) -> str | None:
        health = await self._daemon.health()
        if health.get("status") == "healthy":
            return None
        return f"{health.get('status')}: " + "; ".join(map(str, health.get("problems", ())))


async def _answered(question: "asyncio.Task[Any]", within: float) -> bool:
    await asyncio.wait((question,), timeout=within)
    return question.done()


class _Probe:
    """One question to one server, never asked twice at a time."""

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[str | None]],
        start: Start,
        answered: Callable[["asyncio.Task[Any]", float], Awaitable[bool]] = _answered,
    ) -> None:
        self._name = name
        self._ask = ask
        self._start = start
        self._answered = answered
        self._asking: asyncio.Task[Any] | None = None
        self._asked_at = -FRESH_SECONDS
        self._problem: str | None = None

    async def problem(self) -> str | None:
        """What is wrong with the server; None when it answers."""
        if self._asking is None:
            if time.monotonic() - self._asked_at < FRESH_SECONDS:
                return self._problem
            self._asking = self._start(self._find_out(), f"probe {self._name}")
        if await self._answered(self._asking, ANSWER_SECONDS):
            return self._problem
        metrics.DEPENDENCY_UP.labels(self._name).set(0)
        return "no answer"

    async def _find_out(self) -> None:
        try:
            self._problem = await self._ask()
        except (GatewayError, asyncpg.PostgresError, *CONNECTION_LOST, RedisError, TimeoutError):
            self._problem = "not reachable"
        finally:
            self._asking = None
            self._asked_at = time.monotonic()
            metrics.DEPENDENCY_UP.labels(self._name).set(0 if self._problem else 1)
