"""The hot hour from Redis: complete answers, and no answer where Redis cannot know."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.errors import SinkUnavailable
from gateway.event import Event
from gateway.localstack import LocalStack
from gateway.read import HotMessages, MessageRef, Newest
from gateway.read import hot as read_hot
from gateway.read.cursor import InvalidCursor, decode_position, encode_position
from gateway.read.records import Position
from tests.read_rig import ReadRig, read_rig
from tests.sink_events import CHANNEL, deleted, edited, new

RECENT = f"telegram:channel:{CHANNEL}:recent"
OTHER = "-1001700000042"


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ReadRig]:
    async with read_rig(stack) as rig:
        yield rig


def ago(seconds: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=seconds)


def minutes(count: int, channel: str = CHANNEL) -> list[Event]:
    """A message each minute; the newest has the greatest number."""
    return [new(n, channel=channel, telegram_date=ago(60 * (count - n))) for n in range(1, count + 1)]


async def test_the_newest_messages_of_several_chats_in_one_round_trip(rig: ReadRig) -> None:
    await rig.cache(*minutes(30), *minutes(20, OTHER))
    first, second, none = await rig.hot.newest_of(
        [Newest(CHANNEL, 10), Newest(OTHER, 5), Newest("-1009", 10)]
    )
    assert [event.message_id for event in first.events] == list(range(30, 20, -1))
    assert [event.message_id for event in second.events] == list(range(20, 15, -1))
    assert (first.complete, second.complete, none.complete) == (True, True, False)


async def test_since_a_moment(rig: ReadRig) -> None:
    events = minutes(30)
    await rig.cache(*events)
    page = await rig.hot.newest(CHANNEL, 100, since=events[24].telegram_date)
    assert [event.message_id for event in page.events] == [30, 29, 28, 27, 26, 25]
    assert page.complete
    assert not (await rig.hot.newest(CHANNEL, 100, since=ago(7200))).complete


async def test_fewer_than_asked_for_is_no_answer(rig: ReadRig) -> None:
    await rig.cache(*minutes(5))
    assert not (await rig.hot.newest(CHANNEL, 6)).complete
    # Five there are, but a set that was lost a moment ago would look the same.
    assert not (await rig.hot.newest(CHANNEL, 5)).complete
    assert (await rig.hot.newest(CHANNEL, 4)).complete


async def test_a_body_that_was_evicted_is_no_answer(rig: ReadRig) -> None:
    await rig.cache(*minutes(9))
    await rig.redis.delete(f"telegram:msg:{CHANNEL}:8")
    assert not (await rig.hot.newest(CHANNEL, 4)).complete
    assert await rig.hot.message(MessageRef(CHANNEL, 8)) is None


async def test_a_set_that_was_lost_and_begun_again_is_no_answer(rig: ReadRig) -> None:
    events = minutes(9)
    await rig.cache(*events[:7])
    await rig.redis.delete(RECENT)
    await rig.cache(*events[7:])
    page = await rig.hot.newest(CHANNEL, 2)
    assert ([event.message_id for event in page.events], page.complete) == ([9, 8], False)


async def test_messages_of_one_second_are_not_cut_in_the_middle(rig: ReadRig) -> None:
    second = ago(10)
    await rig.cache(new(1, telegram_date=ago(60)), *(new(n, telegram_date=second) for n in range(2, 60)))
    assert [event.message_id for event in (await rig.hot.newest(CHANNEL, 57)).events] == list(
        range(59, 2, -1)
    )
    assert (await rig.hot.newest(CHANNEL, 57)).complete
    assert not (await rig.hot.newest(CHANNEL, 5)).complete  # which five, the set does not say


async def test_warming_never_brings_an_older_revision_or_a_deleted_message_back(rig: ReadRig) -> None:
    first = new(1, telegram_date=ago(60))
    change = edited(1, "alvo 33", telegram_date=first.telegram_date)
    gone = new(2, telegram_date=ago(50))
    await rig.cache(first, change, gone, deleted(2))
    await rig.hot.warm([first, gone])
    assert await rig.hot.message(MessageRef(CHANNEL, 1)) == change
    assert await rig.hot.message(MessageRef(CHANNEL, 2)) is None


async def test_what_was_warmed_is_found_but_no_page_is_called_complete(rig: ReadRig) -> None:
    events = minutes(9)
    await rig.hot.warm([events[0], events[3], events[8]])
    page = await rig.hot.newest(CHANNEL, 2)
    assert ([event.message_id for event in page.events], page.complete) == ([9, 4], False)
    await rig.redis.flushdb()
    await rig.cache(*events)
    await rig.hot.warm(events)
    assert (await rig.hot.newest(CHANNEL, 5)).complete  # nothing was added


async def test_old_messages_do_not_become_hot(rig: ReadRig) -> None:
    await rig.hot.warm([new(1, telegram_date=ago(7200))])
    assert await rig.redis.dbsize() == 0


async def test_a_forgotten_message_is_gone(rig: ReadRig) -> None:
    await rig.cache(*minutes(9))
    await rig.hot.forget(MessageRef(CHANNEL, 8))
    assert [event.message_id for event in (await rig.hot.newest(CHANNEL, 3)).events] == [9, 7, 6]


async def test_without_redis_it_says_so() -> None:
    hot = HotMessages(Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0)))
    with pytest.raises(SinkUnavailable):
        await hot.newest(CHANNEL, 1)
    with pytest.raises(SinkUnavailable):
        await hot.message(MessageRef(CHANNEL, 1))


def test_a_cursor_is_its_own_questions() -> None:
    place = Position(ago(0), CHANNEL, 0, 7)
    cursor = encode_position(place, ("a", None))
    assert decode_position(cursor, ("a", None)) == place
    for question, garbage in ((("b", None), cursor), (("a", None), cursor[:-2]), (("a", None), "x" * 40)):
        with pytest.raises(InvalidCursor):
            decode_position(garbage, question)


async def _sorts(rig: ReadRig) -> int:
    found = await rig.redis.info("commandstats")
    return int(found["cmdstat_sort"]["calls"]) if "cmdstat_sort" in found else 0


async def test_a_page_in_which_nothing_has_changed_is_read_once(rig: ReadRig) -> None:
    hot = HotMessages(rig.redis, remembered=1000)
    await rig.cache(*minutes(40), *minutes(20, OTHER))
    first = await hot.newest(CHANNEL, 10)
    before = await _sorts(rig)
    assert await hot.newest(CHANNEL, 10) is first
    assert [event.message_id for event in (await hot.newest(CHANNEL, 5)).events] == [40, 39, 38, 37, 36]
    await rig.cache(new(21, channel=OTHER, telegram_date=ago(0)))
    assert await hot.newest(CHANNEL, 10) is first
    assert await _sorts(rig) == before


async def test_every_change_is_in_the_next_page(rig: ReadRig) -> None:
    hot = HotMessages(rig.redis, remembered=1000)
    chance = random.Random(7)
    known = minutes(40)
    await rig.cache(*known)
    for step in range(150):
        event = chance.choice(known[-12:])
        match chance.randrange(6):
            case 0:
                known.append(new(len(known) + 1, telegram_date=ago(0)))
                await rig.cache(known[-1])
            case 1:
                await rig.cache(
                    edited(event.message_id, f"alvo {step}", seconds=step, telegram_date=event.telegram_date)
                )
            case 2:
                await rig.cache(deleted(event.message_id))
            case 3:
                await rig.hot.forget(MessageRef(CHANNEL, event.message_id))
            case 4:
                await rig.hot.warm([event])
            case 5 if not step % 5:
                await rig.redis.flushdb()
        for limit in (3, 10):
            kept, read = await hot.newest(CHANNEL, limit), await rig.hot.newest(CHANNEL, limit)
            assert (kept.events, kept.bodies, kept.reason) == (read.events, read.bodies, read.reason)


async def test_a_page_goes_unasked_for_a_moment_but_not_once_it_is_known_to_have_changed(
    rig: ReadRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot, asked = HotMessages(rig.redis, remembered=1000, unasked=60), Newest(CHANNEL, 10)
    await rig.cache(*minutes(40))
    assert hot.kept(asked) is None
    first = await hot.newest(CHANNEL, 10)
    await rig.cache(new(41, telegram_date=ago(0)))
    assert hot.kept(asked) is first
    assert hot.kept(Newest(CHANNEL, 11)) is None
    second = await hot.newest(CHANNEL, 10)
    assert second.events[0].message_id == 41
    assert hot.kept(asked) is second
    await hot.forget(MessageRef(CHANNEL, 41))
    assert hot.kept(asked) is None
    await hot.newest(CHANNEL, 10)
    monkeypatch.setattr(read_hot, "LARGEST_BYTES", 0)
    await rig.cache(new(42, telegram_date=ago(0)))
    assert (await hot.newest(CHANNEL, 10)).events[0].message_id == 42
    assert hot.kept(asked) is None
    always = HotMessages(rig.redis, remembered=1000)
    await always.newest(CHANNEL, 10)
    assert always.kept(asked) is None


async def test_what_is_kept_has_a_limit_in_bytes(rig: ReadRig, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = HotMessages(rig.redis, remembered=1000, unasked=60)
    await rig.cache(*minutes(40), *minutes(40, OTHER))
    first, second = Newest(CHANNEL, 10), Newest(OTHER, 10)
    await hot.newest_of([first, second])
    assert hot.kept(first) is not None
    assert hot.kept(second) is not None
    body = len((await hot.newest(CHANNEL, 1)).bodies[0])
    monkeypatch.setattr(read_hot, "KEPT_BYTES", 50 * body)  # each has 30: those asked for, and some spare
    hot = HotMessages(rig.redis, remembered=1000, unasked=60)
    await hot.newest_of([first, second])
    assert hot.kept(first) is None
    assert hot.kept(second) is not None
