"""Messages over HTTP: Redis first, cursors, search, hiding, and what a token may see."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.event import Event, Sender
from tests.api.conftest import Api
from tests.read_rig import ReadRig, read_rig
from tests.sink_events import CHANNEL, deleted, edited, new

OTHER = "-1001700000042"


@pytest_asyncio.fixture
async def rig(api: Api) -> AsyncIterator[ReadRig]:
    async with read_rig(api.stack) as rig:
        yield rig


def ago(seconds: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=seconds)


def minutes(count: int, channel: str = CHANNEL) -> list[Event]:
    return [new(n, channel=channel, telegram_date=ago(60 * (count - n))) for n in range(1, count + 1)]


async def listed(client: httpx.AsyncClient, **parameters: Any) -> tuple[list[int], httpx.Response]:
    answer = await client.get("/api/messages", params=parameters)
    assert answer.status_code == 200, answer.text
    return [item["messageId"] for item in answer.json()["items"]], answer


async def answered_by(source: str, client: httpx.AsyncClient, **parameters: Any) -> None:
    """Returns once it does: a server that was away is left alone for a moment."""
    async with asyncio.timeout(90):
        while True:
            answer = await client.get("/api/messages", params=parameters)
            if answer.headers.get("x-source") == source:
                return
            await asyncio.sleep(0.1)


async def test_the_newest_of_a_chat_come_from_redis_and_the_rest_from_the_database(
    api: Api, rig: ReadRig
) -> None:
    events = minutes(30)
    await rig.store(*events)
    await rig.cache(*events[5:])
    client = api.client()
    await answered_by("redis", client, channelId=CHANNEL, limit=10)
    first, answer = await listed(client, channelId=CHANNEL, limit=10)
    assert (first, answer.headers["x-source"]) == (list(range(30, 20, -1)), "redis")
    rest, answer = await listed(client, channelId=CHANNEL, limit=100, cursor=answer.json()["nextCursor"])
    assert (rest, answer.headers["x-source"]) == (list(range(20, 0, -1)), "database")
    assert answer.json()["nextCursor"] is None


async def test_redis_and_the_database_give_the_same_document(api: Api, rig: ReadRig) -> None:
    events = minutes(9)
    events.append(
        edited(8, "alvo 33", telegram_date=events[7].telegram_date, entities=[{"custom_emoji_id": 5}])
    )
    await rig.store(*events)
    await rig.cache(*events)
    client = api.client()
    await answered_by("redis", client, channelId=CHANNEL, limit=5)
    _, hot = await listed(client, channelId=CHANNEL, limit=5)
    one = await client.get(f"/api/messages/{CHANNEL}/8")
    await rig.redis.flushdb()
    await answered_by("database", client, channelId=CHANNEL, limit=5)  # which takes a moment
    _, cold = await listed(client, channelId=CHANNEL, limit=5)
    assert (hot.headers["x-source"], cold.headers["x-source"]) == ("redis", "database")
    assert hot.json()["items"] == cold.json()["items"]
    assert one.headers["x-source"] == "redis"
    assert one.json() == (await client.get(f"/api/messages/{CHANNEL}/8")).json()
    assert one.json()["entities"] == [{"customEmojiId": 5}]


@pytest.mark.parametrize(
    "question",
    [
        {"limit": "5"},
        {"limit": "100"},
        {"limit": "5", "accountScope": "0"},
        {"limit": "5", "accountScope": "7"},
        {"limit": "5", "unknown": "1"},
        {"limit": "05"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "five"},
        {"limit": ""},
        {"accountScope": "-1"},
        {"accountScope": str(1 << 63)},
        {"channelId": "-0"},
        {"channelId": f"{CHANNEL}\n", "limit": "5"},
        {"channelId": [OTHER, CHANNEL], "limit": ["5", "7"]},
    ],
    ids=str,
)
async def test_a_short_question_is_answered_as_the_same_one_in_full(
    api: Api, rig: ReadRig, question: dict[str, Any]
) -> None:
    """The short ones go another way: past FastAPI's reading of every parameter."""
    events = minutes(9)
    await rig.store(*events)
    await rig.cache(*events)
    client = api.client()
    question = {"channelId": CHANNEL} | question
    await answered_by("redis", client, channelId=CHANNEL, limit=5)
    short = await client.get("/api/messages", params=question)
    full = await client.get("/api/messages", params=question | {"sort": "-telegramDate"})
    assert short.status_code == full.status_code < 500
    assert short.headers.get("x-source") == full.headers.get("x-source")
    if short.status_code == 200:
        assert short.content == full.content
    else:
        assert short.json()["errors"] == full.json()["errors"]


