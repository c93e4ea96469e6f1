"""Traces: the whole way of one message at a collector, and a gateway that never waits for one."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import pytest_asyncio
from aio_pika.abc import AbstractIncomingMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway.demo.process import GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.spans import CLOSE_SECONDS
from gateway.tracing import TraceIds
from tests.clock import ticking
from tests.e2e.collector import Collector
from tests.e2e.conftest import Rig, running_rig
from tests.e2e.desk import Desk

PATIENCE_SECONDS = 90.0
HELD_UP_SECONDS = 10.0
WORDS = "COMPRA PETR4 a 38,10 agora"
SINKS = {"timescaledb", "redis", "rabbitmq"}
WAY = {"receive", "journal", *(f"deliver {sink}" for sink in SINKS)}
DOCUMENT = Path(__file__).parents[2] / "docs/traces.md"


@pytest_asyncio.fixture(scope="module")
async def collector() -> AsyncIterator[Collector]:
    async with Collector.running() as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def traced(
    stack: LocalStack, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    """A rig whose gateway traces every message."""
    settings = {"TELEGRAM_TRACING_ENDPOINT": collector.endpoint, "TELEGRAM_TRACING_RATIO": "1"}
    async with running_rig(stack, tmp_path_factory.mktemp("traced"), **settings) as running:
        yield running


def values(span: Span) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in span.attributes
    }


def of_trace(spans: list[Span], ids: TraceIds) -> dict[str, Span]:
    return {span.name: span for span in spans if span.trace_id == ids.trace.to_bytes(16)}


def whole_way(spans: list[Span], ids: TraceIds) -> bool:
    """Whether all spans of a message are there, and those of the batches that it went in."""
    ours = of_trace(spans, ids)
    batches = {link.span_id for name in ours if name.startswith("deliver ") for link in ours[name].links}
    return ours.keys() >= WAY and batches <= {span.span_id for span in spans}


async def post(rig: Rig, text: str) -> str:
    """The event id of a new message, once the consumer has it."""
    known = len(rig.consumer.events)
    rig.sandbox.world.post(rig.scene.chats[0], text)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await rig.consumer.wait_for(known + 1)
    return list(rig.consumer.events)[-1]


async def published(rig: Rig, text: str) -> tuple[str, AbstractIncomingMessage]:
    """The event id of a new message, and how RabbitMQ's readers get it."""
    async with await aio_pika.connect(rig.stack.rabbitmq.url) as broker:
        channel = await broker.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("telegram.messages", "#")
        event_id = await post(rig, text)
        return event_id, await queue.get(timeout=10, fail=True)


async def test_off_nothing_for_it_is_imported_and_messages_carry_no_header(
    stack: LocalStack, tmp_path: Path
) -> None:
    # Before the others: their gateway holds the account's lease.
    async with running_rig(stack, tmp_path, PYTHONPROFILEIMPORTTIME="1") as rig:
        _, message = await published(rig, WORDS)
        lines = rig.gateway.log().splitlines()
    assert "traceparent" not in message.headers
    imported = [line for line in lines if line.startswith("import time:")]
    assert any("gateway.tracing" in line for line in imported)
    # redis-py imports what it finds of OpenTelemetry's metrics; nobody imports what makes or sends spans.
    ours = ("gateway.spans", "opentelemetry.sdk.trace", "opentelemetry.exporter")
    assert not [line for line in imported if any(name in line for name in ours)]


