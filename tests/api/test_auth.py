"""Tokens: who gets in, for how long, and what happens while the servers behind them are down."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio

from gateway.api.auth import FRESH_SECONDS
from gateway.localstack import LocalStack
from gateway.tokens import hash_of
from tests.api.conftest import Api, migrated, running_api, telegram_gateway

STATUS = "/api/gateway/status"
GAPS = "/api/gateway/gaps"


@pytest_asyncio.fixture(scope="module")
async def alone() -> AsyncIterator[LocalStack]:
    """A database of its own, to be stopped."""
    async with migrated(("postgres", "pgbouncer", "redis")) as stack:
        yield stack


async def until(answer: Callable[[], Awaitable[httpx.Response]], code: int, within: float = 90.0) -> float:
    """After how long the last request began whose answer had another status; 0 where none had.

    How long an answer takes on its way is the machine's affair.
    """
    started = time.monotonic()
    last = 0.0
    async with asyncio.timeout(within):
        while True:
            began = time.monotonic()
            if (await answer()).status_code == code:
                return last
            last = began - started
            await asyncio.sleep(0.05)


async def quickest(answer: Callable[[], Awaitable[httpx.Response]], limit: float, pause: float) -> float:
    """How long a 200 takes: asked up to three times, for the machine may stumble."""
    took = limit
    for _ in range(3):
        started = time.monotonic()
        assert (await answer()).status_code == 200
        took = min(took, time.monotonic() - started)
        if took < limit:
            break
        await asyncio.sleep(pause)
    return took


async def command(api: Api, *arguments: str, code: int = 0) -> str:
    return await telegram_gateway(api.environment, "token", *arguments, code=code)


async def test_a_token_made_on_the_command_line_opens_the_api_in_either_header(api: Api) -> None:
    printed = await command(api, "create", "--name", "either header", "--scope", "read")
    secret = printed.splitlines()[0]
    assert secret.startswith("tgw_")
    client = api.client_with(None)
    for headers in ({"Authorization": f"Bearer {secret}"}, {"X-API-Token": secret}):
        assert (await client.get(STATUS, headers=headers)).status_code == 200
    listed = await command(api, "list")
    assert "either header" in listed
    assert secret[:10] in listed
    assert secret not in listed


async def test_only_the_hash_of_a_token_is_in_the_database(api: Api) -> None:
    secret = await api.token()
    connection = await asyncpg.connect(api.stack.postgres.dsn)
    try:
        rows = await connection.fetch("SELECT * FROM telegram_gateway.api_tokens")
    finally:
        await connection.close()
    assert hash_of(secret) in [row["hash"] for row in rows]
    assert secret not in str([dict(row) for row in rows])


async def test_the_name_of_a_living_token_is_not_given_twice(api: Api) -> None:
    await command(api, "create", "--name", "twice", "--scope", "read")
    assert "already" in await command(api, "create", "--name", "twice", "--scope", "read", code=78)
    await command(api, "revoke", "twice")
    await command(api, "create", "--name", "twice", "--scope", "read")


async def test_no_token_and_a_wrong_token_are_told_how_to_authenticate(api: Api) -> None:
    for token in (None, "tgw_" + "x" * 43, "garbage", "tgw_" + "x" * 4000):
        answer = await api.client_with(token).get(STATUS)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Bearer realm="telegram-gateway"')
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 401


async def test_a_scope_includes_the_ones_below_it_and_a_missing_one_is_named(api: Api) -> None:
    assert (await api.client(scopes=("admin",)).get(STATUS)).status_code == 200
    answer = await api.client(scopes=("process",)).get(GAPS)
    assert answer.status_code == 403
    assert answer.json()["missingScope"] == "admin"
    assert 'scope="admin"' in answer.headers["www-authenticate"]


async def test_a_revoked_token_stops_working_within_seconds(api: Api) -> None:
    secret = await api.token()
    client = api.client_with(secret)
    assert (await client.get(STATUS)).status_code == 200
    assert secret[:10] in await command(api, "revoke", secret[:10])
    assert await until(lambda: client.get(STATUS), 401) < FRESH_SECONDS + 5


async def test_a_token_expires_though_it_was_looked_up_before(api: Api) -> None:
    for seconds in (1.5, 6.0, 24.0):  # a slow machine needs longer to look it up at all
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        client = api.client_with(await api.token(expires_at=expires_at))
        if (await client.get(STATUS)).status_code == 200:
            break
    else:
        pytest.fail("it never held")
    left = (expires_at - datetime.now(UTC)).total_seconds()
    assert await until(partial(client.get, STATUS), 401) < max(left, 0.0) + 1
    answer = await client.get(STATUS)
    assert "expired" in answer.json()["detail"]


async def test_the_last_use_of_a_token_is_written_down_at_the_latest_when_the_api_stops(
    stack: LocalStack, tmp_path: Path
) -> None:
    began = datetime.now(UTC)
    async with running_api(stack, tmp_path) as api:
        secret = await api.token()
        client = api.client_with(secret)
        for _ in range(20):
            await client.get(STATUS)
    connection = await asyncpg.connect(stack.postgres.dsn)
    try:
        used = await connection.fetchval(
            "SELECT last_used_at FROM telegram_gateway.api_tokens WHERE hash = $1", hash_of(secret)
        )
    finally:
        await connection.close()
    assert began < used < datetime.now(UTC)


async def test_without_the_database_known_tokens_go_on_and_of_unknown_ones_nothing_is_claimed(
    alone: LocalStack, tmp_path: Path
) -> None:
    async with running_api(alone, tmp_path) as api:
        known = api.client()
        assert (await known.get(STATUS)).status_code == 200
        for server in (alone.pgbouncer, alone.postgres):
            other = api.client_with(await api.token())
            await server.kill()
            # Beyond the time for which a token is believed without asking.
            await asyncio.sleep(FRESH_SECONDS)
            assert await quickest(partial(known.get, STATUS), limit=8.0, pause=FRESH_SECONDS) < 8
            refused = await other.get(STATUS)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert (await api.client_with("tgw_" + "y" * 43).get(STATUS)).status_code == 503
            await server.start()
            await until(partial(other.get, STATUS), 200)


async def test_an_address_that_guesses_is_slowed_down_while_good_tokens_go_on(
    stack: LocalStack, tmp_path: Path
) -> None:
    async with running_api(stack, tmp_path, {"TELEGRAM_API_FAILED_LIMIT": "5"}) as api:
        good = api.client()
        assert (await good.get(STATUS)).status_code == 200
        began = time.monotonic()
        codes = [
            (await api.client_with("tgw_" + f"{number}" * 43).get(STATUS)).status_code for number in range(8)
        ]
        freed = int((time.monotonic() - began) * 5 / 60)  # one more failure every twelve seconds
        assert codes[:5] == [401] * 5
        assert 3 - freed <= codes.count(429) <= 3
        refused = await api.client_with(None).get(STATUS)
        while refused.status_code != 429:  # one more may have become free since
            assert refused.status_code == 401
            refused = await api.client_with(None).get(STATUS)
        assert int(refused.headers["retry-after"]) > 0
        assert (await good.get(STATUS)).status_code == 200


async def test_neither_tokens_nor_searches_are_in_the_log(stack: LocalStack, tmp_path: Path) -> None:
    async with running_api(stack, tmp_path, {"TELEGRAM_LOG_LEVEL": "DEBUG"}) as api:
        secret = await api.token()
        await api.client_with(secret).get(STATUS, params={"search": "a private matter"})
        await api.client_with("tgw_wrong").get(STATUS)
        assert "/api/gateway/status" in api.log
        for forbidden in (secret, secret[4:], "private", "tgw_wrong"):
            assert forbidden not in api.log
