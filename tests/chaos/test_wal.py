"""Tearing a write-ahead log: committed rows stay, and what stands behind them is not believed."""

import os
import random
import shutil
import signal
import struct
from pathlib import Path

import apsw
import pytest

from tests.chaos.wal import OPEN_TRANSACTION, TEARS, checksum_of, tear


def _killed_writer(path: Path, commits: int) -> None:
    """A process that commits, and is killed with its log in place."""
    child = os.fork()
    if child == 0:
        database = apsw.Connection(str(path))
        database.execute("PRAGMA journal_mode = WAL").fetchall()
        database.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        database.execute("CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY, text)")
        for _ in range(commits):
            database.execute("INSERT INTO lines (text) VALUES (?)", ("x" * 3000,))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def _lines(path: Path) -> int:
    database = apsw.Connection(str(path))
    try:
        assert database.execute("PRAGMA integrity_check").get == "ok"
        count: int = database.execute("SELECT count(*) FROM lines").get
        return count
    finally:
        database.close()


@pytest.mark.parametrize("how", TEARS)
def test_a_torn_tail_costs_no_committed_row_and_adds_none(tmp_path: Path, how: str) -> None:
    path = tmp_path / "journal.db"
    for number in range(1, 6):
        _killed_writer(path, 20)
        before = path.with_name("journal.db-wal").read_bytes()
        assert tear(path, how, random.Random(number))
        assert path.with_name("journal.db-wal").read_bytes() != before
        copy = tmp_path / f"copy{number}"
        copy.mkdir()
        for file in tmp_path.glob("journal.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy)
        assert _lines(copy / "journal.db") == 20 * number


def test_the_open_transaction_lacks_nothing_but_its_commit(tmp_path: Path) -> None:
    """With a commit at its end SQLite believes it: so it is the missing commit that the journal stands on."""
    path = tmp_path / "journal.db"
    _killed_writer(path, 20)
    end = path.with_name("journal.db-wal").stat().st_size
    assert tear(path, OPEN_TRANSACTION, random.Random(1))
    _commit_last_frame(path.with_name("journal.db-wal"), end)
    path.with_name("journal.db-shm").unlink()
    with pytest.raises(apsw.Error):  # page 1 is random bytes now
        _lines(path)


def _commit_last_frame(log: Path, end: int) -> None:
    content = bytearray(log.read_bytes())
    page_size = int.from_bytes(content[8:12], "big")
    before = (24 + page_size) * ((len(content) - end) // (24 + page_size) - 1)
    last = end + before
    running = struct.unpack_from(">2I", content, last - page_size - 8)
    struct.pack_into(">I", content, last + 4, 3)
    order = ">" if content[3] & 1 else "<"
    frame = bytes(content[last : last + 8] + content[last + 24 : last + 24 + page_size])
    struct.pack_into(">2I", content, last + 16, *checksum_of(frame, running, order))
    log.write_bytes(content)


def test_without_a_log_there_is_nothing_to_tear(tmp_path: Path) -> None:
    assert not tear(tmp_path / "journal.db", TEARS[0], random.Random(1))
