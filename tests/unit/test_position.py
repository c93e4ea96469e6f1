"""Where an account stands, taken from one journal into another."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest_asyncio

from gateway.journal import AccountState, Batch, Journal, LedgerChanges, Missing, Settled
from gateway.journal.ledger import ACCOUNT_IDS, NO_ACCESS
from gateway.journal.position import Position
from tests.sink_events import new

CHANNEL, BARRED, UNTRACKED, UNTOLD = (-1_000_000_000_000 - number for number in (101, 102, 103, 104))
THEN = datetime(2026, 1, 1, tzinfo=UTC)
STATE = AccountState(500, 3, THEN, 9, {101: 40, 102: 41, 103: 42})


@pytest_asyncio.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """One that stands somewhere, with gaps of every sort."""
    async with Journal(tmp_path / "first.db") as journal:
        await journal.append(Batch("main", state=STATE, access_hashes={101: 7, 104: 8}))
        known = {CHANNEL: 1000, BARRED: 300, UNTOLD: 60, ACCOUNT_IDS: 900}
        await journal.append(Batch("main", ledger=LedgerChanges(tracked=known)))
        missing = [Missing(CHANNEL, 1010, "hole"), Missing(BARRED, 310, "hole"), Missing(UNTOLD, 61, "hole")]
        await journal.append(Batch("main", ledger=LedgerChanges(missing=missing)))
        await journal.append(Batch("main", ledger=LedgerChanges(reread=[CHANNEL])))
        settled = [Settled(BARRED, 301, 310, NO_ACCESS), Settled(UNTOLD, 61, 61, "deleted")]
        await journal.append(Batch("main", ledger=LedgerChanges(settled=settled)))
        yield journal


@pytest_asyncio.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "second.db") as journal:
        yield journal


async def position(journal: Journal) -> Position:
    found = await journal.position("main")
    assert found is not None
    return found[0]


async def test_all_of_it_arrives_except_what_only_one_login_knows(journal: Journal, empty: Journal) -> None:
    there = await position(journal)
    assert await empty.adopt("other", there)
    state, access_hashes = await empty.load_state("other")
    assert state == replace(STATE, qts=0, seq=0)
    assert access_hashes == {}
    before, after = await journal.ledger("main"), await empty.ledger("other")
    assert after.keys() == before.keys() == {CHANNEL, BARRED, UNTOLD, ACCOUNT_IDS}
    for chat in (CHANNEL, UNTOLD, ACCOUNT_IDS):
        assert after[chat] == before[chat]
    gaps = {(gap.chat, gap.first, gap.last, gap.source, gap.reread) for gap in await empty.gaps("other")}
    # What could not be read is asked for once more.
    assert gaps == {
        *((gap.chat, gap.first, gap.last, gap.source, gap.reread) for gap in await journal.gaps("main")),
        (BARRED, 301, 310, "hole", False),
    }
    assert (CHANNEL, 1001, 1010, "hole", False) in gaps
    assert (CHANNEL, 1001, 1010, "unseen_changes", True) in gaps
    assert empty.open_gaps == {"other": 3}
    assert (await empty.position("other") or (None,))[0] == there


async def test_an_account_that_has_begun_keeps_its_own_state(journal: Journal, empty: Journal) -> None:
    own = AccountState(77, 0, THEN, 1, {101: 5})
    await empty.append(Batch("main", state=own))
    assert not await empty.adopt("main", await position(journal))
    assert (await empty.load_state("main"))[0] == own
    assert await empty.ledger("main") == {}


async def test_a_position_tells_which_events_come_before_it(journal: Journal) -> None:
    for number in (1, 2, 3):
        await journal.append(Batch("main", [new(number)]))
    found = await journal.position("main")
    assert found is not None
    assert found[1] == journal.last_seq == 3


async def test_an_account_without_a_state_stands_nowhere(empty: Journal) -> None:
    assert await empty.position("main") is None
