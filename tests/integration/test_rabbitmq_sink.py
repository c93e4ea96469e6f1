"""The RabbitMQ sink against a real broker, read by an independent client: content, order, outages."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aio_pika
import pytest
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aiomisc.pytest import TCPProxy

from gateway.errors import ConfigurationError, RecordsRefused, SinkUnavailable
from gateway.event import Event, decode, encode
from gateway.event_message import EXCHANGE
from gateway.journal import Batch, Journal
from gateway.localstack import LocalStack
from gateway.localstack.process import run_once
from gateway.metrics import RABBITMQ_BLOCKED, REGISTRY
from gateway.sinks.rabbitmq import RabbitMQSink
from gateway.sinks.runner import SinkRunner
from tests.clock import ticking
from tests.sink_events import CHANNEL, deleted, edited, new, records

PATIENCE_SECONDS = 120.0
_RABBITMQCTL = "/usr/lib/rabbitmq/bin/rabbitmqctl"


@pytest.fixture
async def channel(stack: LocalStack) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(stack.rabbitmq.url)
    yield await connection.channel()
    await connection.close()


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RabbitMQSink]:
    sink = RabbitMQSink(url)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


@pytest.fixture
async def sink(stack: LocalStack) -> AsyncIterator[RabbitMQSink]:
    async with opened(stack.rabbitmq.url) as sink:
        yield sink


@pytest.fixture
async def queue(channel: AbstractChannel, sink: RabbitMQSink) -> AsyncIterator[AbstractQueue]:
    """A quorum queue that gets everything, as consumers have them."""
    queue = await channel.declare_queue("test.sink", durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(EXCHANGE, "telegram.channel.#")
    yield queue
    await queue.delete(if_unused=False, if_empty=False)


async def take(queue: AbstractQueue, count: int) -> list[AbstractIncomingMessage]:
    taken: list[AbstractIncomingMessage] = []
    async with asyncio.timeout(PATIENCE_SECONDS), queue.iterator(no_ack=True) as messages:
        async for message in messages:
            taken.append(message)
            if len(taken) == count:
                break
    return taken


async def drain(url: str, name: str) -> list[Event]:
    """Everything in the queue, read over a new connection."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(name)
        events = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (message := await queue.get(no_ack=True, fail=False, timeout=60)) is not None:
                events.append(decode(message.body))
        return events


async def test_a_message_arrives_with_its_key_headers_and_properties(
    sink: RabbitMQSink, queue: AbstractQueue
) -> None:
    posted = datetime(2026, 3, 4, 12, 30, 15, tzinfo=UTC)
    event = new(41, telegram_date=posted)
    await sink.deliver(records(event))
    (message,) = await take(queue, 1)
    assert message.body == encode(event)
    assert message.exchange == EXCHANGE
    assert message.routing_key == f"telegram.channel.{CHANNEL}"
    assert message.content_type == "application/json"
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.message_id == event.id
    assert message.timestamp == posted
    assert message.headers == {
        "x-source": "telegram-gateway",
        "x-channel-id": CHANNEL,
        "x-account": "main",
        "x-kind": "message.new",
        "x-schema": 1,
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": event.id,
        "cloudEvents_source": f"/telegram/{CHANNEL}",
        "cloudEvents_type": "message.new",
        "cloudEvents_subject": "41",
        "cloudEvents_time": "2026-03-04T12:30:15Z",
    }


async def test_edits_and_deletions_carry_their_kind(sink: RabbitMQSink, queue: AbstractQueue) -> None:
    edit, deletion = edited(41, "VENDA"), deleted(41)
    private = new(5, channel="99", scope=1001)
    await sink.deliver(records(edit, deletion, private))
    first, second, third = await take(queue, 3)
    assert first.routing_key == f"telegram.channel.{CHANNEL}.edited"
    assert first.headers["x-kind"] == first.headers["cloudEvents_type"] == "message.edited"
    assert (first.body, first.message_id) == (encode(edit), edit.id)
    assert second.routing_key == f"telegram.channel.{CHANNEL}.deleted"
    assert second.headers["x-kind"] == "message.deleted"
    assert (second.body, second.message_id) == (encode(deletion), deletion.id)
    assert third.routing_key == "telegram.channel.99"
    assert third.headers["x-channel-id"] == "99"
    assert third.headers["cloudEvents_source"] == "/telegram/1001/99"


async def test_bodies_of_every_size_arrive_whole(sink: RabbitMQSink, queue: AbstractQueue) -> None:
    frame = 131072 - 8
    empty = len(encode(new(1, text="")))
    sizes = [empty, frame - 1, frame, frame + 1, 2 * frame, 2 * frame + 1, 1_000_000]
    events = [new(1, text="x" * (size - empty)) for size in sizes]
    await sink.deliver(records(*events))
    assert [len(message.body) for message in await take(queue, len(events))] == [
        len(encode(event)) for event in events
    ]


