"""A comparison asked for over HTTP, carried out by the daemon: from the sandbox to the answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest_asyncio

from gateway.localstack import LocalStack
from gateway.sandbox.chats import Chat
from tests.api.conftest import running_api
from tests.e2e.conftest import Rig

PATIENCE_SECONDS = 120.0


class Office:
    """An administrator with the API before them, and the world."""

    def __init__(self, rig: Rig, client: httpx.AsyncClient) -> None:
        self.rig = rig
        self.client = client
        self.user = rig.scene.accounts[0]
        self.channel = rig.scene.chats[0]

    async def ask(self, **order: str) -> str:
        asked = await self.client.post("/api/sync", json=order)
        assert asked.status_code == 202, asked.text
        return asked.headers["Location"]

    async def ended(self, location: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found: dict[str, Any] = (await self.client.get(location)).json()
            if found["state"] in ("done", "failed"):
                return found
            assert time.monotonic() < deadline, str(found)
            await asyncio.sleep(0.1)

    async def known(self, channel: Chat) -> None:
        """The channel has had a message, so the database knows it."""
        self.rig.sandbox.world.post(channel, "first")
        path = f"/api/channels/{channel.marked_id_for(self.user)}"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.client.get(path)).status_code != 200:
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture
async def office(rig: Rig, stack: LocalStack, tmp_path: Path) -> AsyncIterator[Office]:
    connection = await asyncpg.connect(stack.postgres.dsn)
    await connection.execute("TRUNCATE telegram_gateway.sync_requests")
    # Other tests killed gateways of other worlds, for whom a comparison would wait.
    others = f"%:{rig.sandbox.port}"
    await connection.execute(
        "DELETE FROM telegram_gateway.account_leases WHERE name LIKE 'user:%' AND name NOT LIKE $1", others
    )
    await connection.close()
    async with running_api(stack, tmp_path) as api:
        yield Office(rig, api.client(scopes=("admin",)))


async def test_a_comparison_finds_what_was_never_pushed(office: Office) -> None:
    await office.known(office.channel)
    office.rig.sandbox.faults.fault_pushes("swallow")
    lost = office.rig.sandbox.world.post(office.channel, "never pushed")
    office.rig.sandbox.faults.clear()
    found = await office.ended(await office.ask())
    assert (found["state"], found["counts"]["accounts"], found["attempts"]) == ("done", 1, 1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while lost.text not in [event.text for event in office.rig.consumer.events.values()]:
            await asyncio.sleep(0.05)


async def test_a_chats_history_is_fetched_from_a_moment_on(office: Office) -> None:
    world = office.rig.sandbox.world
    channel = world.add_channel(
        "Sinais antigos", [office.channel.members[next(iter(office.channel.members))]]
    )
    history = world.import_history(channel, 300)
    world.join(channel, office.user)
    await office.known(channel)
    since = datetime.fromtimestamp(history[100].date, UTC)
    found = await office.ended(
        await office.ask(channelId=str(channel.marked_id_for(office.user)), since=since.isoformat())
    )
    assert found["state"] == "done", found
    assert found["counts"]["messages"] >= 200
    assert found["counts"]["messagesLeft"] == 0
    await office.rig.gateway.wait_delivered(3)
    texts = {event.text for event in office.rig.consumer.events.values()}
    assert {message.text for message in history[100:]} <= texts
    assert not {message.text for message in history[:90]} & texts


async def test_a_request_outlives_the_daemon_that_took_it(office: Office) -> None:
    await office.known(office.channel)
    await office.rig.gateway.kill()
    location = await office.ask()
    await asyncio.sleep(1.0)
    assert (await office.client.get(location)).json()["state"] == "pending"
    await office.rig.gateway.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await office.client.get(location)).json()["state"] == "pending":
            await asyncio.sleep(0.02)
    await office.rig.gateway.kill()
    await office.rig.gateway.start()
    assert (await office.ended(location))["state"] == "done"
