"""Comparisons on request, as far as they go without a gateway: who may ask, for what, and where they wait."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest_asyncio

from gateway.event import utc_now
from tests.api.conftest import Api

CHAT, OFF = "-1001700000301", "-1001700000302"


@pytest_asyncio.fixture(autouse=True)
async def chats(api: Api) -> AsyncIterator[None]:
    admin = api.client(scopes=("admin",))
    await admin.post("/api/channels", json={"channelId": CHAT})
    await admin.post("/api/channels", json={"channelId": OFF, "isActive": False})
    yield
    connection = await asyncpg.connect(api.stack.postgres.dsn)
    await connection.execute("TRUNCATE telegram_gateway.sync_requests")
    await connection.close()


async def test_a_request_waits_until_a_gateway_takes_it(api: Api) -> None:
    admin = api.client(scopes=("admin",))
    asked = await admin.post("/api/sync", json={"channelId": CHAT, "since": "2026-11-01T00:00:00Z"})
    assert asked.status_code == 202, asked.text
    found = await admin.get(asked.headers["Location"])
    assert found.json() == asked.json()
    assert (found.json()["state"], found.json()["counts"]["messages"]) == ("pending", 0)
    assert found.json()["requestedBy"].startswith("test ")
    assert (await admin.post("/api/sync", json={})).json()["channelId"] is None


async def test_what_cannot_be_done_is_refused_at_once(api: Api) -> None:
    admin = api.client(scopes=("admin",))
    tomorrow = (utc_now() + timedelta(days=1)).isoformat()
    for order, status in (
        ({"channelId": "-1001700000399"}, 404),
        ({"channelId": OFF}, 409),
        ({"channelId": CHAT, "since": tomorrow}, 422),
        ({"channelId": CHAT, "since": "2020-01-01T00:00:00Z"}, 422),
        ({"channelId": CHAT, "since": "2026-11-01T00:00:00"}, 422),
        ({"since": "2026-11-01T00:00:00Z"}, 422),
        ({"channelId": "all"}, 422),
    ):
        refused = await admin.post("/api/sync", json=order)
        assert refused.status_code == status, (order, refused.text)
    assert (await admin.get("/api/sync/6f1c1d2e-58f0-4a0e-9c52-0c7c1f0a9b11")).status_code == 404
    assert (await admin.get("/api/sync/1")).status_code == 422


async def test_too_many_requests_wait_for_a_gateway(api: Api) -> None:
    admin = api.client(scopes=("admin",))
    answers = [(await admin.post("/api/sync", json={})).status_code for _ in range(101)]
    assert answers == [202] * 100 + [409]


async def test_only_admins_ask_and_only_for_chats_they_may_see(api: Api) -> None:
    assert (await api.client(scopes=("process",)).post("/api/sync", json={})).status_code == 403
    some = api.client(scopes=("admin",), chats=[OFF])
    assert (await some.post("/api/sync", json={})).status_code == 403
    assert (await some.post("/api/sync", json={"channelId": CHAT})).status_code == 404
    everything = await api.client(scopes=("admin",)).post("/api/sync", json={})
    assert (await some.get(everything.headers["Location"])).status_code == 404
