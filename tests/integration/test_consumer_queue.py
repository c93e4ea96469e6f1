"""The queue consumer on real servers: order, attempts, parking, poison, repeats, stopping, two processes."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import aio_pika
import pytest
from aio_pika import Channel
from aiomisc.pytest import TCPProxy
from structlog.testing import capture_logs

from gateway.consumer import Event, Ignored, QueueConsumer, Rejected, TryLater, queue
from gateway.consumer.backoff import delay_after
from gateway.errors import ConfigurationError
from gateway.event import encode
from gateway.localstack import LocalStack
from tests.consumer_rig import ConsumerRig, until
from tests.sink_events import deleted, edited, new

FIRST, LONGEST = timedelta(seconds=1), timedelta(minutes=1)


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ConsumerRig]:
    async with ConsumerRig.on(stack) as rig:
        yield rig


def consumer(rig: ConsumerRig, **options: object) -> QueueConsumer:
    return QueueConsumer(rig.settings(**options), registry=rig.registry)


def chat(number: int) -> str:
    return f"-100{number}"


async def test_each_chat_is_handled_in_order_one_event_at_a_time_and_chats_side_by_side(
    rig: ConsumerRig,
) -> None:
    chance = random.Random(4)
    order: dict[str, list[int]] = defaultdict(list)
    busy: set[str] = set()
    most = 0

    async def handle(event: Event) -> None:
        nonlocal most
        assert event.channel_id not in busy
        busy.add(event.channel_id)
        most = max(most, len(busy))
        await asyncio.sleep(chance.random() * 0.005)
        if chance.random() < 0.1:
            busy.remove(event.channel_id)
            raise OSError("the handler's own network")
        order[event.channel_id].append(event.message_id)
        busy.remove(event.channel_id)

    events = [new(number, channel=chat(chance.randrange(8))) for number in range(1, 301)]
    # They wait for the consumer already: chats are side by side however slowly events come in.
    await rig.declare()
    await rig.publish(*events)
    async with rig.running(consumer(rig, attempts=50, concurrency=4), handle):
        await until(lambda: rig.all_in("published", 300))
    expected: dict[str, list[int]] = defaultdict(list)
    for event in events:
        expected[event.channel_id].append(event.message_id)
    assert order == expected
    assert 2 <= most <= 4
    await until(lambda: _waiting(rig, 0))
    assert rig.metric("handled_total", outcome="handled") == 300
    assert rig.metric("retries_total") > 0


async def test_what_comes_twice_is_handled_once(rig: ConsumerRig) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.id)

    first = new(1)
    events = [first, edited(1, "a"), edited(1, "b", seconds=1), new(2), deleted(2)]
    kinds = ("message.new", "message.edited", "message.deleted")
    for received in (10, 20):
        async with rig.running(consumer(rig, kinds=kinds), handle):
            await rig.publish(*events)
            await rig.publish(*reversed(events))
            await until(lambda all=received: _handled(rig, "handled", "duplicate") == all)  # type: ignore[misc]
    assert sorted(handled) == sorted(event.id for event in events)
    assert await rig.states() == {1: "published", 2: "published"}


async def test_a_mark_in_redis_that_lies_loses_no_event(rig: ConsumerRig) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(event.message_id)

    event = new(1)
    await rig.redis.set(f"telegram:dedup:{rig.name}:{event.chat_key}:1", event.id)
    async with rig.running(consumer(rig), handle):
        await rig.publish(event)
        await until(lambda: rig.all_in("published", 1))
    assert handled == [1]


async def test_the_mark_in_redis_follows_the_effect(rig: ConsumerRig) -> None:
    async def handle(event: Event) -> None:
        assert await rig.redis.get(key) is None

    event = new(1)
    key = f"telegram:dedup:{rig.name}:{event.chat_key}:1"
    started = time.monotonic()
    async with rig.running(consumer(rig), handle):
        await rig.publish(event)
        await until(lambda: rig.all_in("published", 1))
        await until(lambda: rig.metric("in_flight") == 0)
    assert await rig.redis.get(key) == event.id
    left = await rig.redis.ttl(key)
    assert 7199 - (time.monotonic() - started) <= left <= 7200


async def test_only_the_kinds_and_chats_that_were_asked_for_come(rig: ConsumerRig) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.id)

    wanted = [edited(1, "x", channel=chat(1)), edited(2, "x", channel=chat(2))]
    others = [new(1, channel=chat(1)), edited(3, "x", channel=chat(3)), deleted(1, channel=chat(1))]
    async with rig.running(consumer(rig, chats=(chat(1), chat(2)), kinds=("message.edited",)), handle):
        await rig.publish(*others, *wanted)
        # A binding of an earlier configuration is still there, and what it brings is let go.
        await rig.publish_raw(encode(others[1]), rig.queue)
        await until(lambda: _handled(rig, "handled", "unwanted") == 3)
    assert sorted(handled) == sorted(event.id for event in wanted)
    assert rig.metric("handled_total", outcome="unwanted") == 1
    await until(lambda: _waiting(rig, 0))


async def test_after_three_attempts_an_event_is_parked_with_the_reason_and_the_chat_goes_on(
    rig: ConsumerRig,
) -> None:
    tried: list[int] = []

    async def handle(event: Event) -> None:
        tried.append(event.message_id)
        if event.message_id == 1:
            raise ValueError("no such ticker: \0 \ud800")

    async with rig.running(consumer(rig), handle):
        await rig.publish(new(1), new(2))
        await until(lambda: rig.all_in("published", 1))
    assert tried == [1, 1, 1, 2]
    row = await rig.database.fetchrow(
        "SELECT status, attempts, error FROM telegram_gateway.message_processing WHERE message_id = 1"
    )
    assert row is not None
    assert tuple(row) == ("failed", 3, "ValueError: no such ticker:  ?")
    (letter,) = await rig.letters()
    assert letter.body == encode(new(1, telegram_date=None)) or letter.message_id == new(1).id
    headers = letter.headers
    assert (headers["x-consumer"], headers["x-queue"]) == (rig.name, rig.queue)
    assert (headers["x-attempts"], headers["x-reason"]) == (3, "ValueError: no such ticker:  ?")
    assert str(headers["x-parked-at"]).endswith("Z")
    assert headers["x-kind"] == "message.new"
    assert headers["cloudEvents_type"] == "message.new"
    assert letter.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert rig.metric("parked_total", why="attempts") == 1


def test_each_delay_is_longer_than_the_one_before_and_none_is_longer_than_allowed() -> None:
    for _ in range(200):
        delays = [delay_after(attempt, FIRST, LONGEST) for attempt in range(1, 4)]
        assert delays == sorted(delays)
        assert 0.75 <= delays[0] <= 1.25
        assert delay_after(1000, FIRST, LONGEST) <= 75
    assert len({delay_after(1, FIRST, LONGEST) for _ in range(10)}) > 1


async def test_rejected_is_parked_at_once_and_ignored_is_on_record(rig: ConsumerRig) -> None:
    async def handle(event: Event) -> None:
        raise (Rejected if event.message_id == 1 else Ignored)(f"because of {event.message_id}")

    async with rig.running(consumer(rig), handle):
        await rig.publish(new(1), new(2))
        await until(lambda: rig.all_in("ignored", 1))
    rows = await rig.database.fetch(
        "SELECT status, attempts, error FROM telegram_gateway.message_processing ORDER BY message_id"
    )
    assert [tuple(row) for row in rows] == [
        ("failed", 1, "because of 1"),
        ("ignored", 1, "because of 2"),
    ]
    (letter,) = await rig.letters()
    assert letter.headers["x-reason"] == "because of 1"


async def test_a_handler_may_ask_for_time_without_spending_attempts(rig: ConsumerRig) -> None:
    tried = 0

    async def handle(event: Event) -> None:
        nonlocal tried
        tried += 1
        if tried <= 5:
            raise TryLater("its own database is away")

    settings = rig.settings(longest_delay=timedelta(milliseconds=50))
    async with rig.running(QueueConsumer(settings, registry=rig.registry), handle):
        await rig.publish(new(1))
        await until(lambda: rig.all_in("published", 1))
    assert tried == 6
    assert await rig.database.fetchval("SELECT attempts FROM telegram_gateway.message_processing") == 1


async def test_a_handler_that_never_returns_is_a_failed_attempt(rig: ConsumerRig) -> None:
    async def handle(event: Event) -> None:
        await asyncio.Event().wait()

    settings = rig.settings(handler_limit=timedelta(milliseconds=30), attempts=2)
    async with rig.running(QueueConsumer(settings, registry=rig.registry), handle):
        await rig.publish(new(1))
        await until(lambda: rig.all_in("failed", 1))
    (letter,) = await rig.letters()
    assert "took longer" in str(letter.headers["x-reason"])


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"{}", b"[1]", b'{"v":1,"id":"x"}', encode(new(1, v=2))],
    ids=["empty", "not text", "no fields", "an array", "too few fields", "another version"],
)
async def test_a_body_that_is_no_event_is_parked_and_never_loops(rig: ConsumerRig, body: bytes) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(event.message_id)

    async with rig.running(consumer(rig), handle):
        await rig.publish_raw(body, rig.queue)
        await rig.publish(new(7))
        await until(lambda: rig.metric("parked_total", why="unreadable") == 1)
        await until(lambda: rig.all_in("published", 1))
    assert handled == [7]
    await until(lambda: _waiting(rig, 0))
    (letter,) = await rig.letters()
    assert letter.body == body
    assert letter.headers["x-reason"]


async def test_what_an_operator_sends_back_is_tried_again(rig: ConsumerRig) -> None:
    mended = False

    async def handle(event: Event) -> None:
        if not mended:
            raise Rejected("not yet")

    async with rig.running(consumer(rig), handle):
        await rig.publish(new(1))
        await until(lambda: rig.all_in("failed", 1))
        await rig.publish(new(1))  # only a repeat: it has been given up
        await until(lambda: rig.metric("handled_total", outcome="duplicate") == 1)
        mended = True
        (letter,) = await rig.letters()
        await rig.publish_raw(letter.body, str(letter.headers["x-queue"]), **{"x-requeued": 1})
        await until(lambda: rig.all_in("published", 1))
    assert await rig.letters() == []


async def test_a_chat_that_waits_for_a_retry_does_not_hold_up_the_others(rig: ConsumerRig) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        if event.channel_id == chat(1):
            raise ValueError("always")
        handled.append(event.message_id)

    # 60 events of the poisoned chat stand before the others, six times what may be out at a time.
    settings = rig.settings(first_delay=timedelta(hours=1), longest_delay=timedelta(hours=1))
    await rig.declare()
    await rig.publish(*(new(number, channel=chat(1)) for number in range(1, 61)))
    await rig.publish(*(new(number, channel=chat(2)) for number in range(61, 121)))
    async with rig.running(QueueConsumer(settings, registry=rig.registry), handle):
        await until(lambda: len(handled) == 60)
        assert handled == list(range(61, 121))
        assert rig.metric("retries_total") == 1
    await until(lambda: _waiting(rig, 60))


async def test_a_queue_per_chat_keeps_chats_apart(rig: ConsumerRig) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        if event.channel_id == chat(1):
            raise TryLater("for ever")
        handled.append(event.message_id)

    chats = (chat(1), chat(2))
    async with rig.running(consumer(rig, chats=chats, queue_per_chat=True, prefetch=1), handle):
        await rig.publish(*(new(number, channel=chats[number % 2]) for number in range(1, 21)))
        await until(lambda: len(handled) == 10)
    async with await aio_pika.connect(rig.stack.rabbitmq.url) as connection:
        channel = await connection.channel()
        for each in chats:
            left = 10 if each == chat(1) else 0
            # What was out with the consumer is back a moment after it has gone.
            await until(lambda queue=f"{rig.queue}.{each}", left=left: _waiting(rig, left, queue))  # type: ignore[misc]
            await channel.queue_delete(f"{rig.queue}.{each}")


async def test_connections_that_are_cut_at_any_moment_lose_nothing_and_repeat_nothing(
    rig: ConsumerRig,
) -> None:
    handled: list[int] = []
    order: dict[str, list[int]] = defaultdict(list)

    async def handle(event: Event) -> None:
        await asyncio.sleep(0.002)
        handled.append(event.message_id)
        order[event.channel_id].append(event.message_id)

    async with TCPProxy("127.0.0.1", rig.stack.rabbitmq.port) as proxy:
        url = rig.stack.rabbitmq.url.replace(f":{rig.stack.rabbitmq.port}/", f":{proxy.proxy_port}/")
        async with rig.running(consumer(rig, rabbitmq_url=url), handle):
            await rig.publish(*(new(number, channel=chat(number % 5)) for number in range(1, 401)))
            for cuts, share in enumerate((50, 120, 200, 300), 1):
                await until(lambda share=share: len(handled) >= share)  # type: ignore[misc]
                # There must be a connection to cut: it may still be on its way back.
                await until(lambda: rig.metric("queue_connected") == 1)
                await proxy.disconnect_all()
                await until(lambda cuts=cuts: rig.metric("reconnects_total") >= cuts)  # type: ignore[misc]
            await until(lambda: rig.all_in("published", 400))
    assert sorted(handled) == list(range(1, 401))
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert rig.metric("reconnects_total") >= 4


async def test_a_chat_stays_in_order_when_one_cut_follows_another(rig: ConsumerRig) -> None:
    """With each cut, the broker puts what was out behind what it has not given out since the last one."""
    handled: list[int] = []
    go_on = asyncio.Event()

    async def handle(event: Event) -> None:
        await go_on.wait()
        if event.channel_id == chat(1):
            handled.append(event.message_id)

    async with TCPProxy("127.0.0.1", rig.stack.rabbitmq.port) as proxy:
        url = rig.stack.rabbitmq.url.replace(f":{rig.stack.rabbitmq.port}/", f":{proxy.proxy_port}/")
        one_at_a_time = consumer(rig, rabbitmq_url=url, concurrency=1, prefetch=20)
        async with rig.running(one_at_a_time, handle):
            await rig.publish(
                new(99, channel=chat(0)), *(new(number, channel=chat(1)) for number in range(1, 20))
            )
            given_out = 20.0
            for cuts in range(1, 6):
                await until(lambda all=given_out: rig.metric("received_total", source="queue") >= all)  # type: ignore[misc]
                await until(lambda: rig.metric("queue_connected") == 1)
                given_out = rig.metric("received_total", source="queue") + 1
                await proxy.disconnect_all()
                await until(lambda cuts=cuts: rig.metric("reconnects_total") >= cuts)  # type: ignore[misc]
            go_on.set()
            await until(lambda: rig.all_in("published", 20))
    assert handled == [*range(1, 20)]


async def test_a_queue_that_is_deleted_is_made_again(rig: ConsumerRig) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(event.message_id)

    async with rig.running(consumer(rig), handle):
        async with await aio_pika.connect(rig.stack.rabbitmq.url) as connection:
            await (await connection.channel()).queue_delete(rig.queue)
        await until(lambda: rig.metric("reconnects_total") == 1)
        await until(lambda: rig.metric("queue_connected") == 1)
        await rig.publish(new(1))
        await until(lambda: handled == [1])


@pytest.mark.parametrize("by_cancellation", [False, True])
async def test_a_stop_lets_handlers_finish_and_leaves_the_rest_to_the_next_run(
    rig: ConsumerRig, by_cancellation: bool
) -> None:
    begun: list[int] = []
    handled: list[int] = []
    go_on = asyncio.Event()

    async def handle(event: Event) -> None:
        begun.append(event.message_id)
        await go_on.wait()
        handled.append(event.message_id)

    events = [new(number, channel=chat(number % 3)) for number in range(1, 31)]
    async with consumer(rig) as first:
        task = asyncio.ensure_future(first.run(handle))
        await first.ready.wait()
        await rig.publish(*events)
        await until(lambda: len(begun) == 3)
        if by_cancellation:
            task.cancel()
        else:
            first.stop()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait({task})
        assert task.cancelled() == by_cancellation
    assert len(handled) == len(begun) == 3
    assert await rig.all_in("published", 3)
    async with rig.running(consumer(rig), handle):
        await until(lambda: rig.all_in("published", 30))
    assert sorted(handled) == list(range(1, 31))


async def test_a_handler_that_outlives_the_stop_is_broken_off_and_its_event_comes_again(
    rig: ConsumerRig,
) -> None:
    handled: list[int] = []
    begun = asyncio.Event()

    async def never(event: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def handle(event: Event) -> None:
        handled.append(event.message_id)

    async with rig.running(consumer(rig, stop_limit=timedelta(milliseconds=50)), never):
        await rig.publish(new(1))
        await begun.wait()
    assert await rig.states() == {}
    async with rig.running(consumer(rig), handle):
        await until(lambda: handled == [1])


async def test_a_second_process_stands_by_and_takes_over(rig: ConsumerRig) -> None:
    handled: dict[str, list[int]] = {"first": [], "second": []}

    async def one(event: Event) -> None:
        handled["first"].append(event.message_id)

    async def two(event: Event) -> None:
        handled["second"].append(event.message_id)

    async with rig.running(consumer(rig), one):
        await rig.publish(new(1))
        await until(lambda: handled["first"] == [1])
        async with rig.running(consumer(rig), two):
            await rig.publish(*(new(number) for number in range(2, 40)))
            await until(lambda: rig.all_in("published", 39))
            assert handled["second"] == []
    async with rig.running(consumer(rig), two):
        await rig.publish(new(40))
        await until(lambda: handled["second"] == [40])
    assert handled["first"] == list(range(1, 40))


async def test_whoever_stands_by_gets_what_a_stop_leaves_in_its_order_and_not_before_the_last_is_done(
    rig: ConsumerRig,
) -> None:
    handled: list[int] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def first(event: Event) -> None:
        begun.set()
        await go_on.wait()
        handled.append(event.message_id)

    async def second(event: Event) -> None:
        handled.append(event.message_id)

    stopping = consumer(rig, prefetch=5)
    async with rig.running(stopping, first):
        await rig.publish(*(new(number) for number in range(1, 21)))
        await begun.wait()
        await until(lambda: rig.metric("received_total", source="queue") >= 5)
        async with rig.running(QueueConsumer(rig.settings()), second):
            stopping.stop()
            await asyncio.sleep(0.3)  # long enough for the broker to turn to the other one
            go_on.set()
            await until(lambda: rig.all_in("published", 20))
    assert handled == [*range(1, 21)]


async def test_what_was_set_aside_over_many_subscriptions_goes_back_in_its_order(rig: ConsumerRig) -> None:
    handled: list[int] = []

    async def later(event: Event) -> None:
        raise TryLater("not yet")

    async def handle(event: Event) -> None:
        handled.append(event.message_id)

    async with rig.running(consumer(rig, prefetch=2, first_delay=timedelta(seconds=20)), later):
        await rig.publish(*(new(number) for number in range(1, 141)))
        await until(lambda: rig.metric("received_total", source="queue") >= 140)
    async with rig.running(QueueConsumer(rig.settings()), handle):
        await until(lambda: rig.all_in("published", 140))
    assert handled == [*range(1, 141)]


@pytest.mark.parametrize(
    ("set_aside", "subscriptions", "least", "most"), [(50, 32, 50, 54), (1000, 3, 6, 10)]
)
async def test_no_more_is_set_aside_than_goes_back_in_its_order(
    rig: ConsumerRig,
    monkeypatch: pytest.MonkeyPatch,
    set_aside: int,
    subscriptions: int,
    least: int,
    most: int,
) -> None:
    async def later(event: Event) -> None:
        raise TryLater("not yet")

    monkeypatch.setattr(queue, "SUBSCRIPTIONS", subscriptions)
    await rig.declare()
    await rig.publish(*(new(number) for number in range(1, 101)))
    with capture_logs() as lines:
        async with rig.running(consumer(rig, prefetch=4, set_aside=set_aside), later):
            await until(lambda: any(line["event"] == "consumer_set_aside_full" for line in lines))
            taken = int(rig.metric("received_total", source="queue"))
            assert least <= taken <= most
            assert await _waiting(rig, 100 - taken)


async def test_once_no_chat_waits_no_more_messages_are_out_than_usual(rig: ConsumerRig) -> None:
    ready, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: Event) -> None:
        if not ready.is_set():
            raise TryLater("not yet")
        if event.message_id > 140:
            await go_on.wait()

    async with rig.running(consumer(rig, prefetch=2), handle):
        await rig.publish(*(new(number) for number in range(1, 41)))
        await until(lambda: rig.metric("received_total", source="queue") >= 40)
        ready.set()
        await until(lambda: rig.all_in("published", 40))
        # While there is always more to do, too.
        await rig.publish(*(new(number) for number in range(41, 141)))
        await until(lambda: rig.all_in("published", 140))
        await rig.publish(*(new(number) for number in range(141, 181)))
        await until(lambda: _waiting(rig, 38))
        go_on.set()
        await until(lambda: rig.all_in("published", 180))


async def test_a_subscription_that_is_widened_costs_no_order(
    rig: ConsumerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker puts what is on its way to a subscription that ends behind what came back before."""
    handled: list[int] = []
    declare = Channel.declare_queue

    async def handle(event: Event) -> None:
        handled.append(event.message_id)

    async def answered_late(*arguments: Any, passive: bool = False, **options: Any) -> Any:
        answer = await declare(*arguments, passive=passive, **options)
        if passive:
            # The worst moment: just when the first one is acknowledged, which has the broker give the next.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while not rig.metric("handled_total", outcome="handled"):
                        await asyncio.sleep(0)
        return answer

    await rig.declare()
    await rig.publish(*(new(number) for number in range(1, 21)))
    await rig.give_back(20)
    monkeypatch.setattr(Channel, "declare_queue", answered_late)
    async with rig.running(consumer(rig), handle):
        await until(lambda: rig.all_in("published", 20))
    assert handled == [*range(1, 21)]


