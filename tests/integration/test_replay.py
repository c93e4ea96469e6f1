"""`telegram-gateway replay` on real servers: from the journal, from the database, to each sink."""

import asyncio
import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import msgspec
import pytest
import redis.asyncio as aioredis
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from gateway.database import Migrator, connect_direct, load_migrations
from gateway.database.connection import Connection
from gateway.event import Event, decode, encode, utc_now
from gateway.event_message import EXCHANGE
from gateway.journal import Batch, Journal
from gateway.localstack import LocalStack
from gateway.sinks.redis import RedisSink
from gateway.sinks.timescale import TimescaleSink
from tests.integration.test_timescale_sink import FULL
from tests.patience import patience
from tests.sink_events import deleted, edited, new, records

SINKS = ("timescaledb", "redis", "rabbitmq")
CHATS = ("-1001", "-1002", "-1003")


@dataclass
class Office:
    """A gateway's journal and servers, and a shell to run the command in."""

    stack: LocalStack
    state_dir: Path
    queue: AbstractQueue
    database: Connection

    async def gone_by(self, events: Sequence[Event], *, sinks: Sequence[str] = SINKS) -> None:
        """`events` have gone their way: through the journal, which keeps a week, into the database."""
        sink = TimescaleSink(self.stack.pgbouncer.dsn())
        await sink.open()
        async with Journal(self.state_dir / "journal.db", sinks=SINKS) as journal:
            for start in range(0, len(events), 500):
                await journal.append(Batch("main", events[start : start + 500]))
                await sink.deliver(records(*events[start : start + 500]))
            for name in sinks:
                await journal.advance(name, journal.last_seq)
        async with Journal(self.state_dir / "journal.db", sinks=sinks) as journal:
            await journal.prune()
        await sink.close()

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "replay", *arguments),
            env=os.environ
            | self.stack.environment
            | {"TELEGRAM_STATE_DIR": str(self.state_dir)}
            | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def replay(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = await self.start(*arguments, **environment)
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def published(self) -> list[AbstractIncomingMessage]:
        """What has come to the queue since the last look."""
        count = await self.waiting()
        async with self.queue.iterator(no_ack=True) as messages:
            return [await anext(messages) for _ in range(count)]

    async def waiting(self) -> int:
        """How many messages are in the queue."""
        found = await self.queue.channel.declare_queue("test.replay", passive=True)
        return found.declaration_result.message_count or 0

    async def replayed(self) -> list[Event]:
        messages = await self.published()
        for message in messages:
            assert message.headers["x-replay"] is True
            assert datetime.fromisoformat(str(message.headers["x-replayed-at"])) <= utc_now()
            assert message.message_id == decode(message.body).id
        return [decode(message.body) for message in messages]


@pytest.fixture
async def office(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Office]:
    database = await connect_direct(stack.postgres.dsn)
    await Migrator(database, load_migrations()).migrate(lambda _: None)
    await database.execute(
        "TRUNCATE telegram_gateway.messages, telegram_gateway.message_revisions, telegram_gateway.channels"
    )
    broker = await aio_pika.connect(stack.rabbitmq.url)
    channel = await broker.channel()
    await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("test.replay", durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(EXCHANGE, "telegram.channel.#")
    yield Office(stack, tmp_path, queue, database)
    await queue.delete(if_unused=False, if_empty=False)
    await broker.close()
    database.terminate()


def fortnight() -> list[Event]:
    """Two weeks in three chats, with edits and deletions; the journal will keep the second one."""
    begin = utc_now() - timedelta(days=14)
    events = []
    for number in range(1, 1001):
        at = begin + timedelta(minutes=20 * number, microseconds=number)
        chat = CHATS[number % 3]
        events.append(new(number, channel=chat, telegram_date=at.replace(microsecond=0), received_at=at))
        if number % 5 == 0:
            at += timedelta(seconds=40)
            events.append(edited(number, f"corrigido {number}", channel=chat, received_at=at, edit_date=at))
        if number % 7 == 0:
            gone = deleted(number - 3, channel=chat)
            events.append(msgspec.structs.replace(gone, received_at=at + timedelta(seconds=50)))
    return events


def by_chat(events: Sequence[Event]) -> dict[str, list[Event]]:
    found = defaultdict(list)
    for event in events:
        found[event.channel_id].append(event)
    return found


async def test_what_the_journal_has_pruned_comes_from_the_database_and_each_event_once(
    office: Office,
) -> None:
    events = fortnight()
    await office.gone_by(events)
    async with Journal(office.state_dir / "journal.db", sinks=SINKS) as journal:
        held = await journal.stats()
    assert len(events) / 3 < held.rows < 2 * len(events) / 3, "each of the two sources has its part"

    code, said = await office.replay("--sink", "rabbitmq", "--since", "30d")
    assert code == 0, said
    assert f"{len(events)} events delivered to rabbitmq" in said
    found = await office.replayed()
    assert len(found) == len(events)
    # In the order in which each chat's events came, and with the same content.
    assert by_chat(found) == by_chat(events)


async def test_beside_a_running_gateway_a_part_of_one_chat_is_replayed_to_the_rule(office: Office) -> None:
    events = fortnight()
    await office.gone_by(events)
    since, until = events[100].received_at, events[1000].received_at
    wanted = [e for e in events[100:1000] if e.channel_id == CHATS[1]]
    span = ("--since", since.isoformat(), "--until", until.isoformat())
    async with Journal(office.state_dir / "journal.db", sinks=SINKS):  # as the daemon has it open
        code, said = await office.replay("--sink", "rabbitmq", "--chat", CHATS[1], *span, "--dry-run")
        assert (code, said) == (0, f"{len(wanted)} events would be delivered to rabbitmq\n")
        assert await office.published() == []
        code, said = await office.replay("--sink", "rabbitmq", "--chat", CHATS[1], *span)
    assert code == 0, said
    assert await office.replayed() == wanted


async def test_a_chat_may_be_given_by_its_name_deletions_included(office: Office) -> None:
    at = utc_now() - timedelta(days=10)
    named: dict[str, Any] = {"channel": "-1009", "chat_username": "Sinais_B3", "telegram_date": at}
    gone = msgspec.structs.replace(deleted(1, channel="-1009"), received_at=at + timedelta(seconds=2))
    events = [new(1, received_at=at, **named), new(2, received_at=at, channel="-1008"), gone, new(3, **named)]
    await office.gone_by(events)
    code, said = await office.replay("--sink", "rabbitmq", "--chat", "@sinais_b3", "--since", "30d")
    assert code == 0, said
    assert await office.replayed() == [events[0], events[2], events[3]]
    code, said = await office.replay("--sink", "rabbitmq", "--chat", "@nobody_there", "--since", "30d")
    assert code == 78
    assert "no message of @nobody_there was ever stored" in said


async def test_an_event_from_the_database_is_the_one_that_was_delivered(office: Office) -> None:
    at = (utc_now() - timedelta(days=20)).replace(microsecond=123456)
    when: dict[str, Any] = {"telegram_date": at.replace(microsecond=0), "received_at": at}
    events = [
        new(1, **when),
        new(2, **{**FULL, **when, "text": None}),
        new(3, channel="777000", scope=42, **when),
        new(4, sender=None, text="", message_type="service", **when),
        edited(5, "mudou", **when, metadata={"ratio": 0.5}),
        msgspec.structs.replace(deleted(6, channel="777000", scope=42), received_at=at),
    ]
    await office.gone_by([*events, new(7)])
    code, said = await office.replay("--sink", "rabbitmq", "--since", "30d", "--until", "10d")
    assert code == 0, said
    bodies = {message.message_id: message.body for message in await office.published()}
    assert {name: decode(body) for name, body in bodies.items()} == {e.id: e for e in events}
    for event in events:
        # To the byte, but for the order of keys inside nested objects, which jsonb does not keep.
        assert msgspec.json.decode(bodies[event.id]) == msgspec.json.decode(encode(event))
        if event.message_id != 2:
            assert bodies[event.id] == encode(event)


async def test_a_replay_to_the_cache_brings_back_the_hour_and_never_an_older_revision(office: Office) -> None:
    environment = office.stack.environment
    client: aioredis.Redis = aioredis.from_url(environment["TELEGRAM_REDIS_URL"])
    await client.flushdb()
    now = utc_now()
    old, recent = now - timedelta(hours=5), now - timedelta(minutes=10)
    events = [
        new(1, received_at=old, telegram_date=old),
        new(2, received_at=recent, telegram_date=recent),
        new(3, received_at=recent, telegram_date=recent),
        edited(3, "novo"),
    ]
    await office.gone_by(events)
    newer = edited(2, "mais novo que a repetição")
    sink = RedisSink(environment["TELEGRAM_REDIS_URL"], password=environment.get("TELEGRAM_REDIS_PASSWORD"))
    with patience():
        await sink.open()
        await sink.deliver(records(newer))
        await sink.close()

    code, said = await office.replay("--sink", "redis", "--since", "7d")
    assert code == 0, said
    assert "the cache holds an hour" in said
    assert "3 events delivered to redis" in said
    texts: list[Any] = [
        await client.get(f"telegram:msg:{events[0].channel_id}:{number}") for number in (1, 2, 3)
    ]
    assert texts[0] is None
    assert [decode(text).text for text in texts[1:]] == [newer.text, "novo"]
    await client.aclose()


async def test_a_replay_to_the_database_fills_in_what_is_missing_and_repeats_nothing(office: Office) -> None:
    events = fortnight()
    await office.gone_by(events)
    async with Journal(office.state_dir / "journal.db", sinks=SINKS) as journal:
        first = (await journal.read(0, 1))[0].event.received_at
    stored = "SELECT event_id FROM telegram_gateway.event_log WHERE received_at >= $1 ORDER BY event_id"
    before = await office.database.fetch(stored, first)
    assert len(before) > 400
    await office.database.execute("DELETE FROM telegram_gateway.messages WHERE message_id % 2 = 0")

    code, said = await office.replay("--sink", "timescaledb", "--since", "30d")
    assert code == 78
    assert "the journal reaches back to" in said
    since = re.search(r"reaches back to (\S+ \S+) UTC", said)
    assert since is not None
    edge = datetime.fromisoformat(since[1] + "+00:00") + timedelta(seconds=1)
    code, said = await office.replay("--sink", "timescaledb", "--since", edge.isoformat())
    assert code == 0, said
    wanted = list(await office.database.fetch(stored, edge))
    assert [row["event_id"] for row in wanted] == sorted(e.id for e in events if e.received_at >= edge)
    code, said = await office.replay("--sink", "timescaledb", "--since", edge.isoformat())
    assert code == 0, said
    assert await office.database.fetch(stored, edge) == wanted


async def test_what_cannot_be_replayed_whole_is_refused_in_one_line(office: Office) -> None:
    await office.gone_by(fortnight(), sinks=("redis", "rabbitmq"))
    code, said = await office.replay("--sink", "rabbitmq", "--since", "30d", TELEGRAM_ENABLE_DB="false")
    assert (code, said.count("\n")) == (78, 1), said
    assert "TELEGRAM_ENABLE_DB is off" in said
    code, said = await office.replay("--sink", "rabbitmq", "--since", "30d")
    assert (code, said.count("\n")) == (1, 1), said
    assert "the database still waits for events" in said
    code, said = await office.replay("--sink", "redis", "--since", "1h", TELEGRAM_ENABLE_CACHE="false")
    assert (code, said.count("\n")) == (78, 1), said
    assert "TELEGRAM_ENABLE_CACHE=true" in said
    assert await office.published() == []


async def test_an_interrupted_replay_says_where_to_go_on(office: Office) -> None:
    begin = utc_now() - timedelta(hours=2)
    events = [
        new(number, received_at=begin + timedelta(milliseconds=400 * number)) for number in range(1, 6_001)
    ]
    await office.gone_by(events)
    for _ in range(5):
        process = await office.start("--sink", "rabbitmq", "--since", "1d")
        async with asyncio.timeout(120):
            while await office.waiting() < 1000:
                await asyncio.sleep(0.02)
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
        said = output.decode()
        if process.returncode != 0:
            break
        # On a busy machine it may be through before it is looked at.
        await office.queue.purge()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    hint = re.search(r"stopped after (\d+) events; go on with --since (\S+)", said)
    assert hint is not None, said
    first = {event.id for event in await office.replayed()}
    assert int(hint[1]) <= len(first) < len(events)
    code, said = await office.replay("--sink", "rabbitmq", "--since", hint[2])
    assert code == 0, said
    second = await office.replayed()
    assert first | {event.id for event in second} == {event.id for event in events}
    assert len(second) < len(events)


async def test_events_that_no_queue_is_bound_for_are_told(office: Office) -> None:
    await office.gone_by([new(number) for number in range(1, 6)])
    await office.queue.unbind(EXCHANGE, "telegram.channel.#")
    code, said = await office.replay("--sink", "rabbitmq", "--since", "1h")
    assert code == 0, said
    assert "5 events delivered to rabbitmq" in said
    assert "no queue was bound for 5 of them" in said
