"""How much a token may ask for: across processes, with and without Redis."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from gateway.localstack import LocalStack
from tests.api.conftest import Api, migrated, running_api

STATUS = "/api/gateway/status"
LIMIT = 30
SETTINGS = {"TELEGRAM_API_RATE_LIMIT": str(LIMIT), "TELEGRAM_LOG_LEVEL": "DEBUG"}


@pytest_asyncio.fixture(scope="module")
async def alone() -> AsyncIterator[LocalStack]:
    """A Redis of its own, to be stopped."""
    async with migrated(("postgres", "pgbouncer", "redis")) as stack:
        yield stack


@pytest_asyncio.fixture
async def limited(alone: LocalStack, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(alone, tmp_path, SETTINGS) as api:
        yield api


async def exhaust(client: httpx.AsyncClient) -> tuple[list[int], float]:
    """The codes of requests until ten of them were refused, and how many became free again meanwhile."""
    begun = time.monotonic()
    codes: list[int] = []
    while codes.count(429) < 10:
        codes.append((await client.get(STATUS)).status_code)
        assert codes[-1] in (200, 429)
        assert codes.count(200) <= LIMIT + 1 + freed_since(begun)
    return codes, freed_since(begun)


def freed_since(begun: float) -> float:
    """One more request every two seconds."""
    return (time.monotonic() - begun) * LIMIT / 60


async def test_a_token_that_asks_too_much_is_told_when_to_come_back(limited: Api) -> None:
    client = limited.client()
    first = await client.get(STATUS)
    assert first.headers["ratelimit-policy"] == f'"requests";q={LIMIT};w=60'
    assert first.headers["ratelimit"].startswith(f'"requests";r={LIMIT - 1};t=')
    codes, freed = await exhaust(client)
    assert codes.count(200) <= LIMIT + 1 + freed
    assert codes.count(200) >= LIMIT - 1 or counted_twice(limited)
    refused = await client.get(STATUS)
    while refused.status_code != 429:  # one more may have become free since
        refused = await client.get(STATUS)
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 60 / LIMIT + 1
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
    await asyncio.sleep(int(refused.headers["retry-after"]))
    assert (await client.get(STATUS)).status_code == 200


async def test_one_token_does_not_use_up_anothers_limit(limited: Api) -> None:
    greedy, modest = limited.client(), limited.client()
    await exhaust(greedy)
    assert (await modest.get(STATUS)).status_code == 200


async def test_two_processes_share_one_limit(limited: Api, alone: LocalStack, tmp_path: Path) -> None:
    secret = await limited.token()
    async with running_api(alone, tmp_path, SETTINGS) as second:
        clients = [api.client_with(secret) for api in (limited, second)]
        allowed, begun = 0, time.monotonic()
        # Slower than each process tells Redis what it let through.
        for _ in range(LIMIT):
            answers = await asyncio.gather(*(client.get(STATUS) for client in clients))
            allowed += sum(answer.status_code == 200 for answer in answers)
            await asyncio.sleep(0.11)
        # Each process may let some through before it hears of the other's.
        assert allowed <= LIMIT + 6 + freed_since(begun)
        assert allowed >= LIMIT or counted_twice(limited, second)


def counted_twice(*apis: Api) -> bool:
    """Whether Redis took too long for a process, which then tells it once more what it may know already."""
    return any("rate_limit_local" in api.log for api in apis)


@pytest.mark.parametrize("outage", ["from the start", "in between"])
async def test_without_redis_each_process_counts_for_itself(
    alone: LocalStack, tmp_path: Path, outage: str
) -> None:
    async with running_api(alone, tmp_path, SETTINGS) as api:
        client = api.client()
        if outage == "in between":
            assert (await client.get(STATUS)).status_code == 200
        await alone.redis.kill()
        try:
            codes, freed = await exhaust(client)
        finally:
            await alone.redis.start()
        assert set(codes) == {200, 429}
        assert LIMIT - 1 <= codes.count(200) <= LIMIT + 1 + freed
