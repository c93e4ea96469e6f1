"""What a real consumer finds on a real broker is what the AsyncAPI document says, down to the headers."""

import asyncio
import json
import re
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import FieldValue
from jsonschema import Draft202012Validator

from gateway.consumer import ConsumerSettings
from gateway.consumer.broker import Broker, DeadLetters
from gateway.contracts import asyncapi_document
from gateway.contracts.examples import EXAMPLES
from gateway.dead_letter import read_letter
from gateway.dead_letters import QUEUE
from gateway.sinks.base import ReplayedRecord
from gateway.sinks.rabbitmq import RabbitMQSink
from tests.sink_events import records

DOCUMENT = asyncapi_document()
ADDRESSES = {
    channel["address"]: DOCUMENT["components"]["messages"][name]
    for channel in DOCUMENT["channels"].values()
    for name in channel["messages"]
}


def validate(part: dict[str, Any], value: Any) -> None:
    Draft202012Validator({**part, "components": DOCUMENT["components"]}).validate(value)


def described(routing_key: str) -> dict[str, Any]:
    """The one message whose channel's address the key is of."""
    (message,) = [
        message
        for address, message in ADDRESSES.items()
        if re.fullmatch(re.escape(address).replace(r"\{channelId\}", r"[^.]+"), routing_key)
    ]
    return dict(message)


async def test_messages_are_what_the_document_says(rabbitmq_url: str) -> None:
    written = records(*EXAMPLES)
    replayed = ReplayedRecord(99, written[0].body)
    connection = await aio_pika.connect(rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        sink = RabbitMQSink(rabbitmq_url)
        await sink.open()
        await queue.bind("telegram.messages", "telegram.channel.#")
        await sink.deliver([*written, replayed])
        await sink.close()
        messages = [await _next(queue) for _ in range(len(EXAMPLES) + 1)]
    for event, message in zip([*EXAMPLES, EXAMPLES[0]], messages, strict=True):
        told = described(message.routing_key or "")
        assert told["name"] == event.kind
        validate(told["headers"], message.headers)
        validate(told["payload"], json.loads(message.body))
        assert message.content_type == told["contentType"]
        assert message.message_id == message.headers["cloudEvents_id"] == event.id
        assert message.delivery_mode == 2
        assert message.headers.keys() <= DOCUMENT["components"]["schemas"]["Headers"]["properties"].keys()
    # The examples of the document are these messages.
    for message in messages[:-1]:
        examples = described(message.routing_key or "")["examples"]
        assert {"headers": message.headers, "payload": json.loads(message.body)} in [
            {part: example[part] for part in ("headers", "payload")} for example in examples
        ]


async def test_dead_letters_of_both_ways_are_what_the_document_says(rabbitmq_url: str) -> None:
    settings = ConsumerSettings(name="contracts", state="none", rabbitmq_url=rabbitmq_url)
    connection = await aio_pika.connect(rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        letters = await channel.declare_queue(QUEUE, passive=True)
        await letters.purge()
        arguments: dict[str, FieldValue] = {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "telegram.messages.dlx",
        }
        own = await channel.declare_queue(settings.queue, durable=True, arguments=arguments)
        try:
            message = aio_pika.Message(b"no event", message_id="1", headers={"x-kind": "message.new"})
            for _ in range(2):
                await channel.default_exchange.publish(message, routing_key=settings.queue)
            await (await _next(own, no_ack=False)).reject(requeue=False)
            given_up = await _next(own)
            parking = DeadLetters(Broker(settings), settings)
            await parking.park(
                given_up.body,
                message_id=given_up.message_id,
                headers=given_up.headers,
                routing_key="x",
                queue=settings.queue,
                reason="the body is no event",
                attempts=1,
            )
            await parking.close()
            found = [await _next(letters) for _ in range(2)]
        finally:
            await own.delete(if_unused=False, if_empty=False)
    told = ADDRESSES["telegram.messages.dlq"]
    for dead in found:
        validate(told["headers"], _without_moments(dead.headers))
    by_whom = {read_letter(dead).by: read_letter(dead) for dead in found}
    assert set(by_whom) == {"consumer", "broker"}
    assert {letter.consumer for letter in by_whom.values()} == {"contracts"}
    assert {letter.queue for letter in by_whom.values()} == {settings.queue}
    assert (by_whom["consumer"].reason, by_whom["consumer"].attempts) == ("the body is no event", 1)


async def _next(queue: aio_pika.abc.AbstractQueue, *, no_ack: bool = True) -> AbstractIncomingMessage:
    async with asyncio.timeout(60):
        while (message := await queue.get(no_ack=no_ack, fail=False)) is None:
            await asyncio.sleep(0.02)
    return message


def _without_moments(headers: dict[str, Any]) -> Any:
    return json.loads(json.dumps(headers, default=str))
