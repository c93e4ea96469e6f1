"""Disorder, locks and pressure of a bare Telethon client, each beside a gateway that has the same traffic."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator

import apsw
import pytest
import pytest_asyncio

from gateway.demo.process import POLL_SECONDS
from gateway.sandbox import Chat
from tests.e2e.bare_client import SideBySide, side_by_side, until

CHANNEL_DIFFERENCE = "GetChannelDifferenceRequest"
FLOOD_SECONDS = 3
BURST = 5_000  # a gateway gathers 500, and 4 000 wait
PER_PUSH = 100


@pytest_asyncio.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SideBySide]:
    async with side_by_side(tmp_path_factory.mktemp("order")) as running:
        yield running


@pytest_asyncio.fixture
async def channel(both: SideBySide) -> AsyncIterator[Chat]:
    yield next(both.channels)
    both.sandbox.faults.clear()


async def test_handlers_that_await_anything_overtake_each_other(both: SideBySide, channel: Chat) -> None:
    slow_server = asyncio.Event()

    async def store(text: str) -> None:
        if int(text) % 2:
            await slow_server.wait()

    async with both.bare() as bare:
        bare.work = store
        both.post(channel, *"12345678")
        await until(lambda: len(bare.done) == 4)
        slow_server.set()
        await until(lambda: len(bare.done) == 8)
        assert "".join(bare.seen) == "12345678"
        assert "".join(bare.done) == "24681357", "each handler is a task of its own"
        await both.assert_gateway_has(channel)
        assert [event.text for event in both.journal(channel)] == list("12345678")


async def test_the_session_file_is_locked_against_every_other_process(both: SideBySide) -> None:
    """From the first entity on there is an open write transaction, until the next save a minute later."""
    async with both.bare() as bare:
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            write_to(str(bare.session_file))
        write_to(str(both.desk.session_file()))
        both.post(both.friend, "still here")
        await both.assert_gateway_has(both.friend)


def write_to(path: str) -> None:
    """What another process would do, such as a second script or a backup."""
    connection = sqlite3.connect(path, timeout=0)
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.close()


async def test_a_slow_handler_lets_memory_grow_with_the_traffic(both: SideBySide, channel: Chat) -> None:
    """Telethon's queue has no bound, and the socket is drained whatever waits.

    A gateway that cannot write keeps what fits its queue, and fetches the rest as a difference.
    """
    released = asyncio.Event()

    async def store(text: str) -> None:
        await released.wait()

    journal = apsw.Connection(str(both.desk.gateway.journal_path))
    async with both.bare(sequential_updates=True) as bare:
        bare.work = store
        journal.execute("BEGIN IMMEDIATE")  # for less than the gateway is ready to wait
        try:
            both.sandbox.world.post_many(channel, map(str, range(BURST)), per_push=PER_PUSH)
            while not await both.metric("telegram_gateway_updates_overflowed_total"):
                await asyncio.sleep(POLL_SECONDS)
        finally:
            journal.execute("ROLLBACK")
            journal.close()
        waiting = bare.client._updates_queue
        await until(lambda: waiting.qsize() == BURST // PER_PUSH - 1)
        assert bare.seen == ["0"], "one in hand, and all others in memory"
        await both.assert_gateway_has(channel)
        released.set()


async def test_a_flood_wait_in_one_channel_delays_every_other_chat(both: SideBySide, channel: Chat) -> None:
    async with both.bare() as bare:
        both.fail(CHANNEL_DIFFERENCE, 420, f"FLOOD_WAIT_{FLOOD_SECONDS}")
        both.lose(channel, "1")
        both.post(channel, "2")
        await until(lambda: both.asked(bare, CHANNEL_DIFFERENCE))
        both.post(both.elsewhere, "urgent")
        await both.assert_gateway_has(both.elsewhere)
        assert bare.seen == [], "it sleeps in its only update loop, up to a minute by default"
        await bare.until_seen("urgent")
        assert both.asked(bare, CHANNEL_DIFFERENCE) == 2, "only when it had slept and asked again"
        await both.assert_gateway_has(channel)
