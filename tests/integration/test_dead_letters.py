"""Dead letters on a real broker: looking loses, hides, swaps and uses up nothing; requeuing is exact."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
import pytest_asyncio
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aiomisc_pytest import TCPProxy  # type: ignore[import-untyped]
from aiormq.abc import FieldValue
from click.testing import CliRunner, Result

from gateway import dead_letters
from gateway.cli import cli
from gateway.dead_letters import QUEUE, DeadLetters, Selection
from gateway.errors import ConfigurationError, DeadLettersBusy, SinkUnavailable
from gateway.event import decode, encode
from gateway.localstack.stack import CONFIG_DIR
from tests.patience import patience
from tests.sink_events import new

DLX = "telegram.messages.dlx"
NOW = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
DEADLINE = 60.0  # seconds
POLL = 0.02


class Desk:
    """Puts letters where the consumer library puts them, and owns consumers' queues."""

    def __init__(self, channel: AbstractChannel, url: str) -> None:
        self.channel = channel
        self.url = url
        self.letters = DeadLetters(url)
        self._queues: dict[str, AbstractQueue] = {}

    async def consumer(self, name: str, **arguments: Any) -> AbstractQueue:
        """A consumer's own queue, as the contract names it."""
        queue = await self.channel.declare_queue(
            f"telegram.consumer.{name}", durable=True, arguments={"x-queue-type": "quorum", **arguments}
        )
        self._queues[name] = queue
        return queue

    async def deliver(self, message: int, consumer: str, **properties: Any) -> None:
        """Puts a message into a consumer's queue, as the gateway's exchange does."""
        event = new(message, telegram_date=NOW, received_at=NOW)
        body = aio_pika.Message(
            encode(event),
            headers={"x-channel-id": event.channel_id, "cloudEvents_subject": str(message)},
            message_id=event.id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            **properties,
        )
        await self.channel.default_exchange.publish(body, routing_key=f"telegram.consumer.{consumer}")

    async def park(self, message: int, consumer: str = "ana", **properties: Any) -> None:
        """Parks a message for a consumer that has given up on it."""
        event = new(message, telegram_date=NOW, received_at=NOW)
        headers: dict[str, FieldValue] = {
            "x-consumer": consumer,
            "x-queue": f"telegram.consumer.{consumer}",
            "x-attempts": 3,
            "x-reason": "no price in it",
            "x-parked-at": (NOW + timedelta(seconds=message)).isoformat(),
            "x-kind": event.kind,
            "x-channel-id": event.channel_id,
            "cloudEvents_source": f"/telegram/{event.chat_key}",
            "cloudEvents_subject": str(message),
        }
        await self.publish(
            aio_pika.Message(
                encode(event),
                headers=headers,
                message_id=event.id,
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                **properties,
            )
        )

    async def publish(self, message: aio_pika.Message) -> None:
        exchange = await self.channel.get_exchange(DLX)
        await exchange.publish(message, routing_key="parked")

    async def ready(self, name: str = QUEUE) -> int:
        """How many messages wait in a queue."""
        queue = await self.channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0

    async def until(self, count: int, name: str = QUEUE) -> None:
        """Waits until a queue has so many."""
        async with asyncio.timeout(DEADLINE):
            while await self.ready(name) != count:
                await asyncio.sleep(POLL)

    async def drained(self, name: str = QUEUE) -> list[AbstractIncomingMessage]:
        """All messages of a queue in its own order; they are gone from it."""
        queue = await self.channel.declare_queue(name, passive=True)
        found = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(message)
        return found

    async def clear(self) -> None:
        for queue in self._queues.values():
            await queue.delete(if_unused=False, if_empty=False)
        await (await self.channel.declare_queue(QUEUE, passive=True)).purge()


@pytest_asyncio.fixture
async def desk(rabbitmq_url: str) -> AsyncIterator[Desk]:
    connection = await aio_pika.connect(rabbitmq_url)
    async with connection:
        here = Desk(await connection.channel(), rabbitmq_url)
        await here.clear()
        with patience():
            yield here
        await here.clear()


