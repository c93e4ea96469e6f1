"""Disorder, locks and pressure of a bare Telethon client, each beside a gateway that has the same traffic."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import apsw
import pytest
import pytest_asyncio

from gateway.demo.comparison import journal_events
from gateway.demo.process import POLL_SECONDS
from gateway.sandbox import Chat
from tests.e2e.bare_client import PATIENCE_SECONDS, SideBySide, side_by_side, until

CHANNEL_DIFFERENCE = "GetChannelDifferenceRequest"
FLOOD_SECONDS = 3
BURST = 5_000  # a gateway gathers 500, and 4 000 wait
PER_PUSH = 100
HELD_SECONDS = 3.0  # less than the gateway is ready to wait for its journal
WRITE_SECONDS = 20.0  # it writes its session from time to time, and at once


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
            write_to(str(bare.session_file), 0.0)
        write_to(str(both.desk.session_file()), WRITE_SECONDS)
        both.post(both.friend, "still here")
        await both.assert_gateway_has(both.friend)


def write_to(path: str, patience: float) -> None:
    """What another process would do, such as a second script or a backup."""
    connection = sqlite3.connect(path, timeout=patience)
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
        overflowed = 0.0
        bursts = 0
        while not overflowed:
            bursts += 1
            await until_locked(journal)
            held_until = time.monotonic() + HELD_SECONDS
            try:
                both.sandbox.world.post_many(channel, map(str, range(BURST)), per_push=PER_PUSH)
                while not overflowed and time.monotonic() < held_until:
                    await asyncio.sleep(POLL_SECONDS)
                    overflowed = await both.metric("telegram_gateway_updates_overflowed_total")
            finally:
                journal.execute("ROLLBACK")
            if not overflowed:  # a busy machine: it has not even read so much in this time
                await both.assert_gateway_has(channel)
        journal.close()
        waiting = bare.client._updates_queue
        await until(lambda: waiting.qsize() == bursts * BURST // PER_PUSH - 1)
        assert bare.seen == ["0"], "one in hand, and all others in memory"
        await both.assert_gateway_has(channel)
        released.set()


async def until_locked(journal: apsw.Connection) -> None:
    """Begins to write, as soon as the gateway does not."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(apsw.BusyError):
                journal.execute("BEGIN IMMEDIATE")
                return
            await asyncio.sleep(POLL_SECONDS)


async def test_a_flood_wait_in_one_channel_delays_every_other_chat(both: SideBySide, channel: Chat) -> None:
    asked: list[int] = []  # how often the bare client had asked when it heard something

    async def note(text: str) -> None:
        asked.append(both.asked(bare, CHANNEL_DIFFERENCE))

    async with both.bare() as bare:
        bare.work = note
        both.fail(CHANNEL_DIFFERENCE, 420, f"FLOOD_WAIT_{FLOOD_SECONDS}")
        both.lose(channel, "1")
        both.post(channel, "2")
        await until(lambda: both.asked(bare, CHANNEL_DIFFERENCE))
        both.post(both.elsewhere, "urgent")
        await both.assert_gateway_has(both.elsewhere)
        await bare.until_seen("urgent")
        assert set(asked) == {2}, "it sleeps in its only update loop, and hears again when it has asked again"
        await both.assert_gateway_has(channel)
        here = str(channel.marked_id_for(both.account))
        events = journal_events(both.desk.gateway.journal_path).values()
        order = [event.text for event in events if event.text == "urgent" or event.channel_id == here]
        assert order == ["urgent", "1", "2"], "the gateway waited as well"
