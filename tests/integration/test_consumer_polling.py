"""The poller and the hybrid: Redis first and the database behind it, whichever server is away."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta

import aio_pika
import pytest
import pytest_asyncio

from gateway.consumer import Event, HybridConsumer, Poller, Rejected
from gateway.consumer.state import BEGUN
from gateway.errors import ConfigurationError
from gateway.event import encode, utc_now
from gateway.localstack import LocalStack
from tests.consumer_rig import ConsumerRig, until
from tests.sink_events import deleted, edited, new

NOTHING = "redis://127.0.0.1:1/0"
NO_BROKER = "amqp://telegram@127.0.0.1:1/telegram"


@pytest_asyncio.fixture(scope="module")
async def stack() -> AsyncIterator[LocalStack]:
    """Servers of these tests alone, without Sentinels: some are stopped here."""
    async with LocalStack(servers=("postgres", "pgbouncer", "redis", "rabbitmq")) as running:
        yield running


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ConsumerRig]:
    async with ConsumerRig.on(stack) as rig:
        yield rig


class Seen:
    """A handler that keeps what it got."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.chats: dict[str, list[int]] = defaultdict(list)

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.chats[event.chat_key].append(event.message_id)

    @property
    def numbers(self) -> list[int]:
        return sorted(event.message_id for event in self.events)


def poller(rig: ConsumerRig, **options: object) -> Poller:
    return Poller(rig.settings(**options), registry=rig.registry)


def hybrid(rig: ConsumerRig, **options: object) -> HybridConsumer:
    return HybridConsumer(rig.settings(**options), registry=rig.registry)


def chat(number: int) -> str:
    return f"-100{number}"


async def polled(rig: ConsumerRig, times: int) -> None:
    """Returns after so many more polls."""
    before = rig.metric("poll_seconds_count")
    await until(lambda: rig.metric("poll_seconds_count") > before + times)


async def test_the_poller_handles_each_message_once_and_each_chat_in_order(rig: ConsumerRig) -> None:
    seen = Seen()
    old = [new(number, channel=chat(number % 4)) for number in range(1, 251)]
    await rig.store(*old)
    await rig.cache(*old)
    async with rig.running(poller(rig), seen):
        await until(lambda: rig.all_in("published", 250))
        for number in range(251, 261):
            await rig.store(new(number, channel=chat(number % 4)))
            await rig.cache(new(number, channel=chat(number % 4)))
        await until(lambda: rig.all_in("published", 260))
        await polled(rig, 3)
    assert seen.numbers == list(range(1, 261))
    assert all(numbers == sorted(numbers) for numbers in seen.chats.values())
    assert rig.metric("cache_hits_total") + rig.metric("cache_misses_total") >= 260


async def test_redis_answers_before_the_database_is_asked(rig: ConsumerRig) -> None:
    seen = Seen()
    await rig.store(new(1))
    async with rig.running(poller(rig, database_polls=10_000), seen):
        await until(lambda: rig.all_in("published", 1))
        await rig.cache(new(2))
        await until(lambda: rig.all_in("published", 2))
        assert rig.metric("cache_hits_total") == 1
        await rig.store(new(3))  # and Redis has nothing of it
        await polled(rig, 3)
        assert seen.numbers == [1, 2]


async def test_what_redis_forgot_or_lies_about_is_found_in_the_database(rig: ConsumerRig) -> None:
    seen = Seen()
    events = [new(number) for number in range(1, 6)]
    await rig.store(*events)
    await rig.cache(events[0], events[1])
    await rig.redis.set(f"telegram:dedup:{rig.name}:{events[0].chat_key}:1", events[0].id)
    async with rig.running(poller(rig, database_polls=3), seen):
        await until(lambda: rig.all_in("published", 5))
    assert seen.numbers == [1, 2, 3, 4, 5]


