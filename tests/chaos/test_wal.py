"""Tearing a write-ahead log: committed rows stay, and what stands behind them is not believed."""

import os
import random
import shutil
import signal
from pathlib import Path

import apsw
import pytest

from tests.chaos.wal import OPEN_TRANSACTION, TEARS, tear


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


def test_the_open_transaction_is_whole_but_for_its_commit(tmp_path: Path) -> None:
    """Else SQLite would pass it over for a wrong checksum, and no more be tested than with garbage."""
    path = tmp_path / "journal.db"
    _killed_writer(path, 20)
    log = path.with_name("journal.db-wal")
    end = log.stat().st_size
    assert tear(path, OPEN_TRANSACTION, random.Random(1))
    content = bytearray(log.read_bytes())
    page_size = int.from_bytes(content[8:12], "big")
    last = len(content) - 24 - page_size
    assert last >= end
    # With a size after commit and the checksum that follows from it, the debris would be believed.
    assert content[last + 4 : last + 8] == bytes(4)
    assert content[last + 8 : last + 16] == content[16:24]


def test_without_a_log_there_is_nothing_to_tear(tmp_path: Path) -> None:
    assert not tear(tmp_path / "journal.db", TEARS[0], random.Random(1))
