"""Chats switched off and on in the database, from the sandbox to the database and to RabbitMQ."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest_asyncio

from gateway.journal import Gap, open_reader
from gateway.localstack import LocalStack
from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Message
from tests.clock import ticking
from tests.e2e.conftest import Rig

PATIENCE_SECONDS = 120.0
OBEYED_SECONDS = 10.0  # a look every two seconds, on a busy machine
_SAY = """
INSERT INTO telegram_gateway.channels (account_scope, id, type, is_active, seen_at)
VALUES ($1, $2, $3, $4, to_timestamp(0))
ON CONFLICT (account_scope, id) DO UPDATE SET is_active = excluded.is_active
"""
_STORED = """
SELECT text FROM telegram_gateway.messages_current
WHERE channel_id = $1 AND NOT is_deleted ORDER BY message_id
"""


class Switchboard:
    """A person at the switches, and what arrived of a chat."""

    def __init__(self, rig: Rig, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.rig = rig
        self.world = rig.sandbox.world
        self.connection = connection
        self.user = rig.scene.accounts[0]
        self.channel, self.other = rig.scene.chats[:2]
        self.private, self.other_private = (chat for chat in rig.scene.chats if chat.kind == "private")
        self.off: set[str] = set()

    async def switch(self, chat: Chat, *, on: bool) -> None:
        """Says it, and returns when the daemon obeys."""
        await self.say(chat, on=on)
        async with ticking() as clock:
            while await self._gauge("telegram_gateway_chats_switched_off") != len(self.off):
                assert clock.time() < OBEYED_SECONDS, "the daemon has not obeyed"
                await asyncio.sleep(0.05)

    async def say(self, chat: Chat, *, on: bool) -> None:
        (self.off.discard if on else self.off.add)(chat.ref)
        scope = 0 if chat.is_channel else self.user.id
        await self.connection.execute(_SAY, scope, self.id(chat), chat.kind, on)

    def id(self, chat: Chat) -> str:
        return str(chat.marked_id_for(self.user))

    def post(self, chat: Chat, count: int) -> list[Message]:
        sender = chat.other(self.user) if chat.kind == "private" else None
        start = time.monotonic_ns()
        return [self.world.post(chat, f"{start} {number}", sender=sender) for number in range(count)]

    async def until_stored(self, chat: Chat, messages: list[Message]) -> None:
        """Waits until the database has these texts of a chat, each once and no others, and no gap is open."""
        expected = [message.text for message in messages]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = [row["text"] for row in await self.connection.fetch(_STORED, self.id(chat))]
            if found == expected and not self.gaps(chat, "open"):
                return
            assert time.monotonic() < deadline, (len(found), len(expected), self.gaps(chat))
            await asyncio.sleep(0.1)

    async def caught_up(self, chat: Chat) -> None:
        """Waits until a message in another chat of its kind has gone all the way behind everything before."""
        last = self.post(self.other_private if chat.kind == "private" else self.other, 1)[0]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while last.text not in [event.text for event in self.rig.consumer.events.values()]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await self.rig.gateway.wait_delivered(3)

    def published(self, chat: Chat) -> Counter[str | None]:
        """Texts of a chat's new messages in the queue, with how often each came."""
        times: Counter[str | None] = Counter()
        for event in self.rig.consumer.events.values():
            if event.channel_id == self.id(chat) and event.kind == "message.new":
                times[event.text] += self.rig.consumer.times[event.id]
        return times

    def gaps(self, chat: Chat, state: str | None = None) -> list[Gap]:
        with open_reader(self.rig.gateway.journal_path) as reader:
            return reader.gaps(chat=int(self.id(chat)), state=state)

    async def _gauge(self, name: str) -> float | None:
        address = f"http://127.0.0.1:{self.rig.gateway.port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(address) as answer:
            lines = (await answer.text()).splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), None)


@pytest_asyncio.fixture
async def board(rig: Rig, stack: LocalStack) -> AsyncIterator[Switchboard]:
    connection = await asyncpg.connect(stack.postgres.dsn)
    yield Switchboard(rig, connection)
    await connection.close()