async def test_a_client_that_has_a_short_answer_is_told_so(api: Api, rig: ReadRig) -> None:
    events = minutes(9)
    await rig.cache(*events)
    client = api.client()
    await answered_by("redis", client, channelId=CHANNEL, limit=5)
    _, first = await listed(client, channelId=CHANNEL, limit=5)
    for _ in range(2):
        again = await client.get(
            "/api/messages",
            params={"channelId": CHANNEL, "limit": 5},
            headers={"If-None-Match": first.headers["etag"]},
        )
        assert (again.status_code, again.content) == (304, b"")
    await rig.cache(new(10, telegram_date=ago(0)))
    async with asyncio.timeout(90):
        while (await listed(client, channelId=CHANNEL, limit=5))[0][0] != 10:
            await asyncio.sleep(0.02)


async def test_every_field_is_camel_case_but_metadata_is_as_it_came(api: Api, rig: ReadRig) -> None:
    event = new(
        1,
        telegram_date=datetime(2026, 5, 4, 12, 30, tzinfo=UTC),
        sender=Sender(id=7, name="Ana"),
        reply_to={"message_id": 3, "nested_thing": [{"from_id": 1}]},
        metadata={"forwards_count": {"by_hour": 3}},
        grouped_id=13_700_000_000_000_001,
    )
    await rig.store(event)
    (item,) = (await api.client().get("/api/messages", params={"channelId": CHANNEL})).json()["items"]
    assert item["replyTo"] == {"messageId": 3, "nestedThing": [{"fromId": 1}]}
    assert item["metadata"] == {"forwards_count": {"by_hour": 3}}
    assert item["telegramDate"] == "2026-05-04T12:30:00.000000Z"
    assert item["groupedId"] == 13_700_000_000_000_001
    assert item["sender"] == {"id": 7, "name": "Ana", "username": None}
    assert not [name for name in item if "_" in name]


async def test_without_redis_the_database_answers(api: Api, rig: ReadRig) -> None:
    await rig.store(*minutes(5))
    client = api.client()
    await api.stack.redis.stop()
    try:
        found, answer = await listed(client, channelId=CHANNEL)
        assert (found, answer.headers["x-source"]) == ([5, 4, 3, 2, 1], "database")
        assert (await client.get(f"/api/messages/{CHANNEL}/3")).status_code == 200
    finally:
        await api.stack.redis.start()
        await rig.redis.connection_pool.disconnect()


async def test_without_the_database_redis_answers_what_it_holds(api: Api, rig: ReadRig) -> None:
    events = minutes(9)
    await rig.store(*events)
    await rig.cache(*events)
    client = api.client()
    await answered_by("redis", client, channelId=CHANNEL, limit=5)
    await api.stack.pgbouncer.stop()
    try:
        found, answer = await listed(client, channelId=CHANNEL, limit=5)
        assert (found, answer.headers["x-source"]) == ([9, 8, 7, 6, 5], "redis")
        answer = await client.get("/api/messages", params={"channelId": CHANNEL, "source": "backfill"})
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
    finally:
        await api.stack.pgbouncer.start()
        await answered_by("database", client)


@pytest.mark.parametrize("cursor", ["garbage", "", "AAAA", "%00", "k8QI" * 100])
async def test_a_cursor_that_is_none_is_a_problem_of_the_callers(api: Api, rig: ReadRig, cursor: str) -> None:
    answer = await api.client().get("/api/messages", params={"cursor": cursor})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    answer = await api.client().get("/api/messages/unprocessed", params={"cursor": cursor, "consumer": "x"})
    assert answer.status_code == 400