async def test_a_cache_that_was_emptied_in_between_swaps_nothing(rig: ConsumerRig) -> None:
    seen = Seen()
    await rig.store(new(1))
    async with rig.running(poller(rig, database_polls=10_000), seen):
        await rig.cache(new(1))
        await until(lambda: rig.all_in("published", 1))
        await rig.store(new(2), new(3))
        await rig.redis.flushdb()
        await rig.cache(new(4))
        await until(lambda: rig.at_least_in("published", 3))
        await rig.cache(new(5))
        await until(lambda: rig.all_in("published", 5))
    assert [event.message_id for event in seen.events] == [1, 2, 3, 4, 5]


async def test_a_body_that_redis_dropped_is_read_from_the_database(rig: ConsumerRig) -> None:
    seen = Seen()
    await rig.store(new(1))
    async with rig.running(poller(rig, database_polls=10_000), seen):
        await rig.cache(new(1))
        await until(lambda: rig.all_in("published", 1))
        await rig.store(new(2))
        await rig.redis.zadd(
            f"telegram:channel:{new(2).chat_key}:recent", {"2": utc_now().timestamp() * 1000}
        )
        await until(lambda: rig.all_in("published", 2))


async def test_a_poll_of_the_database_warms_redis(rig: ConsumerRig) -> None:
    await rig.store(new(1))
    async with rig.running(poller(rig), Seen()):
        await until(lambda: rig.all_in("published", 1))
    assert await rig.redis.exists(f"telegram:msg:{new(1).chat_key}:1")
    assert await rig.redis.zrange(f"telegram:channel:{new(1).chat_key}:recent", 0, -1) == ["1"]


@pytest.mark.parametrize("away", ["redis", "rabbitmq", "both"])
async def test_the_poller_reads_with_redis_or_rabbitmq_away(rig: ConsumerRig, away: str) -> None:
    options: dict[str, object] = {}
    if away != "rabbitmq":
        options["redis_url"] = NOTHING
    if away != "redis":
        options["rabbitmq_url"] = NO_BROKER

    async def handle(event: Event) -> None:
        if event.message_id == 2:
            raise Rejected("no signal")

    await rig.store(new(1), new(2), new(3))
    async with rig.running(poller(rig, **options), handle):
        await until(lambda: rig.all_in("published", 2))
        await until(lambda: rig.all_in("failed", 1))
        await rig.store(new(4))
        await until(lambda: rig.all_in("published", 3))
    assert len(await rig.letters()) == (1 if away == "redis" else 0)
    assert (rig.metric("fallbacks_total") > 0) == (away != "rabbitmq")


async def test_redis_alone_feeds_a_consumer_that_keeps_its_state_there(rig: ConsumerRig) -> None:
    seen = Seen()
    await rig.cache(new(1), new(2))
    settings = {"state": "redis", "database_dsn": None, "chats": (new(1).channel_id,)}
    async with rig.running(poller(rig, **settings), seen):
        await until(lambda: seen.numbers == [1, 2])
        await polled(rig, 3)
    assert seen.numbers == [1, 2]


async def test_a_message_that_was_edited_before_the_poll_comes_once_as_it_reads_now(rig: ConsumerRig) -> None:
    seen = Seen()
    first, second = new(1), new(2)
    edit = edited(1, "ATIVO PETR4", telegram_date=first.telegram_date)
    await rig.store(first, second, edit)
    await rig.cache(first, second, edit)
    async with rig.running(poller(rig), seen):
        await until(lambda: rig.all_in("published", 2))
        await rig.store(edited(2, "later", seconds=5, telegram_date=second.telegram_date))
        await polled(rig, 12)
    assert [(event.id, event.kind, event.text) for event in seen.events] == [
        (first.id, "message.new", "ATIVO PETR4"),
        (second.id, "message.new", second.text),
    ]


