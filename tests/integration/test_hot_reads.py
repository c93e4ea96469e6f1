"""Reads of Redis that come together: one round trip for them, and each gets its own answer."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.api.hot_reads import MOST_TOGETHER, HotReads
from gateway.errors import SinkUnavailable
from gateway.event import utc_now
from gateway.localstack import LocalStack
from gateway.read import HotMessages
from tests.read_rig import ReadRig, read_rig
from tests.sink_events import CHANNEL, new


def started(part: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
    return asyncio.create_task(part, name=name)


@pytest_asyncio.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ReadRig]:
    async with read_rig(stack) as rig:
        now = utc_now()
        await rig.cache(*(new(n, telegram_date=now - timedelta(minutes=30 - n)) for n in range(1, 31)))
        yield rig


async def sorts(redis: Redis) -> int:
    found = await redis.info("commandstats")
    return int(found["cmdstat_sort"]["calls"]) if "cmdstat_sort" in found else 0


async def test_who_asks_the_same_at_once_shares_a_read_and_others_get_their_own(rig: ReadRig) -> None:
    reads = HotReads(rig.hot, started)
    before = await sorts(rig.redis)
    pages = await asyncio.gather(*(reads.newest(CHANNEL, 1 + n % 5, None) for n in range(100)))
    assert [len(page.events) for page in pages] == [1 + n % 5 for n in range(100)]
    assert all(page.complete and page.events[0].message_id == 30 for page in pages)
    assert await sorts(rig.redis) - before <= 5
    # More than go into one round trip.
    pages = await asyncio.gather(*(reads.newest(CHANNEL, 1 + n, None) for n in range(3 * MOST_TOGETHER)))
    assert [len(page.events) for page in pages] == [1 + n for n in range(3 * MOST_TOGETHER)]


async def test_what_was_asked_after_a_read_began_sees_what_was_written_before_it_was_asked(
    rig: ReadRig,
) -> None:
    reads = HotReads(rig.hot, started)
    for number in range(31, 40):
        under_way = asyncio.create_task(reads.newest(CHANNEL, 3, None))
        await asyncio.sleep(0)
        await rig.cache(new(number, telegram_date=utc_now()))
        assert (await reads.newest(CHANNEL, 3, None)).events[0].message_id == number
        await under_way


async def test_a_request_that_is_given_up_takes_no_other_with_it(rig: ReadRig) -> None:
    reads = HotReads(rig.hot, started)
    first, second = (asyncio.create_task(reads.newest(CHANNEL, 3, None)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).complete
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_without_redis_each_of_them_hears_so_and_the_next_is_tried_again(rig: ReadRig) -> None:
    async with Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0)) as nobody:
        reads = HotReads(HotMessages(nobody), started)
        for _ in range(2):
            answers = await asyncio.gather(
                *(reads.newest(CHANNEL, 1 + n, None) for n in range(20)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {SinkUnavailable}
