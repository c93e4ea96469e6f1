"""The live stream: nothing missing and nothing twice, whoever leaves, comes back, or goes away."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace

from gateway.api.stream_cursor import Progress, microseconds
from gateway.event import Event, utc_now
from gateway.localstack import LocalStack
from gateway.sinks.rabbitmq import RabbitMQSink
from gateway.sinks.timescale import TimescaleSink
from tests.api.conftest import Api, running_api
from tests.sink_events import CHANNEL, deleted, edited, new, records

OTHER = "-1001700000002"
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Received:
    """One event of a stream."""

    id: str
    kind: str
    data: str

    @property
    def event_id(self) -> str:
        return str(json.loads(self.data)["id"])


class Source:
    """The two sinks that the stream is fed from, and the numbers of their messages."""

    def __init__(self, stack: LocalStack) -> None:
        self._rabbitmq = RabbitMQSink(stack.environment["TELEGRAM_RABBITMQ_URL"])
        self._database = TimescaleSink(stack.environment["TELEGRAM_DB_DSN"])
        self._publishing = self._storing = False
        self._number = int(time.time() * 1000) % 10**9 * 100

    def number(self) -> int:
        self._number += 1
        return self._number

    def make(self, count: int, *, channel: str = CHANNEL, **fields: Any) -> list[Event]:
        return [new(self.number(), channel=channel, **fields) for _ in range(count)]

    async def publish(self, *events: Event) -> None:
        if not self._publishing:
            await self._rabbitmq.open()
            self._publishing = True
        await self._rabbitmq.deliver(records(*events))

    async def store(self, *events: Event) -> None:
        if not self._storing:
            await self._database.open()
            self._storing = True
        await self._database.deliver(records(*events))

    def reconnect(self) -> None:
        """After a server was stopped."""
        self._publishing = self._storing = False

    async def close(self) -> None:
        await self._rabbitmq.close()
        await self._database.close()


class Stream:
    """An open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._events: asyncio.Queue[Received | None] = asyncio.Queue()
        self.begun = asyncio.Event()
        self.last_id: str | None = None
        self.comments: list[str] = []

    async def read(self) -> None:
        """Takes all that comes, as fast as it comes."""
        fields: dict[str, str] = {}
        async for line in self._response.aiter_lines():
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                fields[name] = value
            else:
                self.last_id = fields.get("id", self.last_id)
                if "data" in fields:
                    received = Received(fields.get("id", ""), fields["event"], fields["data"])
                    self._events.put_nowait(received)
                elif "id" in fields:
                    self.begun.set()
                fields = {}
        self._events.put_nowait(None)

    async def next(self, seconds: float = PATIENCE_SECONDS) -> Received:
        """The next event. Raises TimeoutError, and EOFError at the end."""
        async with asyncio.timeout(seconds):
            received = await self._events.get()
        if received is None:
            raise EOFError
        return received

    async def take(self, count: int) -> list[Received]:
        return [await self.next() for _ in range(count)]

    async def nothing(self, seconds: float = 0.5) -> None:
        with contextlib.suppress(TimeoutError):
            pytest.fail(f"one more came: {await self.next(seconds)}")


