"""kill -9 of a consumer in the middle of its work: every effect once, and what kills it ends somewhere."""

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.localstack import LocalStack
from tests.consumer_rig import ConsumerRig, until
from tests.sink_events import new

HARMLESS = 0


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ConsumerRig]:
    async with ConsumerRig.on(stack) as rig:
        await rig.database.execute(
            "CREATE TABLE IF NOT EXISTS public.consumer_effects (consumer text, message_id bigint)"
        )
        await rig.database.execute("TRUNCATE public.consumer_effects")
        yield rig


@asynccontextmanager
async def process(rig: ConsumerRig, kind: str, deadly: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A consumer's process; killed when the block ends."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.consumer_process",
        kind,
        rig.name,
        str(deadly),
        env={**os.environ, **rig.stack.environment},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@asynccontextmanager
async def delivery_limit(rig: ConsumerRig, limit: int) -> AsyncIterator[None]:
    """Fewer deliveries than are usual for the consumer's queue: each takes a process its start."""
    control, where = rig.stack.rabbitmq.control, ("-p", "telegram")
    definition = f'{{"delivery-limit": {limit}}}'
    await control("set_policy", *where, "--priority", "99", "test-limit", f"^{rig.queue}$", definition)
    yield
    await control("clear_policy", *where, "test-limit")


async def effects(rig: ConsumerRig) -> Counter[int]:
    rows = await rig.database.fetch(
        "SELECT message_id FROM public.consumer_effects WHERE consumer = $1", rig.name
    )
    return Counter(row[0] for row in rows)


@pytest.mark.parametrize("kind", ["queue", "poller", "hybrid"])
async def test_a_consumer_that_is_killed_in_the_middle_of_a_batch_does_everything_once(
    rig: ConsumerRig, kind: str
) -> None:
    chance = random.Random(9)
    await rig.declare()
    events = [new(number, channel=f"-100{number % 7}") for number in range(1, 401)]
    # In parts, so that each process has something to do, however late its predecessor was killed.
    parts = (events[:180], events[180:320], events[320:])
    for part, share in zip(parts, (60, 220), strict=False):
        await rig.everywhere(*part)
        async with process(rig, kind, HARMLESS):
            await until(lambda share=share: _reached(rig, share))  # type: ignore[misc]
            await asyncio.sleep(chance.random() * 0.02)
    await rig.everywhere(*parts[-1])
    async with process(rig, kind, HARMLESS) as last:
        await until(lambda: rig.all_in("published", 400))
        last.terminate()
        assert await last.wait() == 0
    assert await effects(rig) == Counter(range(1, 401))


async def test_a_message_that_kills_the_process_again_and_again_becomes_a_dead_letter_alone(
    rig: ConsumerRig,
) -> None:
    await rig.declare()
    # Its neighbours, of its own chat and of others, are out with it when it kills.
    await rig.publish(*(new(number, channel=f"-100{number % 2}") for number in range(1, 31)))
    starts = 0
    async with delivery_limit(rig, 4):
        while not await rig.all_in("published", 29):
            starts += 1
            async with process(rig, "queue", 11) as child:
                await until(lambda child=child: _over(rig, child, "published", 29))  # type: ignore[misc]
    assert starts == 6
    (letter,) = await rig.letters()
    assert letter.message_id == new(11).id.replace(new(11).channel_id, "-1001")
    assert letter.headers["x-first-death-reason"] == "delivery_limit"
    assert await effects(rig) == Counter(number for number in range(1, 31) if number != 11)


async def test_the_poller_gives_up_what_kills_it_after_as_many_attempts_as_any_other(
    rig: ConsumerRig,
) -> None:
    await rig.store(*(new(number) for number in range(1, 6)))
    starts = 0
    while not await rig.all_in("failed", 1):
        starts += 1
        async with process(rig, "poller", 3) as child:
            await until(lambda child=child: _over(rig, child, "failed", 1))  # type: ignore[misc]
            if child.returncode is None:
                await until(lambda: rig.all_in("published", 4))
    assert starts == 4
    (letter,) = await rig.letters()
    assert "died" in str(letter.headers["x-reason"])
    assert await effects(rig) == Counter([1, 2, 4, 5])


async def _reached(rig: ConsumerRig, count: int) -> bool:
    return (await effects(rig)).total() >= count


async def _over(rig: ConsumerRig, child: asyncio.subprocess.Process, status: str, count: int) -> bool:
    return child.returncode is not None or await rig.all_in(status, count)
