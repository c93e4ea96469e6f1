"""The Redis sink against real servers: keys, order of revisions, restarts and a failover under load."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.errors import ConfigurationError, SinkUnavailable
from gateway.event import encode
from gateway.journal import Batch, Journal
from gateway.localstack.stack import LocalStack
from gateway.sinks import redis as redis_module
from gateway.sinks.redis import RedisSink
from gateway.sinks.runner import SinkRunner
from tests.clock import ticking
from tests.sink_events import CHANNEL, days_ago, deleted, edited, new, records


@pytest_asyncio.fixture(scope="module")
async def stack() -> AsyncIterator[LocalStack]:
    """A Redis of these tests alone, without Sentinels: they would replace it while it is frozen or down."""
    async with LocalStack(servers=("redis",)) as running:
        yield running


@pytest.fixture
async def redis(stack: LocalStack) -> AsyncIterator[Any]:
    """A client of an empty Redis; Any, because redis-py's commands are typed `Awaitable[T] | T`."""
    client = Redis.from_url(stack.environment["TELEGRAM_REDIS_URL"], decode_responses=True)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def sink(stack: LocalStack) -> AsyncIterator[RedisSink]:
    sink = RedisSink(stack.environment["TELEGRAM_REDIS_URL"])
    await sink.open()
    yield sink
    await sink.close()


def message_key(message: int, chat: str = CHANNEL) -> str:
    return f"telegram:msg:{chat}:{message}"


def dedup_key(message: int, chat: str = CHANNEL) -> str:
    return f"telegram:dedup:{chat}:{message}"


def recent_key(chat: str = CHANNEL) -> str:
    return f"telegram:channel:{chat}:recent"


def mark_key(chat: str = CHANNEL) -> str:
    return f"{recent_key(chat)}:mark"


async def test_a_new_message_is_in_all_three_places(sink: RedisSink, redis: Any) -> None:
    event = new(41)
    started = time.monotonic()
    await sink.deliver(records(event))
    assert await redis.get(message_key(41)) == encode(event).decode()
    assert await redis.get(dedup_key(41)) == event.id
    lifetimes = {message_key(41): 3600, dedup_key(41): 7200, recent_key(): 3600, mark_key(): 3600}
    for key, seconds in lifetimes.items():
        left = await redis.ttl(key)
        assert seconds - 1 - (time.monotonic() - started) <= left <= seconds
    assert event.telegram_date is not None
    assert await redis.zrange(recent_key(), 0, -1, withscores=True) == [
        ("41", int(event.telegram_date.timestamp() * 1000))
    ]
    assert sorted(await redis.keys("*")) == sorted(lifetimes)


async def test_chats_that_count_ids_per_account_keep_the_account_in_their_keys(
    sink: RedisSink, redis: Any
) -> None:
    ours, theirs = new(41, channel="99", scope=1001), new(41, channel="99", scope=1002)
    await sink.deliver(records(ours, theirs))
    assert await redis.get(message_key(41, "1001/99")) == encode(ours).decode()
    assert await redis.get(message_key(41, "1002/99")) == encode(theirs).decode()
    assert await redis.zcard(recent_key("1001/99")) == 1


async def test_an_edit_replaces_the_body_and_keeps_the_message_in_its_place(
    sink: RedisSink, redis: Any
) -> None:
    first = new(41)
    edit = edited(41, "VENDA", telegram_date=first.telegram_date)
    await sink.deliver(records(first, new(42), edit))
    assert await redis.get(message_key(41)) == encode(edit).decode()
    assert await redis.get(dedup_key(41)) == edit.id
    assert await redis.zrange(recent_key(), 0, -1) == ["41", "42"]


async def test_a_deletion_removes_the_message_and_stays_known(sink: RedisSink, redis: Any) -> None:
    await sink.deliver(records(new(41), new(42)))
    await sink.deliver(records(deleted(41)))
    assert await redis.get(message_key(41)) is None
    assert await redis.zrange(recent_key(), 0, -1) == ["42"]
    assert await redis.get(dedup_key(41)) == deleted(41).id