async def test_edits_and_deletions_are_effects_of_their_own(rig: ConsumerRig) -> None:
    seen = Seen()
    first, edit, again = new(1), edited(1, "a"), edited(1, "b", seconds=1)
    await rig.store(first, edit, again, deleted(1))
    kinds = ("message.new", "message.edited", "message.deleted")
    for _ in range(2):
        async with rig.running(poller(rig, kinds=kinds), seen):
            await until(lambda: len(seen.events) == 4)
            await polled(rig, 3)
    assert [event.id for event in seen.events] == [first.id, edit.id, again.id, deleted(1).id]


async def test_private_chats_are_polled_per_account(rig: ConsumerRig) -> None:
    seen = Seen()
    events = [
        new(1, channel="99", scope=1001),
        new(1, channel="99", scope=1002),
        new(1, channel="98", scope=7),
    ]
    await rig.store(*events)
    async with rig.running(poller(rig, chats=("99",)), seen):
        await until(lambda: len(seen.events) == 2)
        await rig.cache(new(2, channel="99", scope=1002))
        await until(lambda: len(seen.events) == 3)
    assert sorted(seen.chats) == ["1001/99", "1002/99"]


async def test_a_parked_event_is_a_dead_letter_and_what_is_sent_back_is_handled(rig: ConsumerRig) -> None:
    mended = False

    async def handle(event: Event) -> None:
        if not mended:
            raise ValueError("no such ticker")

    await rig.store(new(1))
    async with rig.running(poller(rig), handle):
        await until(lambda: rig.all_in("failed", 1))
        (letter,) = await rig.letters()
        assert letter.headers["x-reason"] == "ValueError: no such ticker"
        assert (letter.headers["x-attempts"], letter.headers["x-queue"]) == (3, rig.queue)
        mended = True
        await rig.publish_raw(letter.body, str(letter.headers["x-queue"]), **{"x-requeued": 1})
        await until(lambda: rig.all_in("published", 1))


async def test_a_chat_that_waits_does_not_hide_the_others_from_the_poller(rig: ConsumerRig) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        if event.channel_id == chat(1):
            raise ValueError("always")
        handled.append(event.message_id)

    await rig.store(*(new(number, channel=chat(1)) for number in range(1, 61)))
    await rig.store(*(new(number, channel=chat(2)) for number in range(61, 81)))
    hours = timedelta(hours=1)
    settings = {"page": 10, "database_polls": 1, "first_delay": hours, "longest_delay": hours}
    async with rig.running(poller(rig, **settings), handle):
        await until(lambda: len(handled) == 20)
    assert handled == list(range(61, 81))


async def test_an_event_that_killed_its_process_again_and_again_is_given_up(rig: ConsumerRig) -> None:
    seen = Seen()
    await rig.store(new(1), new(2))
    # What two processes left behind that died while they handled message 1.
    await rig.database.execute(
        "INSERT INTO telegram_gateway.message_processing "
        "(consumer, account_scope, channel_id, message_id, status, attempts, error) "
        "VALUES ($1, 0, $2, 1, 'received', 2, $3)",
        rig.name,
        new(1).channel_id,
        BEGUN,
    )
    async with rig.running(poller(rig), seen):
        await until(lambda: rig.all_in("failed", 1))
        await until(lambda: rig.all_in("published", 1))
    assert seen.numbers == [2]
    (letter,) = await rig.letters()
    assert "died" in str(letter.headers["x-reason"])


async def test_the_hybrid_catches_what_the_queue_lost(rig: ConsumerRig) -> None:
    seen = Seen()
    await rig.declare()
    await rig.everywhere(*(new(n, received_at=utc_now() - timedelta(minutes=1)) for n in (1, 2, 3)))
    await rig.purge()
    async with rig.running(hybrid(rig, catch_up_interval=timedelta(seconds=0.3)), seen):
        await rig.everywhere(new(4))
        await until(lambda: rig.all_in("published", 4))
        await until(lambda: rig.metric("poll_seconds_count") > 3)
    assert seen.numbers == [1, 2, 3, 4]
    assert rig.metric("received_total", source="database") == 3