def numbers(messages: list[AbstractIncomingMessage]) -> list[int]:
    return [decode(message.body).message_id for message in messages]


async def test_a_list_tells_who_gave_up_on_what_and_why(desk: Desk) -> None:
    for message in (1, 2, 3):
        await desk.park(message)
    await desk.park(4, "bia")
    listing = await desk.letters.list(Selection(consumer="ana"), limit=2)
    assert listing.total == 3
    first, second = listing.letters
    assert (first.telegram_message_id, second.telegram_message_id) == (1, 2)
    assert (first.consumer, first.queue, first.attempts) == ("ana", "telegram.consumer.ana", 3)
    assert (first.reason, first.by, first.at) == ("no price in it", "consumer", NOW + timedelta(seconds=1))
    assert (first.message_id, first.chat_key) == (new(1).id, new(1).chat_key)
    assert first.requeued == 0


async def test_looking_uses_no_letter_up(desk: Desk) -> None:
    """RabbitMQ 4 drops a message after 20 deliveries where no policy says otherwise; here one does."""
    for message in range(1, 11):
        await desk.park(message)
    ids = [letter.id for letter in (await desk.letters.list()).letters]
    for _ in range(12):
        listing = await desk.letters.list(limit=3)
        assert ([letter.id for letter in listing.letters], listing.total) == (ids[:3], 10)
        assert await desk.letters.find(Selection(ids=(ids[5],))) is not None
    assert numbers(await desk.drained()) == list(range(1, 11))


async def test_looking_at_many_letters_swaps_none(desk: Desk) -> None:
    """Rejected, so many would come back in any order."""
    await asyncio.gather(*(desk.park(message) for message in range(1, 501)))
    for _ in range(3):
        assert (await desk.letters.list(limit=3)).total == 500  # the one before has given all of them back
    assert numbers(await desk.drained()) == list(range(1, 501))


def test_the_shipped_policy_lets_letters_be_looked_at_all_day() -> None:
    policies = json.loads((CONFIG_DIR / "rabbitmq" / "definitions.json").read_text())["policies"]
    (policy,) = [each for each in policies if each["name"] == "telegram-dead-letters"]
    # A letter lives for a day; nobody looks more often than ten times a second, and RabbitMQ counts each.
    assert policy["definition"]["delivery-limit"] >= 86_400 * 10
    assert (policy["definition"]["message-ttl"], policy["definition"]["max-length"]) == (86_400_000, 10_000)


async def test_several_who_look_at_once_each_see_every_letter(desk: Desk) -> None:
    for message in range(1, 21):
        await desk.park(message)
    listings = await asyncio.gather(*(DeadLetters(desk.url).list() for _ in range(5)))
    assert [listing.total for listing in listings] == [20] * 5
    assert numbers(await desk.drained()) == list(range(1, 21))


async def test_a_look_does_not_make_a_letter_live_longer(desk: Desk) -> None:
    await desk.park(1, expiration=timedelta(seconds=1.5))
    await desk.park(2)
    started = asyncio.get_running_loop().time()
    # Each look begins before the life that it might have begun anew is over: it would never end.
    while (await desk.letters.list()).total == 2:
        assert asyncio.get_running_loop().time() < started + DEADLINE
    assert numbers(await desk.drained()) == [2]


async def test_one_message_parked_by_two_consumers_is_two_letters(desk: Desk) -> None:
    ana, bia = await desk.consumer("ana"), await desk.consumer("bia")
    await desk.park(7, "ana")
    await desk.park(7, "bia")
    letters = {letter.consumer: letter for letter in (await desk.letters.list()).letters}
    assert letters["ana"].message_id == letters["bia"].message_id
    (outcome,) = await desk.letters.requeue(Selection(ids=(letters["ana"].id,)))
    assert outcome.error is None
    await desk.until(1, ana.name)
    assert await desk.ready(bia.name) == 0
    assert (await desk.letters.list()).letters == [letters["bia"]]