async def test_an_older_revision_never_overwrites_a_newer_one(sink: RedisSink, redis: Any) -> None:
    first, second, third = new(41), edited(41, "alvo 33", seconds=10), edited(41, "alvo 34", seconds=20)
    revisions = [first, second, third, deleted(41)]
    for order in itertools.permutations(revisions[:3]):
        await redis.flushdb()
        for event in order:
            await sink.deliver(records(event))
        assert await redis.get(message_key(41)) == encode(third).decode()
        assert await redis.get(dedup_key(41)) == third.id
    for order in itertools.permutations(revisions):
        await redis.flushdb()
        await sink.deliver(records(*order))
        assert await redis.get(message_key(41)) is None
        assert await redis.zcard(recent_key()) == 0
        assert await redis.get(dedup_key(41)) == deleted(41).id


async def test_a_repeated_batch_changes_nothing(sink: RedisSink, redis: Any) -> None:
    batch = records(new(41), edited(41, "a"), new(42), deleted(42), new(43))

    async def content() -> dict[str, Any]:
        kinds = {key: await redis.type(key) for key in await redis.keys("*")}
        return {
            key: await (redis.zrange(key, 0, -1, withscores=True) if kind == "zset" else redis.get(key))
            for key, kind in kinds.items()
            if key != mark_key()
        }

    await sink.deliver(batch)
    once = await content()
    await sink.deliver(batch)
    assert await content() == once


async def test_recent_holds_the_last_hour_only(sink: RedisSink, redis: Any) -> None:
    await redis.zadd(recent_key(), {"1": (time.time() - 3700) * 1000})
    await sink.deliver(records(new(40, telegram_date=days_ago(2)), new(41)))
    assert await redis.zrange(recent_key(), 0, -1) == ["41"]
    # It arrived now, however old: whoever polls must find it.
    assert await redis.exists(message_key(40))


async def test_old_history_does_not_become_hot_but_corrects_what_is(sink: RedisSink, redis: Any) -> None:
    old = days_ago(30)
    await sink.deliver(records(new(40, telegram_date=old, source="backfill")))
    assert await redis.keys("*") == []
    await sink.deliver(records(new(40, telegram_date=old)))
    correction = edited(40, "errata", seconds=-7200, telegram_date=old, source="backfill")
    await sink.deliver(records(correction))
    assert await redis.get(message_key(40)) == encode(correction).decode()


async def test_a_key_of_another_type_is_replaced(sink: RedisSink, redis: Any) -> None:
    await redis.set(recent_key(), "text")
    await redis.lpush(dedup_key(41), "list")
    await redis.lpush(message_key(41), "list")
    await sink.deliver(records(new(41)))
    assert await redis.get(dedup_key(41)) == new(41).id
    assert await redis.zrange(recent_key(), 0, -1) == ["41"]


async def test_more_than_one_chunk_is_delivered_whole(sink: RedisSink, redis: Any) -> None:
    await sink.deliver(records(*(new(message) for message in range(1, 601))))
    assert await redis.zcard(recent_key()) == 600
    assert await redis.dbsize() == 1202


async def test_flushed_scripts_are_loaded_again(sink: RedisSink, redis: Any) -> None:
    await redis.script_flush()
    await sink.deliver(records(new(41)))
    assert await redis.exists(message_key(41))


async def test_a_wrong_password_says_what_to_do(stack: LocalStack) -> None:
    sink = RedisSink(stack.environment["TELEGRAM_REDIS_URL"], password="wrong")
    with pytest.raises(ConfigurationError, match="TELEGRAM_REDIS_PASSWORD"):
        await sink.open()
    await sink.close()


async def test_nobody_listening_is_an_outage() -> None:
    sink = RedisSink("redis://127.0.0.1:1/0")
    with pytest.raises(SinkUnavailable):
        await sink.open()
    await sink.close()


async def test_a_full_server_is_an_outage(sink: RedisSink, redis: Any) -> None:
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", "100kb")  # less than it needs for itself
    try:
        with pytest.raises(SinkUnavailable, match="maxmemory"):
            await sink.deliver(records(new(41)))
    finally:
        await redis.config_set("maxmemory", "1gb")
        await redis.config_set("maxmemory-policy", "allkeys-lru")


async def test_a_frozen_server_is_noticed_in_time(stack: LocalStack, sink: RedisSink) -> None:
    stack.redis.pause()
    try:
        async with ticking() as clock:
            with pytest.raises(SinkUnavailable):
                await sink.deliver(records(new(41)))
            assert clock.time() < 5
    finally:
        stack.redis.resume()
        await stack.redis.wait_ready()


@contextlib.asynccontextmanager
async def running(runner: SinkRunner) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        yield
        task.cancel()