async def test_two_consumers_do_not_see_each_others_state(stack: LocalStack, rig: ConsumerRig) -> None:
    handled: dict[str, list[int]] = defaultdict(list)

    async def ours(event: Event) -> None:
        handled["ours"].append(event.message_id)

    async def theirs(event: Event) -> None:
        handled["theirs"].append(event.message_id)
        raise Rejected("not ours")

    other = ConsumerRig(stack, rig.database, rig.redis)
    async with (
        rig.running(consumer(rig), ours),
        other.running(consumer(other), theirs),
    ):
        await rig.publish(new(1), new(2))
        await until(lambda: rig.all_in("published", 2))
        await until(lambda: other.all_in("failed", 2))
    assert handled == {"ours": [1, 2], "theirs": [1, 2]}
    async with await aio_pika.connect(stack.rabbitmq.url) as connection:
        await (await connection.channel()).queue_delete(other.queue)


async def test_a_queue_that_was_declared_otherwise_is_named(rig: ConsumerRig) -> None:
    async with await aio_pika.connect(rig.stack.rabbitmq.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(rig.queue, durable=True, arguments={"x-queue-type": "quorum"})
    with pytest.raises(ConfigurationError, match="declared otherwise"):
        async with asyncio.timeout(60):
            await consumer(rig).run(_nothing)


async def _nothing(event: Event) -> None:
    return


def _handled(rig: ConsumerRig, *outcomes: str) -> float:
    return sum(rig.metric("handled_total", outcome=outcome) for outcome in outcomes)


async def _waiting(rig: ConsumerRig, count: int, queue: str | None = None) -> bool:
    return await rig.waiting(queue) == count