async def test_letters_that_are_alike_in_everything_are_still_handled_one_by_one(desk: Desk) -> None:
    await desk.consumer("ana")
    await desk.park(7)
    await desk.park(7)
    first, second = (await desk.letters.list()).letters
    assert first.id != second.id
    assert len(await desk.letters.requeue(Selection(ids=(second.id,)))) == 1
    await desk.until(1, "telegram.consumer.ana")
    assert await desk.ready() == 1


async def test_a_requeued_letter_is_the_message_it_was_and_says_how_often(desk: Desk) -> None:
    queue = await desk.consumer("ana")
    await desk.park(7)
    for times in (1, 2):
        await desk.letters.requeue(Selection(consumer="ana"))
        await desk.until(1, queue.name)
        (message,) = await desk.drained(queue.name)
        assert decode(message.body).message_id == 7
        assert (message.message_id, message.content_type) == (new(7).id, "application/json")
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        assert message.headers["x-requeued"] == times
        assert message.headers["cloudEvents_subject"] == "7"
        assert not {"x-consumer", "x-queue", "x-attempts", "x-reason", "x-parked-at", "x-death"} & set(
            message.headers
        )
        again: dict[str, FieldValue] = {"x-consumer": "ana", "x-queue": queue.name, "x-reason": "still none"}
        await desk.publish(
            aio_pika.Message(
                message.body,
                headers=message.headers | again,
                message_id=message.message_id,
                content_type=message.content_type,
            )
        )
        (letter,) = (await desk.letters.list()).letters
        assert (letter.requeued, letter.reason) == (times, "still none")


async def test_letters_of_the_brokers_own_making_are_told_and_requeued(desk: Desk) -> None:
    queue = await desk.consumer("ana.-1001649127710", **{"x-delivery-limit": 1})
    await desk.deliver(1, "ana.-1001649127710")
    await (await queue.get()).reject(requeue=False)
    await desk.until(1)
    await desk.deliver(2, "ana.-1001649127710", expiration=timedelta(milliseconds=50))
    await desk.until(2)
    await desk.deliver(3, "ana.-1001649127710")
    for _ in range(2):
        async with asyncio.timeout(DEADLINE):
            while (message := await queue.get(fail=False)) is None:
                await asyncio.sleep(POLL)
        await message.reject(requeue=True)
    await desk.until(3)
    letters = (await desk.letters.list()).letters
    assert {letter.telegram_message_id: letter.reason.split()[:2] for letter in letters} == {
        1: ["the", "consumer"],
        2: ["it", "expired"],
        3: ["its", "consumer"],
    }
    assert {(letter.consumer, letter.queue, letter.by) for letter in letters} == {
        ("ana", queue.name, "broker")
    }
    assert all(
        letter.at is not None and abs(datetime.now(UTC) - letter.at) < timedelta(minutes=1)
        for letter in letters
    )
    outcomes = await desk.letters.requeue(Selection(consumer="ana"))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    await desk.until(3, queue.name)
    # It died once and lives again: were the marks of its death left on it, the next one would be untellable.
    assert not any(
        name.startswith("x-death") for message in await desk.drained(queue.name) for name in message.headers
    )


async def test_a_letter_whose_queue_is_gone_stays_and_is_reported(desk: Desk) -> None:
    await desk.consumer("ana")
    await desk.park(1, "gone")
    await desk.park(2, "ana")
    outcomes = {each.letter.consumer: each.error for each in await desk.letters.requeue(Selection())}
    assert outcomes["ana"] is None
    assert "telegram.consumer.gone is gone" in (outcomes["gone"] or "")
    await desk.until(1, "telegram.consumer.ana")
    assert [letter.consumer for letter in (await desk.letters.list()).letters] == ["gone"]


