"""One commit holds everything that belongs together: at no moment does the disk show a part of a batch."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from gateway.event import utc_now
from gateway.journal import AccountState, Batch, Journal, LedgerChanges, Settled
from tests.sink_events import CHANNEL, new

CHAT = int(CHANNEL)


class Disk(apsw.VFS):
    """SQLite's own file layer; it keeps what a power cut would leave after each sync, and may be full."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.watched = False
        self.full = False
        self.refused = 0
        self.moments: list[dict[str, bytes]] = []
        self.base = apsw.vfs_names()[0]
        super().__init__("watched_disk", self.base, makedefault=True)

    def xOpen(self, name: object, flags: list[int]) -> "_File":
        return _File(self, name, flags)

    def look(self) -> None:
        files = [self.journal, self.journal.with_name(self.journal.name + "-wal")]
        self.moments.append({file.name: file.read_bytes() for file in files})


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: object, flags: list[int]) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._log = path.endswith("-wal")
        super().__init__(disk.base, name, flags)  # type: ignore[arg-type]

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        if self._log and self._disk.watched:
            self._disk.look()

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._log and self._disk.full:
            self._disk.refused += 1
            raise apsw.FullError("no space left")
        super().xWrite(data, offset)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "journal.db")
    try:
        yield disk
    finally:
        disk.unregister()


def live(*ids: int) -> Batch:
    """Messages as they are pushed, and the state that follows from them."""
    state = AccountState(pts=ids[-1], qts=0, date=utc_now(), seq=0, channels={7: ids[-1]})
    return Batch("main", [new(number) for number in ids], state)


def fetched(first: int, last: int, *found: int) -> Batch:
    """The answer for a gap: what is there, and that the rest of it is not."""
    ledger = LedgerChanges(settled=[Settled(CHAT, first, last, "empty")], fetched=CHAT)
    return Batch("main", [new(number, source="backfill") for number in found], ledger=ledger)


async def assert_all_agree(journal: Journal) -> int:
    """Events, update state and ledger tell the same story; returns how many events there are."""
    ids = {record.event.message_id for record in await journal.read(0, 1000)}
    newest = max(ids, default=0)
    state, _ = await journal.load_state("main")
    assert (0 if state is None else state.pts) == newest
    chat = (await journal.ledger("main")).get(CHAT)
    assert (0 if chat is None else chat.top) == newest
    accounted = set(ids)
    for kind in ("open", "absent"):
        gaps = await journal.gaps("main", CHAT, kind)
        accounted |= {number for gap in gaps for number in range(gap.first, gap.last + 1)}
    assert accounted == set(range(1, newest + 1))
    return len(ids)


@asynccontextmanager
async def after_a_power_cut(moment: dict[str, bytes], directory: Path) -> AsyncIterator[Journal]:
    directory.mkdir()
    for name, content in moment.items():
        (directory / name).write_bytes(content)
    async with Journal(directory / "journal.db") as journal:
        yield journal


async def test_at_every_sync_events_state_and_ledger_agree(disk: Disk, tmp_path: Path) -> None:
    batches = [live(1, 2), live(6, 7), live(9), fetched(3, 5, 3, 5), live(10, 14), fetched(11, 13, 12)]
    async with Journal(disk.journal) as journal:
        disk.watched = True
        for batch in batches:
            await journal.append(batch)
        disk.watched = False
        total = await assert_all_agree(journal)
    found = []
    for number, moment in enumerate(disk.moments):
        async with after_a_power_cut(moment, tmp_path / str(number)) as journal:
            found.append(await assert_all_agree(journal))
    assert found == sorted(found)
    assert set(found) >= {2, 4, 5, 7, 9, 10}
    assert found[-1] == total


async def test_what_a_full_disk_refused_is_entered_anew_when_there_is_room(disk: Disk) -> None:
    async with Journal(disk.journal) as journal:
        await journal.append(live(1, 2))
        disk.full = True
        waiting = asyncio.ensure_future(journal.append(live(6)))
        async with asyncio.timeout(60):
            while not disk.refused:
                await asyncio.sleep(0.01)
        disk.full = False
        assert await waiting == 1
        assert await assert_all_agree(journal) == 3
    async with Journal(disk.journal) as journal:
        assert await assert_all_agree(journal) == 3
        (gap,) = await journal.gaps("main", CHAT)
        assert (gap.first, gap.last, gap.source) == (3, 5, "hole")
