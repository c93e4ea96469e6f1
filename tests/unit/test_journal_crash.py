"""What the journal holds after kill -9, torn files, a full disk and a disk that fails to sync."""

import asyncio
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from gateway.errors import JournalError
from gateway.event import utc_now
from gateway.journal import AccountState, Batch, Journal
from gateway.metrics import REGISTRY
from tests.sink_events import new


def batch(first: int, size: int) -> Batch:
    """Messages `first`… whose update state says how many there are in all once they are in."""
    total = first + size
    state = AccountState(pts=total, qts=0, date=utc_now(), seq=0, channels={7: total})
    return Batch("main", [new(number) for number in range(first, total)], state)


async def contents(path: Path) -> int:
    """How many messages there are: the first ones, in order, as many as the state says."""
    async with Journal(path) as journal:
        numbers = [record.event.message_id for record in await journal.read(0, 10_000_000)]
        state, _ = await journal.load_state("main")
        assert numbers == list(range(len(numbers)))
        if state is None:
            assert not numbers
        else:
            assert (state.pts, state.channels) == (len(numbers), {7: len(numbers)})
        await journal.append(batch(len(numbers), 3))
        return len(numbers)


_APPENDER = """
import asyncio, pathlib, sys
from gateway.journal import Journal
from gateway.logs import configure_logging
from tests.unit.test_journal_crash import batch
configure_logging()  # to standard error
async def main():
    async with Journal(pathlib.Path(sys.argv[1])) as journal:
        state, _ = await journal.load_state("main")
        count = state.pts if state else 0
        print("open", flush=True)
        async def one(first, size):
            await journal.append(batch(first, size))
            print(first + size, flush=True)
        while True:
            # several in flight, so that the kill meets group commits too
            async with asyncio.TaskGroup() as group:
                for size in (1, 3, 20, 1, 200):
                    group.create_task(one(count, size))
                    count += size
asyncio.run(main())
"""


async def test_kill_9_keeps_every_append_that_returned_and_state_agrees_with_events(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for _ in range(8):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _APPENDER, str(path), stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        acknowledged = 0
        for _ in range(random.randrange(1, 150)):
            line = await process.stdout.readline()
            acknowledged = 0 if line == b"open\n" else int(line)
        process.kill()
        rest = (await process.stdout.read()).split()
        await process.wait()
        acknowledged = int(rest[-1]) if rest and rest[-1] != b"open" else acknowledged
        assert await contents(path) >= acknowledged


@pytest.mark.parametrize("damage", ["cut", "garbled", "zeroed"])
async def test_a_torn_wal_leaves_a_prefix_with_its_state(tmp_path: Path, damage: str) -> None:
    source = tmp_path / "journal.db"
    async with Journal(source) as journal:
        count = 0
        for size in (1, 5, 40, 2, 100, 7):
            await journal.append(batch(count, size))
            count += size
        wal = source.with_name("journal.db-wal").read_bytes()
        copy = tmp_path / "copy" / "journal.db"
        copy.parent.mkdir()
        found = set()
        for lost in (0, 1, 100, 4096, 4200, len(wal) // 2, len(wal) - 10):
            keep = len(wal) - lost
            tail = {"cut": b"", "garbled": random.Random(lost).randbytes(lost), "zeroed": bytes(lost)}[damage]
            shutil.copy(source, copy)
            copy.with_name("journal.db-wal").write_bytes(wal[:keep] + tail)
            found.add(await contents(copy))
            for file in copy.parent.iterdir():
                file.unlink()
        assert count in found
        assert len(found) > 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_full_disk_holds_the_intake_up_and_loses_nothing(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    async with Journal(path) as journal:
        count = 0
        while True:
            append = asyncio.ensure_future(journal.append(batch(count, 20)))
            done, _ = await asyncio.wait([append], timeout=2)
            while not done and not journal.full:  # it is only the machine that is slow
                done, _ = await asyncio.wait([append], timeout=2)
            if not done:
                break
            count += 20
        assert count > 0
        assert journal.full
        assert REGISTRY.get_sample_value("telegram_gateway_journal_full") == 1
        await journal.check_writer()
        ballast.unlink()
        async with asyncio.timeout(60):
            assert await append == 20
        assert not journal.full
    assert await contents(path) == count + 20


class _FailingDisk(apsw.VFS):
    """SQLite's own file layer, whose syncs or reads fail once they are told to."""

    def __init__(self) -> None:
        self.failing_sync = ""  # how the names of the files end that cannot be synced
        self.base = apsw.vfs_names()[0]
        super().__init__("failing_disk", self.base, makedefault=True)

    def xOpen(self, name: object, flags: list[int]) -> "_FailingFile":
        return _FailingFile(self, name, flags)


class _FailingFile(apsw.VFSFile):
    def __init__(self, disk: _FailingDisk, name: object, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__(disk.base, name, flags)  # type: ignore[arg-type]

    def xSync(self, flags: int) -> None:
        if self._disk.failing_sync and self._name.endswith(self._disk.failing_sync):
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)


@pytest.fixture
def failing_disk() -> Iterator[_FailingDisk]:
    disk = _FailingDisk()
    try:
        yield disk
    finally:
        disk.unregister()


async def test_a_failed_fsync_ends_the_journal_for_good(tmp_path: Path, failing_disk: _FailingDisk) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        watch = asyncio.ensure_future(journal.wait_failed())
        waiter = asyncio.ensure_future(journal.wait_beyond(5))
        assert await journal.append(batch(0, 5)) == 5
        failing_disk.failing_sync = "-wal"
        pending = [asyncio.ensure_future(journal.append(batch(5 + number, 1))) for number in range(10)]
        for result in await asyncio.gather(*pending, return_exceptions=True):
            assert isinstance(result, JournalError)
        failing_disk.failing_sync = ""
        later = (journal.append(batch(5, 1)), journal.read(0, 1), journal.quarantine("cache", 1, "poison"))
        for call in (watch, waiter, *later):
            with pytest.raises(JournalError, match="check the disk"):
                await call
        assert journal.last_seq == 5


async def test_a_failed_sync_of_a_checkpoint_ends_it_too(tmp_path: Path, failing_disk: _FailingDisk) -> None:
    async with Journal(tmp_path / "journal.db") as journal:
        await journal.append(batch(0, 500))
        watch = asyncio.ensure_future(journal.wait_failed())
        failing_disk.failing_sync = "journal.db"
        for first in range(500, 20_000, 500):
            try:
                await journal.append(batch(first, 500))
            except JournalError:
                break
        with pytest.raises(JournalError, match="check the disk"):
            await watch


async def test_a_damaged_page_ends_the_journal_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        for first in range(0, 5000, 500):
            await journal.append(batch(first, 500))
    content = path.read_bytes()
    page = content.index(b'"message_id":2500,') // 4096
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)
    async with Journal(path) as journal:
        with pytest.raises(JournalError, match="damaged"):
            await journal.read(0, 5000)
        with pytest.raises(JournalError, match="damaged"):
            await journal.wait_failed()
