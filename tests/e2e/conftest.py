"""From the sandbox to every sink: a fresh world, a fresh gateway process and empty stores for each test."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import asyncpg
import pytest_asyncio
import redis.asyncio as aioredis

from gateway.demo.comparison import compare_cache, compare_database, compare_queue
from gateway.demo.consumer import SampleConsumer
from gateway.demo.process import GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from tests.e2e.world import PHONE, TradingWorld

SINKS = 3


@dataclass
class Rig:
    """One running arrangement, and the question all end-to-end tests end with."""

    sandbox: Sandbox
    world: TradingWorld
    gateway: GatewayProcess
    consumer: SampleConsumer
    stack: LocalStack

    async def settle(self) -> None:
        """Returns once the gateway has fetched everything and every sink and the consumer have it."""
        await self.world.wait_captured(self.gateway)
        await self.gateway.wait_delivered(SINKS)
        await self.world.wait_consumed(self.consumer)

    async def assert_everything_arrived(self, *, exact: bool = False) -> None:
        """Fails with every difference between the ground truth and a sink."""
        truth = self.sandbox.truth(self.world.account)
        environment = self.stack.environment
        results = [
            await compare_database(environment["TELEGRAM_DB_DIRECT_DSN"], truth, exact=exact),
            await compare_cache(environment["TELEGRAM_REDIS_URL"], truth),
            compare_queue(self.consumer, truth, exact=exact),
        ]
        problems = [f"{result.sink}: {problem}" for result in results for problem in result.problems]
        assert not problems, f"{len(problems)} problems, the first: " + "; ".join(problems[:10])
        assert all(result.delivered == result.expected for result in results)


@pytest_asyncio.fixture(scope="session")
async def migrated_stack(stack: LocalStack) -> LocalStack:
    """The servers, with the schema in place."""
    from gateway.database.migrate import migrate

    await migrate(stack.postgres.dsn)
    return stack


@pytest_asyncio.fixture
async def rig(migrated_stack: LocalStack, tmp_path: Path) -> AsyncIterator[Rig]:
    """A logged-in, running gateway with all three sinks, and a consumer bound to every chat."""
    await _empty(migrated_stack)
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox:
        world = TradingWorld(sandbox)
        gateway = GatewayProcess(
            tmp_path,
            {
                **migrated_stack.environment,
                "TELEGRAM_API_ID": "1",
                "TELEGRAM_API_HASH": "sandbox",
                "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
                "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
            },
        )
        consumer = SampleConsumer(migrated_stack.environment["TELEGRAM_RABBITMQ_URL"], name="e2e")
        async with consumer.running():
            try:
                await gateway.login(PHONE)
                await gateway.start()
                yield Rig(sandbox, world, gateway, consumer, migrated_stack)
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
    broker = await aio_pika.connect(stack.environment["TELEGRAM_RABBITMQ_URL"])
    async with broker:
        channel = await broker.channel()
        await channel.queue_delete("telegram.consumer.e2e")
