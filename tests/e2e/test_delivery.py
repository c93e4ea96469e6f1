"""The promise itself: what Telegram made available is in every sink, once, with the same content."""

import asyncio

from tests.e2e.conftest import Rig


async def test_five_thousand_mixed_messages_reach_every_sink_content_and_all(rig: Rig) -> None:
    await rig.world.traffic(rate=400, count=5_000)
    await rig.settle()
    await rig.assert_everything_arrived(exact=True)


async def test_twenty_kills_under_load_lose_nothing_and_keep_the_order(rig: Rig) -> None:
    kills = 20
    async with asyncio.TaskGroup() as group:
        traffic = group.create_task(rig.world.traffic(rate=300, count=9_000))
        for _ in range(kills):
            await asyncio.sleep(rig.world.random.uniform(0.2, 1.2))
            await rig.gateway.kill()
            await rig.gateway.start(wait=rig.world.random.random() < 0.7)
        await traffic
    await rig.gateway.wait_ready()
    await rig.settle()
    await rig.assert_everything_arrived()