async def test_a_large_batch_arrives_in_order(sink: RabbitMQSink, queue: AbstractQueue) -> None:
    events = [new(message, channel=f"-100{message % 7}") for message in range(1, 2001)]
    await sink.deliver(records(*events))
    assert [message.message_id for message in await take(queue, 2000)] == [event.id for event in events]


async def test_messages_that_no_queue_is_bound_for_are_delivered_and_counted(sink: RabbitMQSink) -> None:
    def unrouted() -> float:
        return REGISTRY.get_sample_value("telegram_gateway_rabbitmq_unrouted_total") or 0

    before = unrouted()
    await sink.deliver(records(*(new(message) for message in range(1, 101))))
    await sink.deliver(records(new(101, text="x" * 300_000)))
    assert unrouted() - before == 101


async def test_it_works_under_uvloop_too(stack: LocalStack, queue: AbstractQueue) -> None:
    async def work() -> None:
        async with opened(stack.rabbitmq.url) as sink:
            await sink.deliver(records(new(1), new(2)))

    await asyncio.to_thread(uvloop.run, work())
    assert len(await take(queue, 2)) == 2


async def test_the_exchange_is_declared_where_it_is_missing(
    sink: RabbitMQSink, channel: AbstractChannel
) -> None:
    await channel.exchange_delete(EXCHANGE)
    with pytest.raises(SinkUnavailable, match="no exchange"):
        await sink.deliver(records(new(1)))
    await sink.open()
    await sink.deliver(records(new(1)))
    await channel.declare_exchange(EXCHANGE, "topic", durable=True)


async def test_a_body_above_the_brokers_limit_is_refused_and_the_others_are_delivered(
    stack: LocalStack, queue: AbstractQueue
) -> None:
    await control(stack, "eval", "application:set_env(rabbit, max_message_size, 2000).")
    try:
        async with opened(stack.rabbitmq.url) as sink:
            batch = records(new(1), new(2, text="x" * 5000), new(3))
            # The limit is the broker's and becomes known by running into it.
            with pytest.raises(SinkUnavailable, match="larger than"):
                await sink.deliver(batch)
            await sink.open()
            with pytest.raises(RecordsRefused) as refused:
                await sink.deliver(batch)
            assert list(refused.value.reasons) == [2]
            assert [message.message_id for message in await take(queue, 3)][-2:] == [new(1).id, new(3).id]
    finally:
        await control(stack, "eval", "application:set_env(rabbit, max_message_size, 16777216).")


@pytest.mark.parametrize(("change", "hint"), [("password", "TELEGRAM_RABBITMQ_PASSWORD"), ("vhost", "host")])
async def test_a_refused_login_says_what_to_do(stack: LocalStack, change: str, hint: str) -> None:
    if change == "password":
        sink = RabbitMQSink(stack.rabbitmq.url, password="wrong")
    else:
        sink = RabbitMQSink(stack.rabbitmq.url + "x")
    with pytest.raises(ConfigurationError, match=hint) as error:
        await sink.open()
    assert stack.passwords.rabbitmq not in str(error.value)


async def test_nobody_or_somebody_else_listening_is_an_outage(stack: LocalStack) -> None:
    for port in (1, stack.redis.port):
        async with ticking() as clock:
            with pytest.raises(SinkUnavailable):
                await RabbitMQSink(f"amqp://127.0.0.1:{port}/").open()
            assert clock.time() < 6


async def control(stack: LocalStack, *command: str) -> None:
    rabbitmq = stack.rabbitmq
    await run_once(
        rabbitmq.site.identity.command(_RABBITMQCTL, *command), rabbitmq.directory, rabbitmq.variables()
    )


@contextlib.asynccontextmanager
async def running(runner: SinkRunner) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        yield
        task.cancel()


async def until_caught_up(runner: SinkRunner, journal: Journal) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await runner.wait_caught_up(journal.last_seq)


def assert_repeats_only(events: Sequence[Event], expected: Sequence[Event]) -> None:
    """Everything arrived, and what is seen for the first time is, in each chat, in journal order."""
    first_seen = list(dict.fromkeys(event.id for event in events))
    assert set(first_seen) == {event.id for event in expected}
    chat = {event.id: event.chat_key for event in expected}
    for key in set(chat.values()):
        assert [identity for identity in first_seen if chat[identity] == key] == [
            event.id for event in expected if event.chat_key == key
        ]