async def test_nothing_is_captured_while_off_and_all_of_it_once_on_again(board: Switchboard) -> None:
    chats = (board.channel, board.private)
    posted = {chat: board.post(chat, 3) for chat in chats}
    for chat in chats:
        await board.until_stored(chat, posted[chat])
        await board.switch(chat, on=False)
    before = {chat: list(posted[chat]) for chat in chats}
    for chat in chats:
        missed = board.post(chat, 250)
        missed[7] = board.world.edit(chat, missed[7], "in its last form")
        posted[chat] += missed
    for chat in chats:
        await board.caught_up(chat)
        await board.until_stored(chat, before[chat])
        assert board.gaps(chat) == []

    for chat in chats:
        await board.say(chat, on=True)
        posted[chat] += board.post(chat, 5)  # some before the switch is obeyed, some perhaps behind it
    for chat in chats:
        await board.until_stored(chat, posted[chat])
        posted[chat] += board.post(chat, 2)
        await board.until_stored(chat, posted[chat])
        await board.caught_up(chat)
        assert board.published(chat) == Counter(message.text for message in posted[chat])
        assert "switched_on" in {gap.source for gap in board.gaps(chat, "captured")}


async def test_what_changed_while_off_is_as_telegram_has_it_once_on_again(board: Switchboard) -> None:
    edited, deleted = before = board.post(board.channel, 2)
    await board.until_stored(board.channel, before)
    await board.switch(board.channel, on=False)
    edited = board.world.edit(board.channel, edited, "another price")
    board.world.delete(board.channel, deleted)
    await board.caught_up(board.channel)
    await board.switch(board.channel, on=True)
    await board.until_stored(board.channel, [edited])


async def test_a_kill_right_after_either_switch_loses_and_repeats_nothing(board: Switchboard) -> None:
    chats = (board.channel, board.private)
    posted = {chat: board.post(chat, 3) for chat in chats}
    for chat in chats:
        await board.until_stored(chat, posted[chat])
        await board.say(chat, on=False)
    await board.rig.gateway.kill()
    before = {chat: list(posted[chat]) for chat in chats}
    for chat in chats:
        posted[chat] += board.post(chat, 40)
    await board.rig.gateway.start()
    for chat in chats:
        posted[chat] += board.post(chat, 40)
        await board.caught_up(chat)
        await board.until_stored(chat, before[chat])
        await board.say(chat, on=True)
    for pause in (0.0, 1.0, 1.5):
        await asyncio.sleep(pause)  # at another moment of the switch each time
        for chat in chats:
            posted[chat] += board.post(chat, 10)
        await board.rig.gateway.kill()
        await board.rig.gateway.start()
        for chat in chats:
            posted[chat] += board.post(chat, 10)
    for chat in chats:
        await board.until_stored(chat, posted[chat])
        await board.caught_up(chat)
        # A kill may repeat what a consumer has had, under the same id; nothing may be missing.
        assert board.published(chat).keys() == {message.text for message in posted[chat]}


async def test_a_start_with_the_database_down_obeys_what_was_said_last(board: Switchboard) -> None:
    before = board.post(board.channel, 2)
    await board.until_stored(board.channel, before)
    await board.switch(board.channel, on=False)
    await board.rig.gateway.kill()
    await board.rig.stack.pgbouncer.stop()
    try:
        await board.rig.gateway.start()
        board.post(board.channel, 3)
        heard = board.post(board.other, 1)[0]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while heard.text not in [event.text for event in board.rig.consumer.events.values()]:
                await asyncio.sleep(0.05)
        assert len(board.published(board.channel)) == len(before)
    finally:
        await board.rig.stack.pgbouncer.start()


async def test_a_backfill_under_way_waits_while_its_chat_is_off(board: Switchboard) -> None:
    channel = board.channel
    before = board.post(channel, 1)
    await board.until_stored(channel, before)
    await board.rig.gateway.stop()
    board.rig.sandbox.faults.too_long(channel)
    missed = board.world.post_many(channel, [f"missed {number}" for number in range(4_000)])
    # Every other page has to wait for a second, so that there is more to fetch than a switch takes.
    board.rig.sandbox.faults.fail_calls("GetHistoryRequest", 420, "FLOOD_WAIT_1", probability=0.5)
    await board.rig.gateway.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not board.published(channel).keys() & {message.text for message in missed}:
            await asyncio.sleep(0.02)
    await board.switch(channel, on=False)
    await board.caught_up(channel)
    fetched = board.published(channel).total()
    assert board.gaps(channel, "open"), "it was all fetched before the switch: nothing was tried"
    missed += board.post(channel, 10)
    await board.caught_up(channel)
    assert board.published(channel).total() == fetched
    board.rig.sandbox.faults.clear()
    await board.switch(channel, on=True)
    await board.until_stored(channel, [*before, *missed])
    await board.caught_up(channel)
    assert board.published(channel) == Counter(message.text for message in [*before, *missed])