async def test_a_letter_that_its_queue_refuses_stays_and_is_reported(desk: Desk) -> None:
    queue = await desk.consumer("full", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    for message in range(1, 9):
        await desk.park(message, "full")
    outcomes = await desk.letters.requeue(Selection())
    went = [outcome.letter for outcome in outcomes if outcome.error is None]
    assert 1 <= len(went) < 8  # the limit is not exact on quorum queues
    assert all("takes nothing now" in outcome.error for outcome in outcomes if outcome.error)
    await desk.until(len(went), queue.name)
    assert await desk.ready() == 8 - len(went)


async def test_junk_that_somebody_published_is_shown_and_never_requeued(desk: Desk) -> None:
    await desk.publish(
        aio_pika.Message(b"\xff\x00", headers={"x-death": "no list", "when": NOW, "raw": bytearray(b"\xfe")})
    )
    await desk.publish(aio_pika.Message(b"", headers={"x-queue": QUEUE}))
    for outcome in await desk.letters.requeue(Selection()):
        assert "which queue" in (outcome.error or "")
    letters = (await desk.letters.list()).letters
    assert [letter.consumer for letter in letters] == [None, None]
    assert await desk.letters.find(Selection(ids=(letters[0].id,))) == (letters[0], b"\xff\x00")


async def test_two_operators_requeue_everything_at_once_and_each_letter_goes_once(desk: Desk) -> None:
    queue = await desk.consumer("ana")
    for message in range(1, 61):
        await desk.park(message)
    await desk.park(99, "bia")
    first, second = await asyncio.gather(
        *(DeadLetters(desk.url).requeue(Selection(consumer="ana")) for _ in range(2))
    )
    assert len(first) + len(second) == 60
    await desk.until(60, queue.name)
    assert numbers(await desk.drained(queue.name)) == list(range(1, 61))
    assert numbers(await desk.drained()) == [99]


async def test_dropped_letters_are_gone_and_the_others_stay_in_order(desk: Desk) -> None:
    for message in range(1, 81):
        await desk.park(message, "ana" if message % 2 else "bia")
    assert len(await desk.letters.drop(Selection(consumer="bia"))) == 40
    assert numbers(await desk.drained()) == list(range(1, 81, 2))


async def test_a_letter_parked_while_somebody_requeues_is_behind_the_others(desk: Desk) -> None:
    await desk.consumer("ana")
    for message in range(1, 41):
        await desk.park(message, "bia" if message % 2 else "ana")

    async def park_more() -> None:
        for message in range(41, 61):
            await desk.park(message, "bia")

    await asyncio.gather(desk.letters.requeue(Selection(consumer="ana")), park_more())
    assert numbers(await desk.drained()) == [*range(1, 41, 2), *range(41, 61)]


@pytest.mark.parametrize("moment", [0.02, 0.15, 0.4])
async def test_a_connection_that_is_lost_in_the_middle_loses_no_letter(desk: Desk, moment: float) -> None:
    queue = await desk.consumer("ana")
    for message in range(1, 101):
        await desk.park(message)
    broker = urlsplit(desk.url)
    async with TCPProxy(broker.hostname, broker.port) as proxy:
        there = broker._replace(netloc=f"{broker.username}:{broker.password}@127.0.0.1:{proxy.proxy_port}")
        proxy.set_delay(0, 0.01)  # for each confirm: all of them take a second, and the cut is in the middle
        requeuing = asyncio.create_task(DeadLetters(there.geturl()).requeue(Selection()))
        async with asyncio.timeout(DEADLINE):
            while await desk.ready(queue.name) < 5:
                await asyncio.sleep(0)
        await asyncio.sleep(moment)
        await proxy.disconnect_all()
        with pytest.raises(SinkUnavailable, match="back in the queue"):
            await requeuing
    # The broker gives back what was in hand once it has noticed; every letter is in one of the two then.
    async with asyncio.timeout(DEADLINE):
        while await desk.ready() + await desk.ready(queue.name) < 100:
            await asyncio.sleep(POLL)
    await desk.letters.requeue(Selection())
    assert (await desk.letters.list()).total == 0
    found = Counter(numbers(await desk.drained(queue.name)))
    assert set(found) == set(range(1, 101))
    # Those whose acknowledgement was on the line; the letter's message id is the same in both.
    assert sum(found.values()) - 100 <= 16


async def test_letters_that_a_killed_operator_had_in_hand_come_back(desk: Desk) -> None:
    for message in range(1, 6):
        await desk.park(message)
    code = (
        "import asyncio, sys\n"
        "from gateway.dead_letters import DeadLetters\n"
        "async def hold():\n"
        "    async with DeadLetters(sys.argv[1])._taken() as hand:\n"
        "        print(len(hand.letters), flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(hold())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, desk.url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"5\n"
    assert await desk.ready() == 0
    process.kill()
    await process.wait()
    await desk.until(5)  # once the broker has noticed
    assert (await desk.letters.list()).total == 5


async def test_who_waits_too_long_for_another_operator_is_told_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "LOCK_TIMEOUT", 0.3)
    async with desk.letters._taken():
        with pytest.raises(DeadLettersBusy, match="somebody else"):
            await DeadLetters(desk.url).list()


async def test_a_broker_that_is_away_or_refuses_is_named(rabbitmq_url: str) -> None:
    with pytest.raises(SinkUnavailable, match=r"127\.0\.0\.1:1"):
        await DeadLetters("amqp://telegram:secret@127.0.0.1:1/telegram").list()
    with pytest.raises(ConfigurationError, match="refuses") as refused:
        await DeadLetters(rabbitmq_url, password="wrong-password").list()
    assert "wrong-password" not in str(refused.value)
    # The first node is away: the next one is asked.
    parts = urlsplit(rabbitmq_url)
    login, _, host = parts.netloc.rpartition("@")
    assert (
        await DeadLetters(parts._replace(netloc=f"{login}@127.0.0.1:1,{host}").geturl()).list()
    ).total >= 0


async def run(desk: Desk, *arguments: str, answer: str | None = None) -> Result:
    runner = CliRunner(env={"TELEGRAM_RABBITMQ_URL": desk.url})
    return await asyncio.to_thread(
        runner.invoke, cli, ["dlq", *arguments], input=answer, standalone_mode=False
    )


async def test_the_command_shows_reasons_and_keeps_bodies_until_asked(desk: Desk) -> None:
    await desk.park(7)
    listed = await run(desk, "list")
    assert "no price in it" in listed.output
    assert "1 dead letter(s)" in listed.output
    letter = json.loads((await run(desk, "list", "--json")).output)
    shown = await run(desk, "show", letter["id"])
    assert "reason: no price in it (the consumer gave it up)" in shown.output
    assert "x-parked-at" in shown.output
    words = new(7).text
    assert words is not None
    assert words not in listed.output + json.dumps(letter) + shown.output
    assert words in (await run(desk, "show", letter["id"], "--body")).output
    missing = await run(desk, "show", "0123456789abcdef")
    assert missing.return_value == 1
    assert "no such dead letter" in missing.output


async def test_the_command_requeues_and_drops_what_it_is_told_to(desk: Desk) -> None:
    await desk.consumer("ana")
    for message in (1, 2, 3):
        await desk.park(message)
    await desk.park(4, "gone")
    refused = await run(desk, "requeue", "--all", answer="n\n")
    assert "4 letter(s) (3 of ana, 1 of gone)" in refused.output
    assert await desk.ready() == 4
    first = json.loads((await run(desk, "list", "--json")).output.splitlines()[0])
    assert "1 requeued, 0 not" in (await run(desk, "requeue", first["id"])).output
    rest = await run(desk, "requeue", "--all", "--yes")
    assert rest.return_value == 1
    assert "2 requeued, 1 not" in rest.output
    assert "telegram.consumer.gone is gone" in rest.output
    dropped = await run(desk, "drop", "--consumer", "gone", "--yes")
    assert "1 dropped" in dropped.output
    assert "no dead letters" in (await run(desk, "list")).output
    assert await desk.ready("telegram.consumer.ana") == 3
