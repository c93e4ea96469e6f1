"""What the API says of itself and of the gateway, in front of real servers that go down and a real daemon."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.demo.process import GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import Scene, phone, populate
from tests.api.conftest import Api, migrated, running_api

STATUS = "/api/gateway/status"
GAPS = "/api/gateway/gaps"
PATIENCE_SECONDS = 90.0


@pytest_asyncio.fixture(scope="module")
async def alone() -> AsyncIterator[LocalStack]:
    """Servers of these tests' own, to be stopped."""
    async with migrated(("postgres", "pgbouncer", "redis", "rabbitmq")) as stack:
        yield stack


async def settled(client: httpx.AsyncClient, problems: set[str]) -> httpx.Response:
    """The answer of /health once it names exactly these servers."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while set((answer := await client.get("/health")).json()["problems"]) != problems:
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not {problems} but {answer.json()}")
    return answer


async def test_health_names_what_is_down_and_is_503_without_both_stores(
    alone: LocalStack, tmp_path: Path
) -> None:
    async with running_api(alone, tmp_path) as api:
        client = api.client_with(None)
        answer = await settled(client, {"daemon"})
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert (await client.get("/ready")).json() == {"ready": True}

        await alone.rabbitmq.kill()
        await alone.redis.kill()
        answer = await settled(client, {"daemon", "rabbitmq", "redis"})
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert (await client.get("/ready")).status_code == 200

        # With the pooler alive, which makes its clients wait for long.
        await alone.postgres.kill()
        answer = await settled(client, {"daemon", "rabbitmq", "redis", "postgresql"})
        assert (answer.status_code, answer.json()["status"]) == (503, "down")
        assert (await client.get("/ready")).status_code == 503
        metrics = (await client.get("/metrics")).text
        assert 'telegram_gateway_api_dependency_up{name="postgresql"} 0.0' in metrics

        await asyncio.gather(alone.postgres.start(), alone.redis.start())
        assert (await settled(client, {"daemon", "rabbitmq"})).status_code == 200


async def test_a_database_without_this_versions_schema_is_a_problem_that_says_what_to_run(
    tmp_path: Path,
) -> None:
    async with (
        LocalStack(servers=("postgres", "pgbouncer", "redis")) as empty,
        running_api(empty, tmp_path) as api,
    ):
        client = api.client_with(None)
        async with asyncio.timeout(PATIENCE_SECONDS):  # a slow answer is none at first
            while "db migrate" not in (await client.get("/health")).json()["problems"]["postgresql"]:
                await asyncio.sleep(0.1)
        assert (await api.client_with("tgw_" + "x" * 43).get(STATUS)).status_code == 503


async def test_requests_are_counted_by_template_and_never_by_what_was_asked(api: Api) -> None:
    client = api.client_with(None)
    await client.get("/api/some/thing/hidden")
    await client.get(STATUS, params={"channelId": "-100987"})
    metrics = (await client.get("/metrics")).text
    assert 'requests_total{code="401",method="GET",route="/api/gateway/status"}' in metrics
    assert 'route="(none)"' in metrics
    assert "hidden" not in metrics
    assert "-100987" not in metrics


async def test_without_a_daemon_the_status_says_so_and_gaps_are_unavailable(api: Api) -> None:
    client = api.client(scopes=("admin",))
    answer = await client.get(STATUS)
    assert (answer.status_code, answer.json()["reachable"]) == (200, False)
    assert (await client.get(GAPS)).status_code == 503


class Running:
    """A daemon in the loopback Telegram, and an API that asks it."""

    def __init__(self, sandbox: Sandbox, scene: Scene, gateway: GatewayProcess, api: Api) -> None:
        self.sandbox = sandbox
        self.scene = scene
        self.gateway = gateway
        self.client = api.client(scopes=("admin",))

    async def until(self, path: str, holds: Any) -> dict[str, Any]:
        """The answer at `path` for which `holds` is true."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found: dict[str, Any] = (await self.client.get(path)).json()
                if holds(found):
                    return found
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture
async def running(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Running]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox:
        scene = populate(sandbox.world)
        gateway = GatewayProcess(
            tmp_path,
            {
                "TELEGRAM_API_ID": "1",
                "TELEGRAM_API_HASH": "sandbox",
                "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
                "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
                "TELEGRAM_ENABLE_DB": "false",
                "TELEGRAM_ENABLE_CACHE": "false",
                "TELEGRAM_ENABLE_QUEUE": "false",
            },
        )
        address = {"TELEGRAM_METRICS_ADDR": f"127.0.0.1:{gateway.port}"}
        async with running_api(stack, tmp_path, address) as api:
            try:
                await gateway.login(phone(0))
                await gateway.start()
                yield Running(sandbox, scene, gateway, api)
            finally:
                await gateway.close()


async def test_the_daemons_accounts_journal_and_open_gaps_are_shown(running: Running) -> None:
    status = await running.until(
        STATUS, lambda found: found["reachable"] and found["ready"] and found["health"] == "healthy"
    )
    (account,) = status["accounts"]
    assert (account["account"], account["state"]) == ("main", "connected")
    assert account["since"].endswith("Z")
    assert status["journal"]["limitBytes"] > 0
    await running.until(GAPS, lambda found: found == {"total": 0, "gaps": []})

    channel = next(chat for chat in running.scene.chats if chat.kind == "channel")
    running.sandbox.faults.fail_calls("GetMessagesRequest", 420, "FLOOD_WAIT_600", times=1)
    running.sandbox.world.post(channel, "antes do salto")
    running.sandbox.world.skip_ids(channel, 3)
    running.sandbox.world.post(channel, "depois do salto")
    found = await running.until(GAPS, lambda found: found.get("total"))
    (gap,) = found["gaps"]
    assert gap["channelId"] == str(channel.ref)
    assert gap["lastId"] - gap["firstId"] == 2
    assert gap["since"].endswith("Z")

    await running.gateway.close()
    assert await running.until(STATUS, lambda found: not found["reachable"])
