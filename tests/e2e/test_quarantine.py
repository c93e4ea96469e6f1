"""A record that a sink refuses for ever: the sink goes on, and an operator decides about the record."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import pytest

from gateway.demo.process import POLL_SECONDS, ProcessError
from tests.e2e.conftest import Rig

PATIENCE_SECONDS = 120.0
REFUSE = (
    "ALTER TABLE telegram_gateway.messages "
    "ADD CONSTRAINT no_poison CHECK (text NOT LIKE '%veneno%') NOT VALID"
)
ACCEPT = "ALTER TABLE telegram_gateway.messages DROP CONSTRAINT IF EXISTS no_poison"


@pytest.fixture
async def database(rig: Rig) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """The database, which refuses every message that speaks of poison."""
    connection = await asyncpg.connect(rig.stack.postgres.dsn)
    await connection.execute(REFUSE)
    yield connection
    await connection.execute(ACCEPT)
    await connection.close()


async def listed(rig: Rig) -> list[dict[str, Any]]:
    lines = (await rig.gateway.command("quarantine", "list", "--json")).splitlines()
    return [json.loads(line) for line in lines]


async def delivered(rig: Rig, events: int) -> None:
    """Returns once every sink has (or has refused) that many events."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await rig.consumer.wait_for(events)
    await rig.gateway.wait_delivered(sinks=3)


async def until_database(rig: Rig, *, up: bool) -> dict[str, Any]:
    """The first status that calls the database so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (status := await rig.gateway.status()) is None or status["sinks"][0]["up"] is not up:
            await asyncio.sleep(POLL_SECONDS)
    assert status["sinks"][0]["name"] == "timescaledb"
    return status


async def gauge(rig: Rig, name: str, sink: str) -> float:
    url = f"http://127.0.0.1:{rig.gateway.port}/metrics"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        text = await answer.text()
    line = next(line for line in text.splitlines() if line.startswith(f'{name}{{sink="{sink}"}}'))
    return float(line.split()[-1])


async def test_a_refused_record_waits_in_quarantine_until_it_is_delivered_or_dropped(
    rig: Rig, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    world = rig.sandbox.world
    channel = rig.scene.chats[0]
    poisons = [world.post(channel, f"veneno {number}") for number in range(3)]
    for number in range(20):
        world.post(channel, f"COMPRA {number}")
    await delivered(rig, 23)

    # The sink went on without them, and everyone can see that something is missing.
    assert await database.fetchval("SELECT count(*) FROM telegram_gateway.messages") == 20
    found = await listed(rig)
    assert [record["message_id"] for record in found] == [poison.id for poison in poisons]
    assert {(record["sink"], record["kind"]) for record in found} == {("timescaledb", "message.new")}
    assert all("no_poison" in record["reason"] and record["since"] for record in found)
    table = await rig.gateway.command("quarantine", "list")
    assert "no_poison" in table
    assert "veneno" not in table + json.dumps(found)
    assert "veneno 1" in await rig.gateway.command("quarantine", "list", "--body", "--sink", "timescaledb")
    assert "nothing" in await rig.gateway.command("quarantine", "list", "--sink", "redis")
    status = await rig.gateway.status()
    assert status is not None
    assert {sink["name"]: sink["quarantined"] for sink in status["sinks"]}["timescaledb"] == 3
    assert any("refused 3 events for good" in problem for problem in status["problems"])
    assert await gauge(rig, "telegram_gateway_quarantined", "timescaledb") == 3
    assert await gauge(rig, "telegram_gateway_quarantined", "redis") == 0

    # A retry while the cause is there leaves them.
    with pytest.raises(ProcessError, match=r"exited 1.*\n.*\n.*\n0 delivered, 3 refused again"):
        await rig.gateway.command("quarantine", "retry")
    assert [(record["seq"], record["since"]) for record in await listed(rig)] == [
        (record["seq"], record["since"]) for record in found
    ]

    # One is given up; the others are delivered once the cause is gone, also after a restart.
    with pytest.raises(ProcessError, match="say which"):
        await rig.gateway.command("quarantine", "drop")
    dropped = await rig.gateway.command("quarantine", "drop", "--seq", str(found[1]["seq"]))
    assert dropped.strip() == "1 dropped"
    await rig.gateway.kill()
    await rig.gateway.start()
    await database.execute(ACCEPT)
    cursor = (await until_database(rig, up=True))["sinks"][0]["cursor"]
    one = await rig.gateway.command("quarantine", "retry", "--seq", str(found[0]["seq"]))
    assert one.splitlines()[-1] == "1 delivered, 0 refused again"
    rest = await rig.gateway.command("quarantine", "retry", "--sink", "timescaledb")
    assert rest.splitlines()[-1] == "1 delivered, 0 refused again"
    assert await listed(rig) == []
    stored = await database.fetch(
        "SELECT text FROM telegram_gateway.messages WHERE text LIKE 'veneno%' ORDER BY 1"
    )
    assert [row["text"] for row in stored] == ["veneno 0", "veneno 2"]
    status = await rig.gateway.status()
    assert status is not None
    assert status["sinks"][0]["cursor"] == cursor
    assert not status["problems"]
    assert await gauge(rig, "telegram_gateway_quarantined", "timescaledb") == 0


async def test_while_messages_flow_a_retry_disturbs_nothing(
    rig: Rig, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    channel = rig.scene.chats[0]
    for number in range(30):
        rig.sandbox.world.post(channel, f"veneno {number}")
    await delivered(rig, 30)
    await database.execute(ACCEPT)
    async with asyncio.TaskGroup() as group:
        group.create_task(rig.traffic(rate=300, count=900))
        retried = await rig.gateway.command("quarantine", "retry")
    assert retried.splitlines()[-1] == "30 delivered, 0 refused again"
    await rig.assert_everything_arrived()


async def test_what_cannot_be_retried_says_why(
    rig: Rig, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    rig.sandbox.world.post(rig.scene.chats[0], "veneno")
    await delivered(rig, 1)
    await rig.stack.pgbouncer.kill()
    try:
        rig.sandbox.world.post(rig.scene.chats[0], "mais")
        await until_database(rig, up=False)
        with pytest.raises(ProcessError, match=r"sink timescaledb is down.*retry once it is up"):
            await rig.gateway.command("quarantine", "retry")
    finally:
        await rig.stack.pgbouncer.start()
    assert len(await listed(rig)) == 1
    await rig.gateway.stop()
    assert len(await listed(rig)) == 1
    with pytest.raises(ProcessError, match=r"exited 3: .*no gateway runs with this state directory"):
        await rig.gateway.command("quarantine", "retry")
