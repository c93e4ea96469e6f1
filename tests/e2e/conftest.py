"""From the sandbox to every sink: a fresh world, a fresh gateway process and empty stores for each test."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aio_pika
import asyncpg
import pytest_asyncio
import redis.asyncio as aioredis

from gateway.demo.comparison import compare_cache, compare_database, compare_queue, expectations
from gateway.demo.consumer import SampleConsumer
from gateway.demo.expected import history_of
from gateway.demo.process import POLL_SECONDS, GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import Scene, phone, populate

SINKS = 3
QUEUE = "telegram.consumer.e2e"
PATIENCE_SECONDS = 120.0
STILL_SECONDS = 3.0


@dataclass
class Rig:
    """One running arrangement, and the question that every end-to-end test ends with."""

    sandbox: Sandbox
    scene: Scene
    gateway: GatewayProcess
    consumer: SampleConsumer
    stack: LocalStack
    since: int  # the world's position when the gateway was ready: what came before is not its business
    chance: Random = field(default_factory=lambda: Random(11))

    async def traffic(self, rate: float, count: int) -> None:
        """`count` mixed changes all over the world, at `rate` a second."""
        await self.sandbox.traffic.run(rate, count=count)

    async def assert_everything_arrived(self, *, exact: bool = False, backfilled: bool = False) -> None:
        """Waits until all is still; fails with every difference between the ground truth and a sink.

        `backfilled` allows what the account could not see at the time, but finds in its chats' history now.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        await self._settle(deadline)
        # Everything also stands still while a busy machine has no time for it: then it is looked at again.
        while (problems := await self._problems(exact, backfilled)) and time.monotonic() < deadline:
            await self._settle(deadline)
        assert not problems, f"{len(problems)} problems, the first: " + "; ".join(problems[:10])

    async def _settle(self, deadline: float) -> None:
        """Returns once journal, sinks and consumer have stood still for a while, or patience has run out."""
        seen: object = None
        still_since = time.monotonic()
        while time.monotonic() < min(deadline, still_since + STILL_SECONDS):
            status = await self.gateway.status()
            now = (
                status and status["journal"]["last_seq"],
                status and [sink["cursor"] for sink in status["sinks"]],
                self.consumer.times.total(),
            )
            if now != seen or status is None:
                seen, still_since = now, time.monotonic()
            await asyncio.sleep(POLL_SECONDS)

    async def _problems(self, exact: bool, backfilled: bool) -> list[str]:
        truth = self.sandbox.truth(self.scene.accounts[0], self.since)
        assert expectations(truth), "the world was silent: nothing would be compared"
        history = history_of(self.scene.accounts) if backfilled else None
        environment = self.stack.environment
        results = [
            compare_queue(self.consumer, truth, exact=exact, history=history),
            await compare_cache(environment["TELEGRAM_REDIS_URL"], truth, history=history),
            await compare_database(
                environment["TELEGRAM_DB_DIRECT_DSN"], truth, exact=exact, history=history
            ),
        ]
        return [f"{result.sink}: {problem}" for result in results for problem in result.problems]


@pytest_asyncio.fixture(scope="session")
async def stack() -> AsyncIterator[LocalStack]:
    """The servers of these tests, without Sentinels: they would take a Redis that is down for good."""
    async with LocalStack(servers=("postgres", "pgbouncer", "redis", "rabbitmq")) as running:
        yield running


@pytest_asyncio.fixture
async def rig(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Rig]:
    """A logged-in, running gateway with all three sinks, and a consumer bound to every chat."""
    async with running_rig(stack, tmp_path) as running:
        yield running


@asynccontextmanager
async def running_rig(stack: LocalStack, directory: Path, **settings: str) -> AsyncIterator[Rig]:
    """A rig below `directory` whose gateway has `settings` beside the usual ones."""
    async with Sandbox(state_dir=directory / "sandbox") as sandbox:
        # As Telegram does: a difference has messages in their present form, and none that are gone.
        sandbox.world.replays_revisions = False
        scene = populate(sandbox.world)
        gateway = GatewayProcess(
            directory,
            {
                **stack.environment,
                "TELEGRAM_API_ID": "1",
                "TELEGRAM_API_HASH": "sandbox",
                "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
                "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
                **settings,
            },
        )
        await gateway.command("db", "migrate")
        await _empty(stack)
        consumer = SampleConsumer(stack.environment["TELEGRAM_RABBITMQ_URL"], name=QUEUE.rpartition(".")[2])
        async with consumer.running():
            try:
                await gateway.login(phone(0))
                await gateway.start()
                yield Rig(sandbox, scene, gateway, consumer, stack, sandbox.world.position)
            finally:
                await gateway.close()


async def _empty(stack: LocalStack) -> None:
    connection = await asyncpg.connect(stack.postgres.dsn)
    try:
        await connection.execute(
            "TRUNCATE telegram_gateway.messages, telegram_gateway.message_revisions, "
            "telegram_gateway.channels, telegram_gateway.message_processing"
        )
    finally:
        await connection.close()
    client: aioredis.Redis = aioredis.from_url(stack.environment["TELEGRAM_REDIS_URL"])
    await client.flushall()
    await client.aclose()
    async with await aio_pika.connect(stack.environment["TELEGRAM_RABBITMQ_URL"]) as broker:
        channel = await broker.channel()
        await channel.queue_delete(QUEUE)