async def test_a_cursor_belongs_to_its_question_and_its_chats(api: Api, rig: ReadRig) -> None:
    await rig.store(*minutes(5))
    _, answer = await listed(api.client(), limit=2)
    cursor = answer.json()["nextCursor"]
    other = await api.client().get("/api/messages", params={"cursor": cursor, "channelId": CHANNEL})
    assert other.status_code == 400
    limited = await api.client(chats=[CHANNEL]).get("/api/messages", params={"cursor": cursor})
    assert limited.status_code == 400


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"status": "failed"}, 400),
        ({"messageId": "7"}, 400),
        ({"limit": "1001"}, 422),
        ({"channelId": "*"}, 422),
        ({"from": "yesterday"}, 422),
        ({"from": "2026-05-04T00:00:00"}, 422),
        ({"from": "0001-01-01T00:00:00+14:00"}, 422),
        ({"search": "\0"}, 422),
        ({"search": " "}, 422),
        ({"consumer": "'; drop table"}, 422),
    ],
)
async def test_parameters_that_make_no_sense_are_refused(
    api: Api, parameters: dict[str, str], status: int
) -> None:
    answer = await api.client().get("/api/messages", params=parameters)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_filters(api: Api, rig: ReadRig) -> None:
    events = minutes(6)
    late = new(7, channel=OTHER, telegram_date=ago(86400 * 3), source="backfill")
    await rig.store(*events, late, deleted(2))
    client = api.client()
    assert (await listed(client))[0] == [6, 5, 4, 3, 1, 7]
    assert (await listed(client, sort="telegramDate"))[0] == [7, 1, 3, 4, 5, 6]
    assert (await listed(client, includeDeleted=True))[0] == [6, 5, 4, 3, 2, 1, 7]
    assert (await listed(client, source="backfill"))[0] == [7]
    assert (await listed(client, channelId=OTHER))[0] == [7]
    assert (await listed(client, channelId=CHANNEL, messageId=3))[0] == [3]
    assert (await listed(client, to=ago(86400).isoformat()))[0] == [7]
    assert events[3].telegram_date is not None
    assert (await listed(client, **{"from": events[3].telegram_date.isoformat()}))[0] == [6, 5, 4]


async def test_search_marks_what_it_found_and_lets_no_markup_through(api: Api, rig: ReadRig) -> None:
    text = "🚀 <img src=x onerror=alert(1)> Opções de PETR4 & VALE3"
    await rig.store(new(1, text=text), new(2, text="nada"))
    found, answer = await listed(api.client(), search="opcao")
    assert found == [1]
    highlight = answer.json()["items"][0]["highlight"]
    (place,) = highlight["ranges"]
    units = text.encode("utf-16-le")
    assert (
        units[2 * place["offset"] : 2 * (place["offset"] + place["length"])].decode("utf-16-le") == "Opções"
    )
    assert highlight["snippet"] == (
        "🚀 &lt;img src=x onerror=alert(1)&gt; <mark>Opções</mark> de PETR4 &amp; VALE3"
    )


async def test_a_hidden_message_is_nowhere_until_it_is_restored(api: Api, rig: ReadRig) -> None:
    events = minutes(9)
    await rig.store(*events)
    await rig.cache(*events)
    admin, reader = api.client(scopes=("admin",)), api.client()
    path = f"/api/messages/{CHANNEL}/8"
    await listed(reader, limit=5)  # cached
    assert (await reader.delete(path)).status_code == 403
    assert (await admin.delete(path)).status_code == 204
    assert (await reader.get(path)).status_code == 404
    assert (await listed(reader, channelId=CHANNEL, limit=3))[0] == [9, 7, 6]
    assert (await listed(reader, limit=5))[0] == [9, 7, 6, 5, 4]
    assert (await listed(reader, search="compra", limit=3))[0] == [9, 7, 6]
    assert (await admin.delete(path)).status_code == 404
    await rig.cache(edited(8, "mudou", telegram_date=events[7].telegram_date))  # the sink knows nothing of it
    assert (await reader.get(path)).status_code == 404
    assert (await listed(reader, channelId=CHANNEL, limit=3))[0] == [9, 7, 6]
    assert (await admin.post(f"{path}/restore")).status_code == 204
    assert (await admin.post(f"{path}/restore")).status_code == 204
    assert (await reader.get(path)).status_code == 200
    assert (await admin.post(f"/api/messages/{CHANNEL}/99/restore")).status_code == 404


