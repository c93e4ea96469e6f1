"""How much a token may ask for: across processes, with and without Redis."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from gateway.localstack import LocalStack
from tests.api.conftest import Api, migrated, running_api

STATUS = "/api/gateway/status"
LIMIT = 30


@pytest_asyncio.fixture(scope="module")
async def alone() -> AsyncIterator[LocalStack]:
    """A Redis of its own, to be stopped."""
    async with migrated(("postgres", "pgbouncer", "redis")) as stack:
        yield stack


@pytest_asyncio.fixture
async def limited(alone: LocalStack, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(alone, tmp_path, {"TELEGRAM_API_RATE_LIMIT": str(LIMIT)}) as api:
        yield api


async def exhaust(*clients: httpx.AsyncClient) -> list[int]:
    """The codes of more requests than the limit, turn by turn."""
    turns = range(LIMIT + 10)
    return [(await clients[turn % len(clients)].get(STATUS)).status_code for turn in turns]


async def test_a_token_that_asks_too_much_is_told_when_to_come_back(limited: Api) -> None:
    client = limited.client()
    first = await client.get(STATUS)
    assert first.headers["ratelimit-policy"] == f'"requests";q={LIMIT};w=60'
    assert first.headers["ratelimit"].startswith(f'"requests";r={LIMIT - 1};t=')
    codes = await exhaust(client)
    assert LIMIT - 1 <= codes.count(200) <= LIMIT + 1
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
    async with running_api(alone, tmp_path, {"TELEGRAM_API_RATE_LIMIT": str(LIMIT)}) as second:
        clients = [api.client_with(secret) for api in (limited, second)]
        allowed = 0
        # Slower than each process tells Redis what it let through.
        for _ in range(LIMIT):
            answers = await asyncio.gather(*(client.get(STATUS) for client in clients))
            allowed += sum(answer.status_code == 200 for answer in answers)
            await asyncio.sleep(0.11)
        # 3.3 s and more have gone by, in which one more becomes free every 2 s.
        assert LIMIT <= allowed <= LIMIT + 8


@pytest.mark.parametrize("outage", ["from the start", "in between"])
async def test_without_redis_each_process_counts_for_itself(
    alone: LocalStack, tmp_path: Path, outage: str
) -> None:
    async with running_api(alone, tmp_path, {"TELEGRAM_API_RATE_LIMIT": str(LIMIT)}) as api:
        client = api.client()
        if outage == "in between":
            assert (await client.get(STATUS)).status_code == 200
        await alone.redis.kill()
        try:
            codes = await exhaust(client)
        finally:
            await alone.redis.start()
        assert set(codes) == {200, 429}
        assert LIMIT - 1 <= codes.count(200) <= LIMIT + 1
