"""The chats over HTTP: listing, switching, taking off the list."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
import pytest_asyncio

from gateway.event import encode
from tests.api.conftest import Api
from tests.sink_events import CHANNEL, new

NEW = "-1001700000042"


@pytest_asyncio.fixture
async def database(api: Api) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """The database with no chats in it."""
    connection = await asyncpg.connect(api.stack.postgres.dsn)
    await connection.execute(
        "TRUNCATE telegram_gateway.channels, telegram_gateway.messages, telegram_gateway.message_revisions"
    )
    yield connection
    await connection.close()


async def ingest(database: "asyncpg.Connection[asyncpg.Record]", count: int = 1) -> None:
    bodies = b",".join(encode(new(number)) for number in range(1, count + 1))
    await database.execute("SELECT telegram_gateway.ingest($1)", f"[{bodies.decode()}]")


async def add(client: httpx.AsyncClient, channel_id: str, **fields: object) -> httpx.Response:
    return await client.post("/api/channels", json={"channelId": channel_id, **fields})


async def test_a_chat_that_was_captured_is_listed_and_says_how_it_is(
    api: Api, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await ingest(database, 3)
    client = api.client()
    listed = (await client.get("/api/channels")).json()
    assert listed["nextCursor"] is None
    (channel,) = listed["channels"]
    assert channel["channelId"] == CHANNEL
    assert channel["isActive"] is True
    assert channel["lastMessageId"] == 3
    one = (await client.get(f"/api/channels/{CHANNEL}")).json()
    assert {name: one[name] for name in channel} == channel
    assert one["health"]["health"] in ("active", "quiet", "silent")


async def test_switching_off_is_seen_by_every_gateway_and_deletes_nothing(
    api: Api, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await ingest(database, 3)
    admin = api.client(scopes=("admin",))
    off = await admin.put(f"/api/channels/{CHANNEL}", json={"isActive": False})
    assert (off.status_code, off.json()["isActive"]) == (200, False)
    assert off.json()["switchedAt"] is not None
    again = await admin.put(f"/api/channels/{CHANNEL}", json={"isActive": False})
    assert again.json() == off.json()
    assert (await admin.get(f"/api/channels/{CHANNEL}")).json()["health"]["health"] == "inactive"

    removed = await admin.delete(f"/api/channels/{CHANNEL}")
    assert removed.json()["hiddenAt"] is not None
    assert (await admin.delete(f"/api/channels/{CHANNEL}")).json() == removed.json()
    assert (await admin.get("/api/channels")).json()["channels"] == []
    assert len((await admin.get("/api/channels?hidden=true")).json()["channels"]) == 1
    assert await database.fetchval("SELECT count(*) FROM telegram_gateway.messages") == 3

    on = await admin.post("/api/channels", json={"channelId": CHANNEL})
    assert (on.status_code, on.json()["isActive"], on.json()["hiddenAt"]) == (200, True, None)
    await ingest(database, 4)
    assert (await admin.get(f"/api/channels/{CHANNEL}")).json()["lastMessageId"] == 4


async def test_a_chat_is_switched_off_ahead_of_its_first_message(
    api: Api, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    admin = api.client(scopes=("admin",))
    added = await add(admin, CHANNEL, isActive=False, title="Sinais")
    assert added.status_code == 201
    assert (await admin.get(added.headers["Location"])).json()["isActive"] is False
    await ingest(database)  # of another gateway, whose word is not the people's
    one = (await admin.get(f"/api/channels/{CHANNEL}")).json()
    assert (one["isActive"], one["lastMessageId"]) == (False, 1)
    assert one["title"] == new(1).chat_title


async def test_a_change_that_somebody_else_made_is_not_overwritten(
    api: Api, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    admin = api.client(scopes=("admin",))
    tag = (await add(admin, NEW)).headers["ETag"]
    path = f"/api/channels/{NEW}"
    assert (await admin.put(path, json={"isActive": False}, headers={"If-Match": tag})).status_code == 200
    refused = await admin.put(path, json={"isActive": True}, headers={"If-Match": tag})
    assert refused.status_code == 412
    assert (await admin.delete(path, headers={"If-Match": tag})).status_code == 412
    assert (await admin.get(path)).json()["isActive"] is False
    assert (await admin.put(path, json={"isActive": True}, headers={"If-Match": "*"})).status_code == 200


async def test_every_page_goes_on_where_the_last_one_ended(
    api: Api, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    admin = api.client(scopes=("admin",))
    ids = [f"-10017000001{number:02}" for number in range(25)]
    for number, channel_id in enumerate(ids):
        await add(admin, channel_id, title=f"Canal {number % 3}", isActive=number % 2 == 0)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await admin.get("/api/channels", params={"limit": 4, "cursor": cursor})).json()
        found += [channel["channelId"] for channel in page["channels"]]
        cursor = page["nextCursor"]
    assert sorted(found) == ids

    async def count(**parameters: str) -> int:
        return len((await admin.get("/api/channels", params=parameters)).json()["channels"])

    assert await count(active="true") == 13
    assert await count(search="canal 2") == 8
    assert await count(search="canal%") == 0
    assert await count(search=ids[7]) == 1
    assert await count(type="supergroup") == 0
    assert (await admin.get("/api/channels?cursor=bm9uZQ")).status_code == 422


async def test_a_token_of_some_chats_knows_of_no_others(
    api: Api, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    admin = api.client(scopes=("admin",))
    await add(admin, NEW)
    assert (await add(admin, "55", accountScope=777000)).status_code == 201
    some = api.client(scopes=("admin",), chats=["777000/55"])
    assert [one["channelId"] for one in (await some.get("/api/channels")).json()["channels"]] == ["55"]
    assert (await some.get(f"/api/channels/{NEW}")).status_code == 404
    assert (await some.put(f"/api/channels/{NEW}", json={"isActive": False})).status_code == 404
    assert (await add(some, "-1001700000043")).status_code == 404
    assert (await some.get("/api/channels/55?accountScope=777000")).status_code == 200
    assert (await some.get("/api/channels/55")).status_code == 404


@pytest.mark.parametrize(
    "order",
    [
        {"channelId": "55"},
        {"channelId": NEW, "accountScope": 777000},
        {"channelId": NEW, "type": "private"},
        {"channelId": "TP Sinais"},
        {"channelId": NEW, "owner": "me"},
    ],
)
async def test_a_chat_that_cannot_be_is_refused(
    api: Api, database: "asyncpg.Connection[asyncpg.Record]", order: dict[str, object]
) -> None:
    refused = await api.client(scopes=("admin",)).post("/api/channels", json=order)
    assert refused.status_code == 422
    assert refused.headers["Content-Type"] == "application/problem+json"


async def test_only_admins_switch(api: Api, database: "asyncpg.Connection[asyncpg.Record]") -> None:
    await add(api.client(scopes=("admin",)), NEW)
    reader = api.client(scopes=("process",))
    path = f"/api/channels/{NEW}"
    assert (await reader.get(path)).status_code == 200
    assert (await add(reader, NEW)).status_code == 403
    assert (await reader.put(path, json={"isActive": False})).status_code == 403
    assert (await reader.delete(path)).status_code == 403
    assert (await api.client_with(None).get(path)).status_code == 401
