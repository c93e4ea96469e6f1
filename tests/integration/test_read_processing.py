"""Where consumers stand: what is unprocessed is never lost, come what may late or first."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.event import utc_now
from gateway.localstack import LocalStack
from gateway.read import ChatRef, MessageReader, MessageRef, Outcome
from gateway.read.records import Status
from tests.read_rig import ReadRig, ingest, read_rig
from tests.sink_events import CHANNEL, days_ago, deleted, edited, new

OTHER = "-1001700000042"
CHAT = ChatRef(CHANNEL)
IN_THE_RIG = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # a busy machine is no slow strategy


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ReadRig]:
    async with read_rig(stack) as rig:
        yield rig


def done(*messages: int, status: Status = "published", channel: str = CHANNEL) -> list[Outcome]:
    return [Outcome(MessageRef(channel, message), status) for message in messages]


async def test_a_new_consumer_gets_everything_in_the_order_in_which_it_was_stored(rig: ReadRig) -> None:
    await rig.store(new(5), new(6))
    await rig.store(new(1, telegram_date=days_ago(30), source="backfill"), new(2, channel="77", scope=42))
    assert await rig.unprocessed(limit=3) == [5, 6, 1, 2]


async def test_what_arrives_late_comes_however_old_it_is(rig: ReadRig) -> None:
    await rig.store(*(new(number) for number in range(10, 20)))
    await rig.reader.mark_processed("x", done(*range(10, 20)))
    await rig.advance()
    assert await rig.unprocessed() == []
    await rig.store(new(1, telegram_date=days_ago(60), source="backfill"))
    assert await rig.unprocessed() == [1]


async def test_a_message_whose_transaction_ends_last_is_not_skipped(stack: LocalStack, rig: ReadRig) -> None:
    slow = await asyncpg.connect(stack.postgres.dsn)
    transaction = slow.transaction()
    await transaction.start()
    await ingest(slow, new(1))  # has the first arrival, and nobody sees it yet
    await rig.store(*(new(number, channel=OTHER) for number in range(2, 6)))
    await rig.reader.mark_processed("x", done(2, 3, 4, 5, channel=OTHER))
    for _ in range(5):
        await rig.advance()
    assert await rig.unprocessed() == []
    await transaction.commit()
    await slow.close()
    assert await rig.unprocessed() == [1]
    await rig.advance()
    assert await rig.unprocessed() == [1]
    await rig.reader.mark_processed("x", done(1))
    async with asyncio.timeout(60):
        while await rig.mark() is None:
            await rig.advance()
    assert await rig.unprocessed() == []


async def test_what_was_passed_over_stays_unprocessed(rig: ReadRig) -> None:
    await rig.store(*(new(number) for number in range(1, 301)))
    await rig.reader.mark_processed("x", done(*(n for n in range(1, 301) if n % 100)))
    newest = await rig.database.fetchval("SELECT max(arrival) FROM telegram_gateway.message_arrivals")
    await rig.advance()
    async with asyncio.timeout(60):
        while await rig.mark() != newest - 1:  # whatever else has a transaction, as autovacuum, holds it up
            await rig.advance()
    assert await rig.unprocessed(limit=2) == [100, 200, 300]
    await rig.reader.mark_processed("x", done(100))
    assert await rig.unprocessed() == [200, 300]


async def test_two_consumers_do_not_see_each_other(rig: ReadRig) -> None:
    await rig.store(new(1), new(2))
    await rig.reader.mark_processed("x", done(1, 2))
    await rig.advance()
    assert await rig.unprocessed("x") == []
    assert await rig.unprocessed("y") == [1, 2]
    marked = await rig.reader.mark_processed("y", [Outcome(MessageRef(CHANNEL, 1), "failed", "bad")])
    assert marked[0].changed
    assert await rig.reader.reprocess(MessageRef(CHANNEL, 1), "y") == ["y"]
    assert await rig.unprocessed("x") == []


async def test_saying_it_again_changes_nothing_and_done_stays_done(rig: ReadRig) -> None:
    await rig.store(new(1), new(2), new(3))
    batch = [*done(1), Outcome(MessageRef(CHANNEL, 2), "failed", "no range"), *done(3, status="ignored")]
    first = await rig.reader.mark_processed("x", batch)
    assert [(m.status, m.attempts, m.changed, m.known) for m in first] == [
        ("published", 1, True, True),
        ("failed", 1, True, True),
        ("ignored", 1, True, True),
    ]
    before = await rig.database.fetch("SELECT * FROM telegram_gateway.message_processing ORDER BY message_id")
    again = await rig.reader.mark_processed("x", batch)
    assert [(m.status, m.attempts, m.changed) for m in again] == [
        ("published", 1, False),
        ("failed", 1, False),
        ("ignored", 1, False),
    ]
    assert before == await rig.database.fetch(
        "SELECT * FROM telegram_gateway.message_processing ORDER BY message_id"
    )
    late = await rig.reader.mark_processed("x", [*done(1, status="failed"), *done(2)])
    assert [(m.status, m.changed) for m in late] == [("published", False), ("published", True)]


async def test_a_message_named_twice_in_a_batch_counts_with_the_last_word(rig: ReadRig) -> None:
    await rig.store(new(1))
    marked = await rig.reader.mark_processed("x", [*done(1, status="failed"), *done(1)])
    assert [m.status for m in marked] == ["published", "published"]


async def test_a_message_that_is_not_stored_yet_can_be_processed(rig: ReadRig) -> None:
    (marked,) = await rig.reader.mark_processed("x", done(7))
    assert (marked.status, marked.known) == ("published", False)
    await rig.store(new(7), new(8))
    assert await rig.unprocessed() == [8]
    await rig.reader.mark_processed("x", done(9, status="retrying"))
    await rig.store(new(9))
    await rig.reader.mark_processed("x", done(8))
    for _ in range(2):
        assert await rig.unprocessed() == [9]
        await rig.advance()


async def test_batches_that_meet_in_opposite_order_both_succeed(rig: ReadRig) -> None:
    numbers = list(range(1, 200))
    await rig.store(*map(new, numbers))
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            order = numbers if number % 2 else numbers[::-1]
            group.create_task(rig.reader.mark_processed("x", done(*order)))
    assert await rig.unprocessed() == []


async def test_retries_keep_their_place_and_count(rig: ReadRig) -> None:
    await rig.store(new(1), new(2), new(3))
    await rig.reader.mark_processed("x", [*done(1, status="retrying"), *done(2, 3)])
    await rig.reader.mark_processed("x", done(1, status="retrying"))
    await rig.advance()
    page = await rig.reader.unprocessed("x")
    (message,) = page.messages
    assert message.processing is not None
    assert (message.event.message_id, message.processing.status, message.processing.attempts) == (
        1,
        "retrying",
        2,
    )


async def test_reprocessing_reopens_for_one_or_for_all(rig: ReadRig) -> None:
    await rig.store(new(1), new(2))
    for consumer in ("x", "y", "z"):
        await rig.reader.mark_processed(consumer, done(1, 2))
        await rig.advance(consumer)
    assert await rig.reader.reprocess(MessageRef(CHANNEL, 1), "y") == ["y"]
    assert [await rig.unprocessed(name) for name in "xyz"] == [[], [1], []]
    assert sorted(await rig.reader.reprocess(MessageRef(CHANNEL, 2))) == ["x", "y", "z"]
    assert [await rig.unprocessed(name) for name in "xyz"] == [[2], [1, 2], [2]]
    assert await rig.reader.reprocess(MessageRef(CHANNEL, 3)) == []


async def test_a_row_deleted_by_hand_makes_its_message_unprocessed_again(rig: ReadRig) -> None:
    await rig.store(*(new(number) for number in range(1, 20)))
    await rig.reader.mark_processed("x", done(*range(1, 20)))
    await rig.advance()
    await rig.database.execute("DELETE FROM telegram_gateway.message_processing WHERE message_id = 7")
    assert await rig.unprocessed() == [7]


async def test_only_the_chats_that_were_asked_for(rig: ReadRig) -> None:
    await rig.store(
        new(1), new(2, channel=OTHER), new(3, channel="77", scope=42), new(4, channel="77", scope=43)
    )
    assert await rig.unprocessed(chats=[CHAT]) == [1]
    assert await rig.unprocessed(chats=[ChatRef("77", 42), ChatRef(OTHER), CHAT], limit=1) == [1, 2, 3]
    assert await rig.unprocessed(chats=[]) == []
    await rig.reader.mark_processed("x", done(1))
    rig.reader = type(rig.reader)(rig.pool)  # as another process, which looks for the mark
    assert await rig.unprocessed(chats=[CHAT]) == []
    assert await rig.unprocessed() == [2, 3, 4]


async def test_asking_for_more_than_before_brings_what_was_too_old_then(rig: ReadRig) -> None:
    await rig.store(new(1, telegram_date=days_ago(20)), new(2))
    recent = utc_now() - timedelta(days=1)
    assert await rig.unprocessed(since=recent) == [2]
    await rig.reader.mark_processed("x", done(2))
    async with asyncio.timeout(60):
        while await rig.mark() is None:
            await rig.pool.fetchval("SELECT telegram_gateway.advance_mark('x', 0, '', $1, 100)", recent)
    assert await rig.unprocessed(since=recent) == []
    assert await rig.unprocessed() == [1]
    assert await rig.unprocessed(since=utc_now() - timedelta(days=40)) == [1]


async def test_hidden_messages_are_not_given_and_deleted_ones_say_so(rig: ReadRig) -> None:
    await rig.store(new(1), new(2), new(3), deleted(2), edited(3, "melhor", seconds=5))
    await rig.reader.hide(MessageRef(CHANNEL, 1), "ana")
    page = await rig.reader.unprocessed("x")
    assert [(m.event.message_id, m.deleted_at is not None) for m in page.messages] == [(2, True), (3, False)]
    await rig.reader.restore(MessageRef(CHANNEL, 1))
    assert await rig.unprocessed() == [1, 2, 3]


async def test_messages_that_retention_took_do_not_end_the_list(rig: ReadRig) -> None:
    await rig.store(*(new(number) for number in range(1, 31)))
    await rig.database.execute("DELETE FROM telegram_gateway.messages WHERE message_id < 30")
    page = await rig.reader.unprocessed("x", limit=2)
    assert ([m.event.message_id for m in page.messages], page.next) == ([30], None)


async def test_a_message_that_comes_again_with_another_date_arrives_again(rig: ReadRig) -> None:
    await rig.store(new(1, telegram_date=days_ago(3)), new(2), new(1, telegram_date=days_ago(2)))
    assert await rig.unprocessed() == [2, 1]
    await rig.store(new(1, telegram_date=days_ago(1)), new(1, telegram_date=days_ago(1)))
    page = await rig.reader.unprocessed("x")
    assert [message.event.message_id for message in page.messages] == [2, 1]
    found = await rig.reader.message(MessageRef(CHANNEL, 1))
    assert found is not None
    assert found.event.telegram_date == page.messages[1].event.telegram_date


async def test_a_name_that_never_processed_anything_leaves_nothing_behind(rig: ReadRig) -> None:
    await rig.store(*(new(number) for number in range(1, 31)))
    await rig.unprocessed("curious", since=days_ago(1))
    await rig.advance("curious")
    assert await rig.mark("curious") is None


class World:
    """What a consumer must find, told by the plainest means."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.status: dict[int, str] = {}
        self.next = 1

    def unprocessed(self) -> list[int]:
        return [number for number in self.stored if self.status.get(number) in (None, "retrying")]


