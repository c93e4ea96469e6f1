"""Dead letters over HTTP: what an operator's page shows and does, and who may."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aio_pika
import httpx
import pytest
import pytest_asyncio
from aiormq.abc import FieldValue

from gateway.api.dead_letters import FRESH_SECONDS
from gateway.dead_letters import QUEUE
from gateway.event import encode
from tests.api.conftest import Api
from tests.sink_events import CHANNEL, new

LETTERS = "/api/dead-letters"
PARKED_AT = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
CONSUMER_QUEUE = "telegram.consumer.tp-capital"


class Queues:
    """The consumer's queue, and the exchange that its library parks at."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self.channel = channel

    async def park(self, message: int, channel: str = CHANNEL, consumer: str = "tp-capital") -> None:
        event = new(message, channel=channel)
        headers: dict[str, FieldValue] = {
            "x-consumer": consumer,
            "x-queue": f"telegram.consumer.{consumer}",
            "x-attempts": 3,
            "x-reason": "no buy range",
            "x-parked-at": PARKED_AT.isoformat(),
            "x-kind": event.kind,
            "cloudEvents_source": f"/telegram/{event.chat_key}",
            "cloudEvents_subject": str(message),
        }
        exchange = await self.channel.get_exchange("telegram.messages.dlx")
        await exchange.publish(
            aio_pika.Message(encode(event), headers=headers, message_id=event.id), routing_key="parked"
        )

    async def ready(self, name: str) -> int:
        queue = await self.channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0

    async def until(self, count: int, name: str) -> None:
        async with asyncio.timeout(60):
            while await self.ready(name) != count:
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def queues(api: Api) -> AsyncIterator[Queues]:
    connection = await aio_pika.connect(api.stack.rabbitmq.url)
    async with connection:
        channel = await connection.channel()
        consumers = await channel.declare_queue(
            CONSUMER_QUEUE, durable=True, arguments={"x-queue-type": "quorum"}
        )
        letters = await channel.declare_queue(QUEUE, passive=True)
        await letters.purge()
        await asyncio.sleep(FRESH_SECONDS)  # what the test before has seen is forgotten
        yield Queues(channel)
        await consumers.delete(if_unused=False, if_empty=False)
        await letters.purge()


@pytest.fixture
def operator(api: Api) -> httpx.AsyncClient:
    return api.client(scopes=("admin",))