async def test_the_hybrid_leaves_to_the_queue_what_it_has_had_no_time_for(rig: ConsumerRig) -> None:
    seen = Seen()
    async with rig.running(hybrid(rig, catch_up_interval=timedelta(seconds=0.05)), seen):
        await until(lambda: rig.metric("queue_connected") == 1)
        await rig.store(new(1))
        await polled(rig, 3)
        assert seen.numbers == []
        await rig.store(new(2, received_at=utc_now() - timedelta(minutes=1)))
        await until(lambda: rig.all_in("published", 1))
        assert seen.numbers == [2]


async def test_with_rabbitmq_stopped_the_hybrid_polls_and_nothing_happens_twice_afterwards(
    rig: ConsumerRig,
) -> None:
    seen = Seen()
    # So long after the poll before that it polls because the queue is gone, and for nothing else.
    async with rig.running(hybrid(rig, catch_up_interval=timedelta(hours=1)), seen):
        await until(lambda: rig.metric("queue_connected") == 1)
        await rig.everywhere(*(new(number, channel=chat(number % 3)) for number in range(1, 31)))
        await until(lambda: rig.all_in("published", 30))
        # RabbitMQ 3.10 never finds a leader for a queue that is younger than about a second.
        await asyncio.sleep(2)
        await rig.stack.rabbitmq.kill()
        stored = [new(number, channel=chat(number % 3)) for number in range(31, 61)]
        await rig.store(*stored)
        await until(lambda: rig.all_in("published", 60))
        await rig.stack.rabbitmq.start()
        await until(lambda: rig.metric("queue_connected") == 1)
        await rig.publish(*stored, new(61))  # as the gateway does when its broker returns
        await until(lambda: rig.all_in("published", 61))
        await until(lambda: rig.metric("handled_total", outcome="duplicate") >= 30)
    assert seen.numbers == list(range(1, 62))


async def test_with_redis_stopped_everything_goes_on(rig: ConsumerRig) -> None:
    seen = Seen()
    async with rig.running(hybrid(rig), seen):
        await until(lambda: rig.metric("queue_connected") == 1)
        await rig.stack.redis.stop()
        try:
            await rig.publish(*(new(number) for number in range(1, 31)))
            await until(lambda: rig.all_in("published", 30))
        finally:
            await rig.stack.redis.start()
    assert seen.numbers == list(range(1, 31))


async def test_with_the_database_stopped_the_consumer_waits_and_then_goes_on(rig: ConsumerRig) -> None:
    seen = Seen()
    async with rig.running(hybrid(rig), seen):
        await until(lambda: rig.metric("queue_connected") == 1)
        await rig.stack.pgbouncer.stop()
        try:
            await rig.publish(*(new(number) for number in range(1, 31)))
            await until(lambda: rig.metric("received_total", source="queue") >= 5)
            assert seen.numbers == []
        finally:
            await rig.stack.pgbouncer.start()
        await until(lambda: rig.all_in("published", 30))
    assert seen.numbers == list(range(1, 31))


async def test_a_poller_that_keeps_no_state_is_refused(rig: ConsumerRig) -> None:
    with pytest.raises(ConfigurationError, match="state"):
        await poller(rig, state="none").run(Seen())


async def test_the_poller_hands_on_the_gateways_own_event(rig: ConsumerRig) -> None:
    seen = Seen()
    event = new(1)
    await rig.cache(event)
    await rig.database.execute(
        "INSERT INTO telegram_gateway.channels (account_scope, id, type, seen_at) "
        "VALUES (0, $1, 'channel', now())",
        event.channel_id,
    )
    async with rig.running(poller(rig), seen):
        await until(lambda: len(seen.events) == 1)
    assert encode(seen.events[0]) == encode(event)
    async with await aio_pika.connect(rig.stack.rabbitmq.url) as connection:
        await (await connection.channel()).queue_delete(rig.queue)