@asynccontextmanager
async def listening(
    api: Api, last_id: str | None = None, *, client: httpx.AsyncClient | None = None, query: str = ""
) -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with (client or api.client()).stream("GET", f"/api/stream{query}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        stream = Stream(response)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(stream.read())
            yield stream
            reading.cancel()


async def opened(stream: Stream) -> Stream:
    """The stream, once it has said where it begins."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await stream.begun.wait()
    return stream


async def until_live(stream: Stream, source: Source) -> None:
    """Returns once RabbitMQ brings events again; the database does not have these."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await source.publish(*source.make(1))
            with contextlib.suppress(TimeoutError):
                await stream.next(0.5)
                return


@pytest_asyncio.fixture(scope="module")
async def second_api(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """Another process of the API, behind the same name."""
    async with running_api(stack, tmp_path_factory.mktemp("second")) as running:
        yield running


@pytest_asyncio.fixture
async def source(stack: LocalStack) -> AsyncIterator[Source]:
    source = Source(stack)
    yield source
    await source.close()


async def test_events_come_as_they_happen_and_in_camel_case(api: Api, source: Source) -> None:
    async with listening(api) as stream:
        await opened(stream)
        message = source.make(1, reply_to={"message_id": 3, "quote_text": "x"})[0]
        edit, deletion = edited(message.message_id, "25,50"), deleted(message.message_id)
        await source.publish(message, edit, deletion)
        received = await stream.take(3)
        assert [each.kind for each in received] == ["new", "edited", "deleted"]
        assert [each.event_id for each in received] == [message.id, edit.id, deletion.id]
        shown = json.loads(received[0].data)
        assert (shown["channelId"], shown["messageId"]) == (CHANNEL, message.message_id)
        assert shown["replyTo"] == {"messageId": 3, "quoteText": "x"}
        assert shown["receivedAt"] == message.received_at.isoformat().replace("+00:00", "Z")


async def test_the_database_tells_the_same_as_rabbitmq_to_the_byte(
    api: Api, second_api: Api, source: Source
) -> None:
    async with listening(api) as stream:
        begin = (await opened(stream)).last_id
        events = source.make(
            2,
            media_type="document",
            media={"id": 5, "file_name": "x", "size": 1, "attributes": [{"type": "audio", "a": 1.5}]},
            metadata={"views": 3, "action": "pinned", "b": {"z": 1, "a": None}},
            entities=[{"type": "bold", "offset": 0, "length": 3}],
        )
        events += [edited(events[0].message_id, "anew"), deleted(events[1].message_id)]
        await source.publish(*events)
        live = await stream.take(4)
    await source.store(*events)
    async with listening(second_api, begin) as stream:
        stored = await stream.take(4)
        await stream.nothing()
    assert [(each.kind, each.data) for each in stored] == [(each.kind, each.data) for each in live]


async def test_what_two_accounts_saw_comes_once_also_in_another_process(
    api: Api, second_api: Api, source: Source
) -> None:
    """RabbitMQ gets both copies; the database keeps the one that came first, here the second account's."""
    async with listening(api) as stream:
        await opened(stream)
        found = []
        for event in source.make(4):
            twin = replace(event, account="second", received_at=event.received_at + timedelta(milliseconds=1))
            await source.publish(event, twin)
            await source.store(twin)
            found.append(await stream.next())
        await stream.nothing()
    for last in found[-2:]:
        async with listening(second_api, last.id) as stream:
            expected = [each.event_id for each in found[found.index(last) + 1 :]]
            assert [each.event_id for each in await stream.take(len(expected))] == expected
            await stream.nothing()


async def test_filters_and_the_tokens_chats_hold(api: Api, source: Source) -> None:
    some = api.client(chats=[CHANNEL])
    assert (await some.get(f"/api/stream?channelId={OTHER}")).status_code == 404
    async with (
        listening(api, client=some) as restricted,
        listening(api, query=f"?channelId={OTHER}&channelId=-1001700000003") as of_chats,
        listening(api, query="?kind=edited&kind=deleted") as of_kinds,
    ):
        for stream in (restricted, of_chats, of_kinds):
            await opened(stream)
        here, there = source.make(1)[0], source.make(1, channel=OTHER)[0]
        edit = edited(here.message_id, "later")
        await source.publish(here, there, edit)
        assert [each.event_id for each in await restricted.take(2)] == [here.id, edit.id]
        assert (await of_chats.next()).event_id == there.id
        assert (await of_kinds.next()).event_id == edit.id
        for stream in (restricted, of_chats, of_kinds):
            await stream.nothing(0.2)


@pytest.mark.parametrize("seed", [1, 2])
async def test_cut_at_any_point_each_event_comes_exactly_once(
    api: Api, stack: LocalStack, tmp_path: Path, source: Source, seed: int
) -> None:
    """Two accounts and their backfill, received before and during it, stored before or after published; two
    processes of the API, one of which begins in the middle.
    """
    chance = Random(seed)
    chats = [f"-10018{source.number():010}" for _ in range(3)]
    query = "?" + "&".join(f"channelId={chat}" for chat in chats)
    begin = utc_now() - timedelta(hours=1)
    earlier = [
        event
        for number in range(60)
        for event in _burst(source, chance, chats, begin + timedelta(seconds=number + 1))
    ]
    await source.store(*earlier)
    expected = Counter(event.id for event in earlier)
    to_publish: asyncio.Queue[list[Event] | None] = asyncio.Queue()
    to_store: asyncio.Queue[list[Event] | None] = asyncio.Queue()

    async def produce() -> None:
        for _ in range(40):
            burst = _burst(source, chance, chats, utc_now())
            expected.update(event.id for event in burst)
            to_publish.put_nowait(burst)
            to_store.put_nowait(burst)
            await asyncio.sleep(chance.uniform(0, 0.1))
        to_publish.put_nowait(None)
        to_store.put_nowait(None)

    async def deliver(queue: asyncio.Queue[list[Event] | None], *, publish: bool) -> None:
        while (burst := await queue.get()) is not None:
            await asyncio.sleep(Random(len(burst)).uniform(0, 0.05 if publish else 0.1))
            await (source.publish(*burst) if publish else source.store(*burst))

    found: Counter[str] = Counter()

    async def consume() -> None:
        last_id: str | None = Progress(microseconds(begin)).encode("", 0)
        client = {one: one.client() for one in (api, second)}
        deadline = time.monotonic() + 2 * PATIENCE_SECONDS
        while found.total() < expected.total() or not producing.done():
            assert time.monotonic() < deadline, expected - found
            where = chance.choice((api, second))
            async with listening(where, last_id, client=client[where], query=query) as stream:
                for _ in range(chance.randrange(1, 40)):
                    try:
                        received = await stream.next(1.0)
                    except TimeoutError:
                        break
                    found[received.event_id] += received.event_id in expected
                    last_id = received.id

    async with running_api(stack, tmp_path) as second, asyncio.TaskGroup() as group:
        producing = group.create_task(produce())
        group.create_task(deliver(to_publish, publish=True))
        group.create_task(deliver(to_store, publish=False))
        group.create_task(consume())
    assert +found == expected


def _burst(source: Source, chance: Random, chats: list[str], at: datetime) -> list[Event]:
    """What one account receives in one instant."""
    account, origin = chance.choice(("main", "second")), chance.choice(("mtproto", "mtproto", "backfill"))
    channel = chance.choice(chats)
    count = chance.randrange(1, 6)
    fields: dict[str, Any] = {"account": account, "source": origin, "received_at": at, "channel": channel}
    return source.make(count, **fields)


async def test_without_rabbitmq_the_stream_goes_on_from_the_database(api: Api, source: Source) -> None:
    async with listening(api) as stream:
        await opened(stream)
        before, meanwhile, after = (source.make(3) for _ in range(3))
        await source.publish(*before)
        await source.store(*before)
        found = await stream.take(3)
        await api.stack.rabbitmq.stop()
        try:
            took = 4.0
            for _ in range(3):  # the machine may stumble; the way itself must not take longer
                await source.store(*meanwhile[-3:])
                started = time.monotonic()
                found += await stream.take(3)
                took = time.monotonic() - started
                if took < 4.0:
                    break
                meanwhile += source.make(3)
            assert took < 4.0
        finally:
            await api.stack.rabbitmq.start()
            source.reconnect()
        await source.publish(*meanwhile, *after)  # as the sink does when the broker is back
        await source.store(*after)
        found += await stream.take(3)
        await stream.nothing(2.0)
        assert [each.event_id for each in found] == [event.id for event in (*before, *meanwhile, *after)]
        await until_live(stream, source)


async def test_what_the_broker_did_not_bring_comes_from_the_database(api: Api, source: Source) -> None:
    async with listening(api) as stream:
        await opened(stream)
        lost, brought = source.make(1), source.make(1)
        await source.publish(*brought)
        await source.store(*lost, *brought)
        assert {each.event_id for each in await stream.take(2)} == {lost[0].id, brought[0].id}
        await stream.nothing()


async def test_without_the_database_live_goes_on_and_short_breaks_lose_nothing(
    api: Api, source: Source
) -> None:
    client = api.client()
    async with listening(api, client=client) as stream:
        await opened(stream)
        first = source.make(1)[0]
        await source.publish(first)
        last_id = (await stream.next()).id
    await api.stack.pgbouncer.stop()
    try:
        missed, later = source.make(2), source.make(1)
        await source.publish(*missed)
        async with listening(api, last_id, client=client) as stream:
            assert [each.event_id for each in await stream.take(2)] == [event.id for event in missed]
            await source.publish(*later)
            assert (await stream.next()).event_id == later[0].id
        long_ago = Progress(microseconds(utc_now() - timedelta(hours=1))).encode("", 0)
        refused = await client.get("/api/stream", headers={"Last-Event-ID": long_ago})
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    finally:
        await api.stack.pgbouncer.start()
    source.reconnect()
    await source.store(first, *missed, *later)


async def test_a_client_that_is_too_slow_is_cut_off_and_comes_back_for_the_rest(
    stack: LocalStack, source: Source, tmp_path: Path
) -> None:
    async with running_api(stack, tmp_path) as api, listening(api) as fast:
        await opened(fast)
        # Of a lane that begins, a cursor names each event until the database has the first one.
        first = source.make(1)
        await source.publish(*first)
        await source.store(*first)
        await fast.take(1)
        slow = Socket(*await asyncio.open_connection("127.0.0.1", api.port, limit=4096))
        await slow.ask(await api.token())
        # Few and large ones, and stored only afterwards: who takes longer than SEND_SECONDS for what waits
        # in the socket is gone without a word.
        events = source.make(600, text="x" * 20_000)
        for start in range(0, len(events), 50):
            part = events[start : start + 50]
            await source.publish(*part)
            await fast.take(len(part))
        blocks = await slow.read()
        await source.store(*events)
        assert blocks[-1].startswith("event: cut")
        assert "too slow" in blocks[-1]
        had = [block for block in blocks if "\nevent: new" in block]
        assert 0 < len(had) < len(events)
        last_id = had[-1].partition("\n")[0].removeprefix("id: ")
        async with listening(api, last_id) as again:
            rest = [each.event_id for each in await again.take(len(events) - len(had))]
            await again.nothing()
        found = [str(json.loads(block.partition("data: ")[2])["id"]) for block in had] + rest
        assert found == [event.id for event in events]


class Socket:
    """A client that leaves in the socket what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, token: str) -> None:
        head = f"GET /api/stream HTTP/1.0\r\nHost: api\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._writer.write(head.encode())
        answer = await self._reader.readuntil(b"\r\n\r\nretry")
        assert b" 200 OK" in answer

    async def read(self) -> list[str]:
        """All blocks up to the end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            rest = await self._reader.read()
        self._writer.close()
        return [block for block in rest.decode().split("\n\n") if block]


async def test_an_id_that_is_too_old_or_none_of_ours_is_refused(api: Api) -> None:
    client = api.client()
    old = Progress(microseconds(utc_now() - timedelta(days=91))).encode("", 0)
    for last_id, status in ((old, 410), ("nonsense", 422), ("AAAA", 422)):
        for answer in (
            await client.get("/api/stream", headers={"Last-Event-ID": last_id}),
            await client.get("/api/stream", params={"lastEventId": last_id}),
        ):
            assert answer.status_code == status
            assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await api.client_with(None).get("/api/stream")).status_code == 401


async def test_an_idle_stream_has_a_heartbeat_and_ends_with_its_token(api: Api, stack: LocalStack) -> None:
    secret = await api.token()
    async with listening(api, client=api.client_with(secret)) as stream:
        await opened(stream)
        connection = await asyncpg.connect(stack.postgres.dsn)
        await connection.execute(
            "UPDATE telegram_gateway.api_tokens SET revoked_at = now() WHERE id = (SELECT max(id) FROM "
            "telegram_gateway.api_tokens)"
        )
        await connection.close()
        cut = await stream.next()
        assert cut.kind == "cut"
        assert "token" in cut.data


async def test_a_stopping_server_says_so(stack: LocalStack, tmp_path: Path) -> None:
    async with running_api(stack, tmp_path) as api, listening(api) as stream:
        await opened(stream)
        os.kill(api.pid, signal.SIGTERM)
        assert (await stream.next()).kind == "cut"
