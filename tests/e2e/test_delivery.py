"""The promise itself: what Telegram made available is in every sink, once, with the same content."""

import asyncio

import pytest
import redis.asyncio as aioredis

from gateway.demo.process import POLL_SECONDS
from tests.e2e.conftest import Rig

KILLS = 20
RATE = 300
PATIENCE_SECONDS = 60.0


async def test_five_thousand_mixed_messages_reach_every_sink_content_and_all(rig: Rig) -> None:
    await rig.traffic(rate=400, count=5_000)
    await rig.assert_everything_arrived(exact=True)


async def test_twenty_kills_under_load_lose_nothing_and_keep_the_order(rig: Rig) -> None:
    for _ in range(KILLS):
        # Enough for a kill and a start, and no more: where starts are slow, the load must not grow with them.
        await rig.sandbox.traffic.start(RATE, count=4 * RATE)
        await asyncio.sleep(rig.chance.uniform(0.0, 0.8))
        await rig.gateway.kill()
        await rig.gateway.start(wait=False)
        # Sometimes the next kill comes before the gateway has caught up, or is even connected.
        await (rig.gateway.wait_ready if rig.chance.random() < 0.7 else rig.gateway.wait_answering)()
    await rig.sandbox.traffic.stop()
    await rig.gateway.wait_ready()
    await rig.assert_everything_arrived()


@pytest.mark.parametrize("server", ["pgbouncer", "postgres", "redis", "rabbitmq"])
async def test_a_server_that_is_down_holds_up_no_other_and_gets_everything_afterwards(
    rig: Rig, server: str
) -> None:
    down = getattr(rig.stack, server)
    stopped = {"pgbouncer": "timescaledb", "postgres": "timescaledb"}.get(server, server)

    async def holds_up_no_other() -> bool:
        status = await rig.gateway.status()
        lag = {sink["name"]: sink["lag_events"] for sink in status["sinks"]} if status else {stopped: 0}
        waiting: int = lag.pop(stopped)
        return waiting > 300 and max(lag.values()) < waiting / 2

    async with asyncio.TaskGroup() as group:
        group.create_task(rig.traffic(rate=150, count=1_500))
        await asyncio.sleep(1)
        await down.kill()
        try:
            await asyncio.sleep(6)
            # It is still down, and the traffic ends: who waits for it keeps as much to do as it has.
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await holds_up_no_other():
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            await down.start()
    await rig.gateway.wait_delivered(sinks=3)
    if server == "redis":
        return  # it came back empty, as a cache may: what it missed it has, what it forgot it has not
    await rig.assert_everything_arrived()


async def test_a_clean_stop_drains_and_a_start_catches_up(rig: Rig) -> None:
    await rig.traffic(rate=300, count=600)
    assert await rig.gateway.stop() == 0
    await rig.traffic(rate=1000, count=500)
    await rig.gateway.start()
    await rig.assert_everything_arrived()


async def test_lost_connections_and_restarts_of_telegram_lose_nothing(rig: Rig) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(rig.traffic(rate=200, count=2_400))
        for _ in range(4):
            await asyncio.sleep(1.2)
            rig.sandbox.drop_connections()
        await asyncio.sleep(1.2)
        await rig.sandbox.restart(down_seconds=1.0)
    await rig.assert_everything_arrived()


async def test_what_redis_claims_to_have_seen_is_delivered_all_the_same(rig: Rig) -> None:
    await rig.gateway.kill()
    await rig.traffic(rate=1000, count=200)
    truth = rig.sandbox.truth(rig.scene.accounts[0], rig.since)
    claims: dict[str, str] = {}
    for event in truth:
        chat = f"{event.account_scope}/{event.channel_id}" if event.account_scope else event.channel_id
        claims.setdefault(f"telegram:dedup:{chat}:{event.message_id}", event.id)
    client: aioredis.Redis = aioredis.from_url(rig.stack.environment["TELEGRAM_REDIS_URL"])
    await client.mset(claims)
    await client.aclose()
    await rig.gateway.start()
    await rig.assert_everything_arrived()