# Weighed so that marks do move: what is stored is mostly processed at once.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(1, 3)),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("begin"), st.integers(1, 2)),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("end"), st.booleans()),
        st.tuples(st.just("drain"), st.just(1)),
        st.tuples(st.sampled_from(["reprocess", "delete"]), st.integers(0, 12)),
        st.tuples(st.sampled_from(["published", "failed", "retrying"]), st.integers(0, 12)),
        st.tuples(st.just("look"), st.integers(1, 5)),
    ),
    min_size=6,
    max_size=25,
)


@example([("begin", 1), ("store", 1), ("settle", None), ("end", True)])
@example([("store", 2), ("settle", None), ("reprocess", 1)])
@given(STEPS)
@settings(max_examples=12, suppress_health_check=IN_THE_RIG)
async def test_whatever_happens_in_whichever_order_nothing_is_lost(
    stack: LocalStack, rig: ReadRig, steps: list[tuple[str, Any]]
) -> None:
    for table in ("messages", "message_arrivals", "message_processing", "consumer_marks"):
        await rig.database.execute(f"DELETE FROM telegram_gateway.{table}")
    world = World()
    writer = await asyncpg.connect(stack.postgres.dsn)
    transaction: Any = None
    waiting: list[int] = []
    try:
        for step, value in steps:
            chosen = value % world.next or 1 if isinstance(value, int) else 0
            match step:
                case "store":
                    numbers = range(world.next, world.next + value)
                    world.next += value
                    await rig.store(*map(new, numbers))
                    world.stored += numbers
                case "begin" if transaction is None:
                    # In a chat of its own: the row of a chat is locked until the transaction ends.
                    transaction = writer.transaction()
                    await transaction.start()
                    waiting = list(range(world.next, world.next + value))
                    world.next += value
                    await ingest(writer, *(new(number, channel=OTHER) for number in waiting))
                case "end" if transaction is not None:
                    await (transaction.commit() if value else transaction.rollback())
                    world.stored += waiting if value else []
                    transaction, waiting = None, []
                case "drain" | "settle":
                    page = await rig.reader.unprocessed("x", limit=value or 100)
                    refs = [MessageRef.of(message.event) for message in page.messages]
                    await rig.reader.mark_processed("x", [Outcome(ref, "published") for ref in refs])
                    world.status |= {ref.message_id: "published" for ref in refs}
                    await rig.advance()
                case "published" | "failed" | "retrying" if chosen < world.next:  # its chat is known then
                    channel = OTHER if await _in_other(rig, chosen, waiting) else CHANNEL
                    await rig.reader.mark_processed("x", done(chosen, status=step, channel=channel))
                    if world.status.get(chosen) in (None, "retrying") or (
                        world.status[chosen] == "failed" and step != "failed"
                    ):
                        world.status[chosen] = step
                case "reprocess":
                    channel = OTHER if await _in_other(rig, chosen, waiting) else CHANNEL
                    if await rig.reader.reprocess(MessageRef(channel, chosen), "x"):
                        world.status[chosen] = "retrying"
                case "delete":
                    await rig.database.execute(
                        "DELETE FROM telegram_gateway.message_processing WHERE message_id = $1", chosen
                    )
                    world.status.pop(chosen, None)
                case "look":
                    assert sorted(await rig.unprocessed(limit=value)) == sorted(world.unprocessed())
        assert sorted(await rig.unprocessed(limit=3)) == sorted(world.unprocessed())
    finally:
        await writer.close()


async def _in_other(rig: ReadRig, number: int, waiting: list[int]) -> bool:
    return number in waiting or await rig.database.fetchval(
        "SELECT true FROM telegram_gateway.message_arrivals WHERE (channel_id, message_id) = ($1, $2)",
        OTHER,
        number,
    )


async def test_marking_one_reads_as_little_however_much_was_marked_since_the_plan_was_made(
    rig: ReadRig,
) -> None:
    reader = MessageReader(rig.database)

    async def blocks(message: int) -> int:
        plan = await rig.database.fetchval(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM telegram_gateway.mark_processed("
            f"'x', '{{0}}', '{{{CHANNEL}}}', '{{{message}}}', '{{published}}', '{{NULL}}')"
        )
        return int(json.loads(plan)[0]["Plan"]["Shared Hit Blocks"])

    for number in range(1, 20):  # PostgreSQL keeps a plan from the sixth time on
        few = await blocks(number)
    for start in range(1_000, 21_000, 1_000):
        await reader.mark_processed("x", done(*range(start, start + 1_000)))
    assert await blocks(20) < few + 20