async def test_another_process_of_the_api_hides_it_within_seconds(
    api: Api, rig: ReadRig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.api.conftest import running_api

    events = minutes(9)
    await rig.store(*events)
    await rig.cache(*events)
    async with running_api(api.stack, tmp_path_factory.mktemp("api")) as second:
        reader = second.client()
        path = f"/api/messages/{CHANNEL}/8"
        await answered_by("redis", reader, channelId=CHANNEL, limit=5)
        assert (await reader.get(path)).headers["x-source"] == "redis"
        assert (await api.client(scopes=("admin",)).delete(path)).status_code == 204
        await rig.cache(edited(8, "mudou", telegram_date=events[7].telegram_date))
        async with asyncio.timeout(90):
            while (await reader.get(path)).status_code != 404:
                await asyncio.sleep(0.1)


async def test_one_question_of_many_at_once_is_answered_alike_to_all_who_may_ask_it(
    api: Api, rig: ReadRig
) -> None:
    events = minutes(30)
    await rig.store(*events)
    await rig.cache(*events)
    plain, packed = {"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip"}
    reader, stranger = api.client(), api.client(chats=[OTHER])
    path = f"/api/messages?channelId={CHANNEL}&limit=20"
    answers = [await reader.get(path, headers=headers) for headers in (packed, plain, packed, plain)]
    assert len({(answer.headers["etag"], answer.content) for answer in answers}) == 1
    assert [answer.headers.get("content-encoding") for answer in answers] == ["gzip", None] * 2
    for answer, headers in zip(answers, (packed, plain), strict=False):
        assert "Accept-Encoding" in answer.headers["vary"]
        same = await reader.get(path, headers={**headers, "If-None-Match": answer.headers["etag"]})
        assert (same.status_code, same.headers.get("content-encoding")) == (304, None)
    assert (await stranger.get(path)).json()["items"] == []
    # A cursor goes on with its own question, which is also about the chats that may be seen.
    for holder in (reader, api.client(chats=[CHANNEL]), reader):
        page = (await holder.get(path)).json()
        rest = (await holder.get(f"{path}&cursor={page['nextCursor']}")).json()["items"]
        assert [item["messageId"] for item in rest] == list(range(10, 0, -1))
    assert (await api.client_with(None).get(path)).status_code == 401


async def test_a_token_of_some_chats_sees_no_other(api: Api, rig: ReadRig) -> None:
    events = [*minutes(9), *minutes(9, OTHER), new(1, channel="77", scope=42)]
    await rig.store(*events)
    await rig.cache(*events)
    client = api.client(chats=[OTHER, "42/77"])
    everything = (await client.get("/api/messages", params={"search": "compra"})).json()["items"]
    everything += (await client.get("/api/messages")).json()["items"]
    assert {item["channelId"] for item in everything} == {OTHER, "77"}
    assert (await listed(client, channelId=CHANNEL))[0] == []
    assert (await listed(client, channelId="77", accountScope=42))[0] == [1]
    assert (await listed(client, channelId="77"))[0] == []
    assert (await client.get(f"/api/messages/{CHANNEL}/8")).status_code == 404
    assert (await client.get("/api/messages/77/1")).status_code == 404
    assert (await client.get("/api/messages/77/1", params={"accountScope": 42})).status_code == 200
    admin = api.client(scopes=("admin",), chats=[OTHER])
    assert (await admin.delete(f"/api/messages/{CHANNEL}/8")).status_code == 404


async def test_revisions_on_demand(api: Api, rig: ReadRig) -> None:
    (event,) = minutes(1)
    await rig.store(event)
    await rig.store(edited(1, "melhor", telegram_date=event.telegram_date))
    await rig.store(deleted(1))
    client = api.client()
    plain = (await client.get(f"/api/messages/{CHANNEL}/1")).json()
    assert (plain["text"], plain["revisions"]) == ("melhor", None)
    assert plain["deletedAt"] is not None
    told = (await client.get(f"/api/messages/{CHANNEL}/1", params={"revisions": True})).json()
    assert [each["kind"] for each in told["revisions"]] == [
        "message.new",
        "message.edited",
        "message.deleted",
    ]


async def test_who_has_it_already_is_told_so(api: Api, rig: ReadRig) -> None:
    await rig.store(*minutes(3))
    client = api.client()
    _, answer = await listed(client, channelId=CHANNEL)
    tag = {"If-None-Match": answer.headers["etag"]}
    again = await client.get("/api/messages", params={"channelId": CHANNEL}, headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    await rig.store(new(4))
    async with asyncio.timeout(90):
        while (
            await client.get("/api/messages", params={"channelId": CHANNEL}, headers=tag)
        ).status_code == 304:
            await asyncio.sleep(0.1)