async def test_after_a_restart_that_lost_everything_it_goes_on(
    stack: LocalStack, redis: Any, tmp_path: Path
) -> None:
    async with Journal(tmp_path / "journal.db", sinks=("redis",)) as journal:
        runner = SinkRunner(RedisSink(stack.environment["TELEGRAM_REDIS_URL"]), journal)
        async with running(runner):
            await journal.append(Batch("main", [new(message) for message in range(1, 101)]))
            async with asyncio.timeout(90):
                await runner.wait_caught_up(100)
            await stack.redis.kill()
            await journal.append(Batch("main", [new(message) for message in range(101, 201)]))
            await stack.redis.start()
            async with asyncio.timeout(90):
                await runner.wait_caught_up(200)
    await redis.connection_pool.disconnect()
    assert await redis.dbsize() == 202
    assert await redis.zcard(recent_key()) == 100


def sentinel_sink(stack: LocalStack) -> RedisSink:
    settings = stack.sentinel_environment
    return RedisSink(
        None,
        password=settings["TELEGRAM_REDIS_PASSWORD"],
        sentinels=settings["TELEGRAM_REDIS_SENTINELS"].split(","),
        sentinel_password=settings["TELEGRAM_REDIS_SENTINEL_PASSWORD"],
        master=settings["TELEGRAM_REDIS_MASTER"],
    )


async def test_a_failover_under_load_goes_on_with_the_new_master(tmp_path: Path) -> None:
    # A machine that stands still for two seconds makes the Sentinels wait for half a minute: once more then.
    for attempt in range(3):
        if (took := await seconds_of_a_failover(tmp_path / f"{attempt}.db")) < 15:
            break
    assert took < 15


async def seconds_of_a_failover(path: Path) -> float:
    """How long nothing was written when the master froze under load; and nothing was lost."""
    async with (
        LocalStack(servers=("redis", "redis_replica", "sentinels")) as stack,
        Journal(path, sinks=("redis",)) as journal,
    ):
        runner = SinkRunner(sentinel_sink(stack), journal, linger_seconds=0.01)
        posted = 0

        async def post(seconds: float) -> None:
            nonlocal posted
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await journal.append(Batch("main", [new(posted + 1), new(posted + 2)]))
                posted += 2
                await asyncio.sleep(0.02)

        async with running(runner):
            await post(1)
            # Frozen, not ended: it keeps its connections, and comes back believing it is still the master.
            stack.redis.pause()
            before = posted
            started = time.monotonic()
            await post(0.5)
            async with asyncio.timeout(120):
                await runner.wait_caught_up(before + 2)
            took = time.monotonic() - started
            after_failover = posted
            stack.redis.resume()
            await post(2)
            async with asyncio.timeout(120):
                await runner.wait_caught_up(posted)
        for message in range(before + 1, posted + 1):
            assert await stack.redis_replica.ask("EXISTS", message_key(message)) == 1, message
        assert (await stack.redis_replica.ask("ROLE"))[0] == "master"
        assert posted > after_failover
    return took


async def test_a_master_that_was_voted_out_is_left_although_it_still_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_module, "MASTER_CHECK_INTERVAL", 0)
    async with LocalStack(servers=("redis", "redis_replica", "sentinels")) as stack:
        sink = sentinel_sink(stack)
        await sink.open()
        await sink.deliver(records(new(1)))
        for sentinel in stack.sentinels:  # before there are two masters, one of which they would put right
            await sentinel.ask("SENTINEL", "REMOVE", "telegram")
        await stack.redis_replica.ask("REPLICAOF", "NO", "ONE")
        for sentinel in stack.sentinels:
            await sentinel.ask("SENTINEL", "MONITOR", "telegram", "127.0.0.1", stack.redis_replica.port, 2)
            await sentinel.ask("SENTINEL", "SET", "telegram", "auth-pass", stack.passwords.redis)
        with pytest.raises(SinkUnavailable, match="moved the master"):
            await sink.deliver(records(new(2)))
        await sink.open()
        await sink.deliver(records(new(2)))
        assert await stack.redis_replica.ask("EXISTS", message_key(2)) == 1
        assert await stack.redis.ask("EXISTS", message_key(2)) == 0
        await sink.close()


async def test_no_sentinel_listening_is_an_outage() -> None:
    sink = RedisSink(None, sentinels=("127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(SinkUnavailable, match="TELEGRAM_REDIS_SENTINEL_PASSWORD"):
        await sink.open()
    await sink.close()
