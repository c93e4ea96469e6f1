"""What consumers do over HTTP: ask what there is to do, say what they did, do it again."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.api.conftest import Api
from tests.read_rig import ReadRig, read_rig
from tests.sink_events import CHANNEL, days_ago, new

OTHER = "-1001700000042"


@pytest_asyncio.fixture
async def rig(api: Api) -> AsyncIterator[ReadRig]:
    async with read_rig(api.stack) as rig:
        yield rig


async def unprocessed(
    client: httpx.AsyncClient, consumer: str = "tp-capital", **parameters: Any
) -> list[int]:
    answer = await client.get("/api/messages/unprocessed", params={"consumer": consumer, **parameters})
    assert answer.status_code == 200, answer.text
    return [item["messageId"] for item in answer.json()["items"]]


async def mark(client: httpx.AsyncClient, *items: Any, consumer: str = "tp-capital") -> list[dict[str, Any]]:
    body = {"consumer": consumer, "items": [{"channelId": CHANNEL, **item} for item in items]}
    answer = await client.post("/api/messages/mark-processed", json=body)
    assert answer.status_code == 200, answer.text
    marked: list[dict[str, Any]] = answer.json()["items"]
    return marked


async def test_what_was_processed_is_never_given_as_unprocessed_again(api: Api, rig: ReadRig) -> None:
    await rig.store(*(new(number) for number in range(1, 40)))
    client = api.client(scopes=("process",))
    for number in range(1, 40):
        assert (await unprocessed(client, limit=1)) == [number]
        (marked,) = await mark(client, {"messageId": number})
        assert (marked["status"], marked["changed"], marked["known"]) == ("published", True, True)
    assert await unprocessed(client) == []


async def test_each_item_says_what_became_of_it(api: Api, rig: ReadRig) -> None:
    await rig.store(new(1), new(2), new(3))
    client = api.client(scopes=("process",))
    items = [
        {"messageId": 1},
        {"messageId": 2, "status": "failed", "reason": "no range"},
        {"messageId": 3, "status": "ignored", "reason": "no signal"},
        {"messageId": 999},
    ]
    first = await mark(client, *items)
    assert [(each["status"], each["changed"], each["known"]) for each in first] == [
        ("published", True, True),
        ("failed", True, True),
        ("ignored", True, True),
        ("published", True, False),
    ]
    again = await mark(client, *items)
    assert [each["changed"] for each in again] == [False] * 4
    assert [each["status"] for each in again] == [each["status"] for each in first]
    failed = await client.get("/api/messages", params={"consumer": "tp-capital", "status": "failed"})
    (item,) = failed.json()["items"]
    assert item["processing"] == {
        "consumer": "tp-capital",
        "status": "failed",
        "attempts": 1,
        "error": "no range",
        "at": item["processing"]["at"],
    }
    done = await client.get("/api/messages", params={"consumer": "tp-capital", "status": "processed"})
    assert [each["messageId"] for each in done.json()["items"]] == [1]


async def test_two_consumers_do_not_meet(api: Api, rig: ReadRig) -> None:
    await rig.store(new(1), new(2))
    client = api.client(scopes=("process",))
    await mark(client, {"messageId": 1}, {"messageId": 2})
    assert await unprocessed(client) == []
    assert await unprocessed(client, "other") == [1, 2]
    listed = await client.get("/api/messages", params={"consumer": "other", "status": "published"})
    assert listed.json()["items"] == []


async def test_late_arrivals_come_last_and_pages_follow_each_other(api: Api, rig: ReadRig) -> None:
    await rig.store(*(new(number) for number in range(10, 16)))
    await rig.store(new(1, telegram_date=days_ago(20), source="backfill"))
    client = api.client()
    found: list[int] = []
    cursor = None
    while True:
        parameters: dict[str, Any] = {"consumer": "x", "limit": 3}
        parameters |= {"cursor": cursor} if cursor else {}
        page = (await client.get("/api/messages/unprocessed", params=parameters)).json()
        found += [item["messageId"] for item in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
        if len(found) == 3:
            await rig.store(new(99))
    assert found == [10, 11, 12, 13, 14, 15, 1, 99]
    assert await unprocessed(client, "x", **{"from": days_ago(2).isoformat()}) == [10, 11, 12, 13, 14, 15, 99]


async def test_reprocessing_for_one_and_for_all(api: Api, rig: ReadRig) -> None:
    await rig.store(new(1), new(2))
    client = api.client(scopes=("process",))
    for consumer in ("a", "b"):
        await mark(client, {"messageId": 1}, {"messageId": 2}, consumer=consumer)
        await rig.redis.set(f"telegram:dedup:{consumer}:{CHANNEL}:1", "seen")
    path = f"/api/messages/{CHANNEL}/1/reprocess"
    assert (await client.post(path, params={"consumer": "a"})).json() == {"consumers": ["a"]}
    assert [await unprocessed(client, name) for name in "ab"] == [[1], []]
    assert await rig.redis.get(f"telegram:dedup:a:{CHANNEL}:1") is None
    assert await rig.redis.get(f"telegram:dedup:b:{CHANNEL}:1") is not None
    assert sorted((await client.post(path)).json()["consumers"]) == ["a", "b"]
    assert (await client.post(f"/api/messages/{CHANNEL}/99/reprocess")).status_code == 404


async def test_a_token_of_some_chats_asks_and_marks_in_those_only(api: Api, rig: ReadRig) -> None:
    await rig.store(new(1), new(2, channel=OTHER))
    limited = api.client(scopes=("process",), chats=[OTHER])
    assert await unprocessed(limited) == [2]
    assert await unprocessed(limited, channelId=CHANNEL) == []
    (marked,) = await mark(limited, {"messageId": 1})
    assert (marked["recorded"], marked["status"]) == (False, None)
    everyone = api.client(scopes=("process",))
    assert await unprocessed(everyone) == [1, 2]
    assert await unprocessed(everyone, channelId=[CHANNEL]) == [1]
    assert (await limited.post(f"/api/messages/{CHANNEL}/1/reprocess")).status_code == 404


async def test_a_reader_may_look_but_not_mark(api: Api, rig: ReadRig) -> None:
    await rig.store(new(1))
    reader = api.client()
    assert await unprocessed(reader) == [1]
    body = {"consumer": "x", "items": [{"channelId": CHANNEL, "messageId": 1}]}
    assert (await reader.post("/api/messages/mark-processed", json=body)).status_code == 403
    assert (await reader.post(f"/api/messages/{CHANNEL}/1/reprocess")).status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        {"items": []},
        {"items": [{"channelId": CHANNEL, "messageId": 1}] * 1001},
        {"consumer": ""},
        {"consumer": "A B"},
        {"items": [{"channelId": CHANNEL, "messageId": 1, "status": "done"}]},
        {"items": [{"channelId": CHANNEL, "messageId": 1, "reason": "\0"}]},
        {"items": [{"channelId": CHANNEL, "messageId": 1 << 63}]},
        {"items": [{"channelId": CHANNEL, "messageId": 1, "extra": 1}]},
    ],
)
async def test_batches_that_make_no_sense_are_refused(api: Api, change: dict[str, Any]) -> None:
    body = {"consumer": "x", "items": [{"channelId": CHANNEL, "messageId": 1}], **change}
    answer = await api.client(scopes=("process",)).post("/api/messages/mark-processed", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