async def test_switched_on_without_its_packages_it_needs_a_person(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox:
        answer = await Desk(tmp_path, sandbox).run(
            "run",
            environment={
                "TELEGRAM_TRACING_ENDPOINT": "http://127.0.0.1:4318",
                "PYTHONPATH": str(missing),
            },
        )
    answer.assert_one_line(78, "TELEGRAM_TRACING_ENDPOINT", "install telegram-gateway[tracing]")


async def test_the_trace_of_a_message_shows_its_whole_way_with_times_and_not_its_words(
    traced: Rig, collector: Collector
) -> None:
    began = time.time_ns()
    event_id, message = await published(traced, WORDS)
    ids = TraceIds.of(event_id)
    spans = of_trace(await collector.until(lambda spans: whole_way(spans, ids)), ids)

    assert spans.keys() == WAY
    receive = spans["receive"]
    assert receive.parent_span_id == b""
    assert values(receive)["messaging.message.id"] == event_id
    assert values(receive)["telegram_gateway.account"] == "main"
    for name, span in spans.items():
        assert began < span.start_time_unix_nano <= span.end_time_unix_nano < time.time_ns(), name
        assert name == "receive" or span.parent_span_id == receive.span_id, name
        assert span.start_time_unix_nano >= receive.start_time_unix_nano, name
    assert spans["journal"].end_time_unix_nano == receive.end_time_unix_nano
    for sink in SINKS:
        delivery = spans[f"deliver {sink}"]
        assert delivery.start_time_unix_nano >= receive.end_time_unix_nano, "delivered before it was durable"
        batch = next(span for span in collector.spans if span.span_id == delivery.links[0].span_id)
        assert batch.name == f"batch {sink}"
        assert batch.trace_id != receive.trace_id
        assert receive.span_id in {link.span_id for link in batch.links}

    # A reader of RabbitMQ goes on from the publishing.
    publish = spans["deliver rabbitmq"].span_id.hex()
    assert message.headers["traceparent"] == f"00-{receive.trace_id.hex()}-{publish}-01"
    for word in (WORDS, "PETR4", traced.scene.chats[0].title):
        assert word.encode() not in collector.raw


async def test_a_consumer_goes_on_with_the_trace(traced: Rig, collector: Collector) -> None:
    program = re.search(r"```python\n(.+?)```", DOCUMENT.read_text(), re.DOTALL)
    assert program is not None
    environment = {**traced.stack.environment, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
    consumer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program[1]), env={**environment, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    )
    try:
        await queue_exists(traced, "telegram.consumer.traced")
        ids = TraceIds.of(await post(traced, WORDS))
        both = {"place order", "process traced"}  # the outer one ends later, and may come in a later request
        spans = of_trace(await collector.until(lambda spans: both <= of_trace(spans, ids).keys()), ids)
    finally:
        if consumer.returncode is None:
            consumer.kill()
        await consumer.wait()
        async with await aio_pika.connect(traced.stack.rabbitmq.url) as broker:
            await (await broker.channel()).queue_delete("telegram.consumer.traced")
    assert spans["place order"].parent_span_id == spans["process traced"].span_id
    assert spans["process traced"].parent_span_id == ids.publish.to_bytes(8)


async def queue_exists(rig: Rig, name: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), await aio_pika.connect(rig.stack.rabbitmq.url) as broker:
        while True:
            channel = await broker.channel()
            try:
                queue = await channel.declare_queue(name, passive=True)
                if queue.declaration_result.consumer_count:
                    return
            except aio_pika.exceptions.ChannelNotFoundEntity:
                pass
            await asyncio.sleep(0.05)


async def test_a_collector_that_hangs_delays_and_loses_nothing_and_is_told_once(
    traced: Rig, collector: Collector
) -> None:
    gateway = traced.gateway
    told = gateway.log().count("tracing_collector_away")
    collector.hangs, asked = True, collector.requests
    await post(traced, "so that there is something to send")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while collector.requests == asked:
            await asyncio.sleep(0.02)
    await traced.traffic(200, 400)
    async with ticking() as clock:
        await gateway.wait_delivered(sinks=3)
        assert clock.time() < HELD_UP_SECONDS
    await traced.assert_everything_arrived()
    await logged(gateway, "tracing_collector_away", told + 1)
    back = gateway.log().count("tracing_collector_back")
    collector.hangs = False
    await post(traced, "when it is back")
    await logged(gateway, "tracing_collector_back", back + 1)
    assert gateway.log().count("tracing_collector_away") == told + 1

    collector.hangs = True
    await post(traced, "for the last request")
    async with ticking() as clock:
        assert await gateway.stop() == 0
        assert clock.time() < CLOSE_SECONDS + 3
    collector.hangs = False
    await gateway.start()


async def logged(gateway: GatewayProcess, event: str, times: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while gateway.log().count(event) < times:
            await asyncio.sleep(0.05)


async def test_a_message_that_waits_through_an_outage_and_a_crash_ends_in_the_trace_it_began(
    traced: Rig, collector: Collector
) -> None:
    gateway = traced.gateway
    await traced.stack.redis.kill()
    try:
        ids = TraceIds.of(await post(traced, WORDS))
        await collector.until(lambda spans: "deliver rabbitmq" in of_trace(spans, ids))
        spans = await collector.until(lambda spans: any(map(is_failed_batch, spans)))
        failed = next(filter(is_failed_batch, spans))
        await gateway.kill()
    finally:
        await traced.stack.redis.start()
    await gateway.start()
    way = of_trace(await collector.until(lambda spans: "deliver redis" in of_trace(spans, ids)), ids)
    redis = way["deliver redis"]
    assert redis.parent_span_id == way["receive"].span_id
    waited = (redis.start_time_unix_nano - way["receive"].start_time_unix_nano) / 1e9
    assert "Redis" in failed.status.message
    assert abs(values(redis)["telegram_gateway.waited_seconds"] - waited) < 0.001


def is_failed_batch(span: Span) -> bool:
    return span.name == "batch redis" and span.status.code == Status.STATUS_CODE_ERROR
