"""Cached answers: as fast as they are, they never contradict an ack, whatever happens to Redis meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiomisc.pytest import TCPProxy
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import Request

from gateway.api import caching
from gateway.api.auth import Caller
from gateway.api.caching import ResponseCache, answer
from gateway.api.connections import open_redis
from gateway.generations import generation_key, renew
from gateway.localstack import LocalStack
from gateway.settings import load_settings

ALL = Caller(1, "all", frozenset({"read"}), None)
SOME = Caller(2, "some", frozenset({"read"}), frozenset({"-1001", "-1002"}))
MARK = generation_key("tp-capital")


class Store:
    """What the cache stands before: counts how often it was asked."""

    def __init__(self) -> None:
        self.value = b"unprocessed"
        self.asked = 0

    async def __call__(self) -> bytes:
        self.asked += 1
        return self.value


@pytest_asyncio.fixture(scope="module")
async def servers() -> AsyncIterator[LocalStack]:
    """Redis with a replica and Sentinels of its own, to be failed over."""
    async with LocalStack(servers=("redis", "redis_replica", "sentinels")) as running:
        yield running


@asynccontextmanager
async def connected(environment: dict[str, str]) -> AsyncIterator[Redis]:
    settings = load_settings(**{name.removeprefix("TELEGRAM_").lower(): v for name, v in environment.items()})
    client = open_redis(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def redis(servers: LocalStack) -> AsyncIterator[Redis]:
    async with connected(servers.environment) as client:
        await client.flushall()
        yield client


@pytest.fixture
def cache(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> ResponseCache:
    """With a Redis that is never taken for a slow one, and so for none, when the machine stumbles."""
    monkeypatch.setattr(caching, "ANSWER_SECONDS", 60.0)
    return ResponseCache(redis)


async def ask(cache: ResponseCache, store: Store, caller: Caller = ALL, *parts: object) -> bytes:
    return await cache.cached(("unprocessed", *parts), [MARK], store, caller=caller)


async def test_an_answer_is_computed_once_for_all_who_see_the_same(cache: ResponseCache) -> None:
    store = Store()
    assert [await ask(cache, store) for _ in range(3)] == [b"unprocessed"] * 3
    assert store.asked == 1
    await ask(cache, store, SOME)
    await ask(cache, store, ALL, "another question")
    assert store.asked == 3


async def test_after_each_ack_nothing_older_is_served(cache: ResponseCache) -> None:
    store = Store()
    await ask(cache, store)
    for number in range(3):
        store.value = b"%d processed" % number
        await cache.changed(MARK)
        assert await ask(cache, store) == store.value


async def test_an_ack_of_another_process_counts_as_well(cache: ResponseCache, redis: Redis) -> None:
    store = Store()
    await ask(cache, store)
    store.value = b"processed"
    await renew(redis, MARK)
    assert await ask(cache, store) == b"processed"


async def test_what_was_being_computed_during_an_ack_is_not_kept(cache: ResponseCache) -> None:
    store, read, acknowledged = Store(), asyncio.Event(), asyncio.Event()

    async def slow() -> bytes:
        value = await store()
        read.set()
        await acknowledged.wait()
        return value

    async with asyncio.TaskGroup() as group:
        under_way = group.create_task(cache.cached(("unprocessed",), [MARK], slow, caller=ALL))
        await read.wait()
        store.value = b"processed"
        await cache.changed(MARK)
        acknowledged.set()
    assert under_way.result() == b"unprocessed"  # it was asked for before the ack
    assert await ask(cache, store) == b"processed"


async def test_a_mark_that_redis_evicted_begins_anew_and_never_as_before(
    cache: ResponseCache, redis: Redis
) -> None:
    store = Store()
    await ask(cache, store)
    store.value = b"processed"
    await cache.changed(MARK)
    await redis.delete(MARK)
    assert await ask(cache, store) == b"processed"


async def test_cut_off_from_redis_it_computes_and_serves_nothing_of_before_once_it_is_back(
    servers: LocalStack, redis: Redis
) -> None:
    port, password = servers.redis.port, servers.passwords.redis
    async with TCPProxy("127.0.0.1", port) as line:
        url = f"redis://:{password}@127.0.0.1:{line.proxy_port}/0"
        async with connected({"TELEGRAM_REDIS_URL": url}) as client:
            cache, store = ResponseCache(client), Store()
            await ask(cache, store)
            # Redis itself lives on, with all that it has.
            with line.slowdown(3600, 3600):
                store.value = b"processed"
                await cache.changed(MARK)
                assert await ask(cache, store) == b"processed"
                await line.disconnect_all()
            async with asyncio.timeout(60):
                while not await answers(client):
                    await asyncio.sleep(0.05)
            assert await ask(cache, store) == b"processed"
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(cache.run())
                await until_kept(cache, store)
                renewing.cancel()


async def answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except RedisError:
        return False


async def until_kept(cache: ResponseCache, store: Store) -> None:
    """Returns once answers are kept again, none of which may be of before the ack."""
    async with asyncio.timeout(180):
        while True:
            asked = store.asked
            for _ in range(3):
                assert await ask(cache, store) == b"processed"
            if store.asked <= asked + 1:
                return
            await asyncio.sleep(0.2)


async def test_what_a_promoted_replica_had_not_heard_of_is_not_served() -> None:
    async with LocalStack(servers=("redis", "redis_replica")) as pair:
        url = f"redis://:{pair.passwords.redis}@127.0.0.1"
        async with (
            connected({"TELEGRAM_REDIS_URL": f"{url}:{pair.redis.port}/0"}) as master,
            connected({"TELEGRAM_REDIS_URL": f"{url}:{pair.redis_replica.port}/0"}) as replica,
        ):
            before, after, store = ResponseCache(master), ResponseCache(replica), Store()
            await ask(before, store)
            async with asyncio.timeout(60):
                while await master.wait(1, 1000) < 1:
                    continue
            # What a Sentinel does, with the ack too late for the replica.
            await replica.replicaof("NO", "ONE")
            store.value = b"processed"
            await before.changed(MARK)
            assert await ask(after, store) == b"processed"


async def test_after_a_failover_answers_are_kept_again(servers: LocalStack) -> None:
    async with connected(servers.sentinel_environment) as client:
        cache, store = ResponseCache(client), Store()
        store.value = b"processed"
        await cache.changed(MARK)
        await ask(cache, store)
        await servers.redis.kill()
        await until_kept(cache, store)


def request(if_none_match: str | None = None) -> Request:
    headers = [(b"if-none-match", if_none_match.encode())] if if_none_match else []
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers})


def test_a_client_that_has_the_answer_is_told_so() -> None:
    first = answer(request(), b"[]")
    etag = first.headers["etag"]
    assert first.status_code == 200
    assert first.headers["cache-control"] == "private, no-cache"
    for sent in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = answer(request(sent), b"[]")
        assert again.status_code == 304
        assert again.body == b""
        assert again.headers["etag"] == etag
    assert answer(request(etag), b"[1]").status_code == 200


def test_no_answer_is_kept_for_longer_than_half_a_minute() -> None:
    assert caching.LONGEST_SECONDS <= 30