async def listed(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(LETTERS, params=query)
    assert answer.status_code == 200, answer.text
    letters: list[dict[str, Any]] = answer.json()["letters"]
    return letters


async def test_a_letter_is_listed_shown_and_given_back(queues: Queues, operator: httpx.AsyncClient) -> None:
    await queues.park(4711)
    (letter,) = await listed(operator)
    identity = letter.pop("id")
    assert letter == {
        "eventId": f"0:{CHANNEL}:4711",
        "kind": "message.new",
        "chatKey": CHANNEL,
        "messageId": 4711,
        "consumer": "tp-capital",
        "queue": CONSUMER_QUEUE,
        "reason": "no buy range",
        "by": "consumer",
        "attempts": 3,
        "at": "2026-11-21T10:30:00.000000Z",
        "requeued": 0,
        "bodyBytes": letter["bodyBytes"],
    }
    shown = (await operator.get(f"{LETTERS}/{identity}")).json()
    assert shown["headers"]["x-reason"] == "no buy range"
    assert shown["body"] is None
    words = new(4711).text
    assert words is not None
    assert words not in str(shown)
    assert words in (await operator.get(f"{LETTERS}/{identity}", params={"body": True})).json()["body"]
    answer = await operator.post(f"{LETTERS}/{identity}/requeue")
    assert (answer.status_code, answer.json()) == (200, {"id": identity, "queue": CONSUMER_QUEUE})
    await queues.until(1, CONSUMER_QUEUE)
    # Also within the seconds in which the list would still be fresh.
    assert await listed(operator) == []
    for gone in (
        await operator.post(f"{LETTERS}/{identity}/requeue"),
        await operator.get(f"{LETTERS}/{identity}"),
        await operator.delete(f"{LETTERS}/{identity}"),
    ):
        assert gone.status_code == 404
        assert gone.headers["content-type"] == "application/problem+json"


async def test_a_consumers_letters_are_given_back_together(
    queues: Queues, operator: httpx.AsyncClient
) -> None:
    for message in range(1, 6):
        await queues.park(message)
    await queues.park(6, consumer="gone")
    answer = (await operator.get(LETTERS, params={"limit": 2})).json()
    assert (answer["total"], len(answer["letters"])) == (6, 2)
    answer = (await operator.post(f"{LETTERS}/requeue", json={"consumer": "tp-capital"})).json()
    assert (len(answer["requeued"]), answer["stayed"]) == (5, [])
    await queues.until(5, CONSUMER_QUEUE)
    (letter,) = await listed(operator)
    assert letter["consumer"] == "gone"
    answer = (await operator.post(f"{LETTERS}/requeue", json={"consumer": "gone"})).json()
    assert "telegram.consumer.gone is gone" in answer["stayed"][0]["error"]
    refused = await operator.post(f"{LETTERS}/{letter['id']}/requeue")
    assert refused.status_code == 409
    assert "telegram.consumer.gone is gone" in refused.json()["detail"]
    assert (await operator.delete(f"{LETTERS}/{letter['id']}")).status_code == 204
    assert await listed(operator) == []


async def test_many_pages_that_ask_at_once_see_the_same(queues: Queues, operator: httpx.AsyncClient) -> None:
    for message in range(1, 21):
        await queues.park(message)
    assert (await operator.get("/api/gateway/status")).status_code == 200  # which makes its token, once
    pages = await asyncio.gather(*(listed(operator) for _ in range(20)))
    assert all(page == pages[0] and len(page) == 20 for page in pages)


async def test_letters_of_chats_that_a_token_may_not_see_do_not_exist_for_it(
    api: Api, queues: Queues, operator: httpx.AsyncClient
) -> None:
    await queues.park(1)
    await queues.park(2, channel="-1009999999999")
    limited = api.client(scopes=("admin",), chats=(CHANNEL,))
    assert [letter["messageId"] for letter in await listed(limited)] == [1]
    (hidden,) = [letter["id"] for letter in await listed(operator) if letter["messageId"] == 2]
    assert (await limited.get(f"{LETTERS}/{hidden}")).status_code == 404
    assert (await limited.post(f"{LETTERS}/{hidden}/requeue")).status_code == 404
    assert (await limited.delete(f"{LETTERS}/{hidden}")).status_code == 404
    answer = (await limited.post(f"{LETTERS}/requeue", json={"consumer": "tp-capital"})).json()
    assert len(answer["requeued"]) == 1
    assert [letter["id"] for letter in await listed(operator)] == [hidden]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", LETTERS),
        ("GET", f"{LETTERS}/0123456789abcdef"),
        ("POST", f"{LETTERS}/0123456789abcdef/requeue"),
        ("POST", f"{LETTERS}/requeue"),
        ("DELETE", f"{LETTERS}/0123456789abcdef"),
    ],
)
async def test_only_an_admin_may(api: Api, method: str, path: str) -> None:
    body = {"consumer": "tp-capital"} if path.endswith("s/requeue") else None
    assert (await api.client_with(None).request(method, path, json=body)).status_code == 401
    for scope in ("read", "process"):
        assert (await api.client(scopes=(scope,)).request(method, path, json=body)).status_code == 403


async def test_without_the_broker_the_answer_is_to_come_back_later(
    api: Api, operator: httpx.AsyncClient
) -> None:
    await api.stack.rabbitmq.stop()
    try:
        await asyncio.sleep(FRESH_SECONDS)
        for answer in (
            await operator.get(LETTERS),
            await operator.post(f"{LETTERS}/requeue", json={"consumer": "tp-capital"}),
        ):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert "retry-after" in answer.headers
    finally:
        await api.stack.rabbitmq.start()
    async with asyncio.timeout(90):
        while (await operator.get(LETTERS)).status_code != 200:
            await asyncio.sleep(0.1)