async def test_a_broker_that_blocks_publishers_is_down_with_its_reason_and_loses_nothing(
    stack: LocalStack, queue: AbstractQueue, tmp_path: Path
) -> None:
    async with Journal(tmp_path / "journal.db", sinks=("rabbitmq",)) as journal:
        runner = SinkRunner(RabbitMQSink(stack.rabbitmq.url), journal)
        async with running(runner):
            await journal.append(Batch("main", [new(1)]))
            await until_caught_up(runner, journal)
            await control(stack, "set_vm_memory_high_watermark", "absolute", "1000")
            try:
                await journal.append(Batch("main", [new(message) for message in range(2, 12)]))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while runner.health.up:
                        await asyncio.sleep(0.05)
                assert runner.health.reason is not None
                assert "blocks publishers (low on memory)" in runner.health.reason
                assert runner.health.lag_events == 10
                assert RABBITMQ_BLOCKED._value.get() == 1
            finally:
                await control(stack, "set_vm_memory_high_watermark", "0.4")
            await until_caught_up(runner, journal)
            assert runner.health.up
            assert RABBITMQ_BLOCKED._value.get() == 0
    # It held on to its connection: nothing is even repeated.
    assert [message.message_id for message in await take(queue, 11)] == [new(n).id for n in range(1, 12)]


async def test_a_broker_frozen_in_the_middle_of_a_batch_repeats_and_never_swaps(
    stack: LocalStack, queue: AbstractQueue, tmp_path: Path
) -> None:
    expected = [new(message, channel=f"-100{message % 3}") for message in range(1, 3001)]
    async with Journal(tmp_path / "journal.db", sinks=("rabbitmq",)) as journal:
        runner = SinkRunner(RabbitMQSink(stack.rabbitmq.url), journal, batch_events=300)
        await journal.append(Batch("main", expected))
        async with running(runner):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await runner.wait_caught_up(300)
            stack.rabbitmq.pause()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while runner.health.up:
                        await asyncio.sleep(0.05)
                assert runner.health.reason is not None
                assert "confirmed nothing" in runner.health.reason
            finally:
                stack.rabbitmq.resume()
            await until_caught_up(runner, journal)
    assert_repeats_only(await drain(stack.rabbitmq.url, queue.name), expected)


async def test_a_broker_killed_under_load_repeats_and_never_swaps(
    stack: LocalStack, channel: AbstractChannel, sink: RabbitMQSink, tmp_path: Path
) -> None:
    name = "test.sink.killed"
    await (await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})).bind(
        EXCHANGE, "telegram.channel.#"
    )
    expected = [new(message, channel=f"-100{message % 3}") for message in range(1, 3001)]
    async with Journal(tmp_path / "journal.db", sinks=("rabbitmq",)) as journal:
        runner = SinkRunner(RabbitMQSink(stack.rabbitmq.url), journal, batch_events=300)
        await journal.append(Batch("main", expected[:1500]))
        async with running(runner):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await runner.wait_caught_up(300)
            # RabbitMQ 3.10 itself never finds a leader again for a quorum queue that was declared within
            # about a second before the crash.
            await asyncio.sleep(3)
            await journal.append(Batch("main", expected[1500:]))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await runner.wait_caught_up(1800)
            await stack.rabbitmq.kill()
            await stack.rabbitmq.start()
            await until_caught_up(runner, journal)
    assert_repeats_only(await drain(stack.rabbitmq.url, name), expected)
    async with await aio_pika.connect(stack.rabbitmq.url) as connection:
        await (await connection.channel()).queue_delete(name)


async def test_connections_cut_at_any_moment_repeat_and_never_swap(
    stack: LocalStack, queue: AbstractQueue, tmp_path: Path
) -> None:
    expected = [new(message, channel=f"-100{message % 3}") for message in range(1, 6001)]
    async with (
        TCPProxy("127.0.0.1", stack.rabbitmq.port) as proxy,
        Journal(tmp_path / "journal.db", sinks=("rabbitmq",)) as journal,
    ):
        url = stack.rabbitmq.url.replace(f":{stack.rabbitmq.port}/", f":{proxy.proxy_port}/")
        runner = SinkRunner(RabbitMQSink(url), journal, batch_events=200)
        async with running(runner):
            for start in range(0, len(expected), 500):
                await journal.append(Batch("main", expected[start : start + 500]))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not proxy.clients:
                        await asyncio.sleep(0.005)
                await asyncio.sleep(random.uniform(0, 0.15))
                await proxy.disconnect_all()
            await until_caught_up(runner, journal)
    assert_repeats_only(await drain(stack.rabbitmq.url, queue.name), expected)
