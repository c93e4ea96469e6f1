"""The intake's one promise: no update state reaches the journal before the events that it covers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from telethon.crypto import AuthKey
from telethon.tl import types

from gateway.journal import AccountState, Batch, Journal, LedgerChanges, Missing
from gateway.telegram.chats import ChatFilter, Directory, marked
from gateway.telegram.client import GatewayClient
from gateway.telegram.convert import Converter
from gateway.telegram.intake import Intake
from gateway.telegram.session import GatewaySession

ME = 777000
THEN = datetime(2026, 11, 21, tzinfo=UTC)
CHANNEL = types.PeerChannel(1649127710)


def post(message_id: int) -> Any:
    message = types.Message(id=message_id, peer_id=CHANNEL, date=THEN, message=f"n.º {message_id}", post=True)
    return types.UpdateNewChannelMessage(message, pts=message_id, pts_count=1)


class Line:
    """A sequencer that counts what it passed on, an intake behind it, and a journal.

    Every update is one message and one step of pts, so a committed pts says how many messages must be there.
    A deletion without a chat makes the intake ask where the message was, which takes as long as `found`.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.pts = 0
        self.missing: list[Missing] = []
        self.asked = asyncio.Event()
        self.found: asyncio.Future[dict[int, tuple[str, str]]] = asyncio.get_running_loop().create_future()
        self.committing = asyncio.Event()
        directory = Directory()
        self.converter = Converter("main", ME, directory)
        self.intake = Intake(
            "main",
            commit=self._commit,
            chat_of=self._chat_of,
            wanted=ChatFilter((), directory),
            snapshot=self._snapshot,
        )

    def push(self, count: int) -> None:
        updates = [post(self.pts + number) for number in range(1, count + 1)]
        self.pts += count
        self.intake.add(updates)

    def skip(self, count: int) -> None:
        """As a difference that is too long: the state moves on, and only the ledger knows over what."""
        self.pts += count
        self.missing.append(Missing(marked(CHANNEL), self.pts, "channel_too_long"))
        self.intake.add([])

    def push_unplaced_deletion(self) -> None:
        self.intake.add([types.UpdateDeleteMessages([4], pts=1, pts_count=1)])

    async def flush(self) -> None:
        await self.intake.flush(self.converter, ME)

    async def assert_state_agrees(self) -> int:
        """A crash at this moment loses nothing: Telegram hands out again what is behind the state."""
        state, _ = await self.journal.load_state("main")
        ids = [record.event.message_id for record in await self.journal.read(0, 1000)]
        assert ids == sorted(ids)
        gaps = await self.journal.gaps("main")
        accounted = {*ids, *(number for gap in gaps for number in range(gap.first, gap.last + 1))}
        assert accounted == set(range(1, 1 + (0 if state is None else state.pts)))
        return len(ids)

    async def _commit(self, batch: Batch) -> None:
        self.committing.set()
        await self.journal.append(batch)
        await self.assert_state_agrees()

    async def _chat_of(self, _scope: int, _ids: Sequence[int]) -> dict[int, tuple[str, str]]:
        self.asked.set()
        return await self.found

    def _snapshot(self) -> tuple[AccountState, dict[int, int], LedgerChanges]:
        missing, self.missing = self.missing, []
        return AccountState(self.pts, 0, THEN, 0), {}, LedgerChanges(missing=missing)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.db") as opened:
        yield opened


@pytest.fixture
async def line(journal: Journal) -> Line:
    return Line(journal)


async def test_events_and_the_state_behind_them_are_committed_together(line: Line) -> None:
    for count in (1, 5, 200):
        line.push(count)
        await line.flush()
    assert await line.assert_state_agrees() == 206


async def test_what_telegram_skips_is_a_gap_in_the_very_commit_that_skips_it(line: Line) -> None:
    line.push(2)
    await line.flush()
    line.skip(40)
    await line.flush()
    assert await line.assert_state_agrees() == 2
    line.skip(5)
    line.push(1)
    await line.flush()
    assert await line.assert_state_agrees() == 3


async def test_what_arrives_while_a_batch_is_made_is_neither_in_it_nor_in_its_state(line: Line) -> None:
    line.push(3)
    line.push_unplaced_deletion()
    first = asyncio.ensure_future(line.flush())
    await line.asked.wait()
    line.push(2)
    line.found.set_result({})
    await first
    assert await line.assert_state_agrees() == 3
    await line.flush()
    assert await line.assert_state_agrees() == 5


async def test_after_a_batch_that_failed_nothing_more_is_committed(line: Line) -> None:
    line.push(2)
    await line.flush()
    line.push(3)
    line.push_unplaced_deletion()
    line.found.set_exception(RuntimeError("a batch that cannot be made"))
    with pytest.raises(RuntimeError):
        await line.flush()
    line.push(1)
    await line.flush()
    assert await line.assert_state_agrees() == 2


async def test_a_connection_that_ends_in_the_middle_of_a_batch_leaves_no_hole(line: Line) -> None:
    line.push(2)
    line.push_unplaced_deletion()
    running = asyncio.ensure_future(line.intake.run(line.converter, ME))
    await line.asked.wait()
    line.push(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await line.flush()  # as every connection does at its end
    assert await line.assert_state_agrees() == 0


async def test_a_connection_that_ends_while_the_disk_is_written_to_keeps_what_was_under_way(
    line: Line,
) -> None:
    line.push(2)
    running = asyncio.ensure_future(line.intake.run(line.converter, ME))
    await line.committing.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    line.push(1)
    await line.flush()
    assert await line.assert_state_agrees() == 3


async def test_a_checkpoint_returns_once_the_present_state_is_on_the_disk(line: Line) -> None:
    running = asyncio.ensure_future(line.intake.run(line.converter, ME))
    line.push(2)
    await line.intake.checkpoint()
    assert await line.assert_state_agrees() == 2
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.fixture
async def client(journal: Journal) -> GatewayClient:
    """A client as the account makes it, before it connects."""
    session = GatewaySession()
    session.set_dc(2, "127.0.0.1", 443)
    session.auth_key = AuthKey(bytes(256))
    directory = Directory()

    async def commit(batch: Batch) -> None:
        await journal.append(batch)

    client = GatewayClient(
        "main",
        session,
        1,
        "hash",
        commit=commit,
        chat_of=journal.chat_of,
        wanted=ChatFilter((), directory),
        directory=directory,
        access_hashes={},
    )
    client.message_box.set_state(types.updates.State(pts=5, qts=0, date=THEN, seq=0, unread_count=0))
    return client


async def test_updates_that_the_hook_fails_at_are_not_skipped_by_later_ones(
    client: GatewayClient, journal: Journal
) -> None:
    nameless = types.Channel(id=1, title=None, photo=types.ChatPhotoEmpty(), date=THEN)
    with pytest.raises(TypeError):
        await client._preprocess_updates([post(1)], [], [nameless])
    await client._preprocess_updates([post(2)], [], [])
    await client.intake.flush(Converter("main", ME, Directory()), ME)
    assert await journal.read(0, 10) == ()
    assert await journal.load_state("main") == (None, {})


async def test_updates_that_the_sequencer_fails_at_are_not_skipped_by_its_state(
    client: GatewayClient, journal: Journal
) -> None:
    await client._preprocess_updates([post(1)], [], [])
    client._updates_error = ValueError("half way through a difference")
    converter = Converter("main", ME, Directory())
    with pytest.raises(ValueError, match="half way"):
        await client.intake.flush(converter, ME)
    client._updates_error = None
    await client.intake.flush(converter, ME)
    assert await journal.load_state("main") == (None, {})
