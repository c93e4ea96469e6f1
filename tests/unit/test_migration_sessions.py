"""The old stack's session on the way back: handed over when its key is another by now, and never lost."""

import random
import sqlite3
from pathlib import Path

import pytest

from gateway.migration.sessions import hand_back
from gateway.settings import Settings, load_settings
from gateway.telegram import session_file
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_file import StoredSession
from gateway.telegram.session_import import read_file

_keys = random.Random(7)


def login() -> StoredSession:
    return StoredSession(2, "149.154.167.51", 443, _keys.randbytes(256))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {
        "TELEGRAM_API_ID": "1",
        "TELEGRAM_API_HASH": "x",
        "TELEGRAM_SESSION_DIR": str(tmp_path / "ours"),
        "TELEGRAM_STATE_DIR": str(tmp_path / "state"),
    }.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    place = tmp_path / "volume"
    place.mkdir()
    return place


def test_a_key_that_changed_goes_back_and_what_lay_there_stays_beside_it(
    settings: Settings, volume: Path
) -> None:
    sessions, theirs, ours = SessionDirectory.from_settings(settings), login(), login()
    file = volume / "telegram.session"
    session_file.write(file, session_file.build(theirs))
    # A container that was killed leaves its write-ahead log, which must not be played into the new file.
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("UPDATE sessions SET port = 8443")
    database.commit()
    wal = file.with_name(f"{file.name}-wal")
    left = wal.read_bytes()
    database.close()
    wal.write_bytes(left)
    sessions.store("main", ours)

    kept = hand_back(str(volume), "main", settings)
    assert kept is not None
    assert read_file(file, "main", sessions) == ours
    assert not wal.exists()
    assert read_file(kept, "main", sessions).auth_key == theirs.auth_key
    assert hand_back(str(file), "main", settings) is None


def test_the_same_key_is_left_as_it_lies(settings: Settings, volume: Path) -> None:
    sessions, both = SessionDirectory.from_settings(settings), login()
    file = volume / "telegram.session"
    session_file.write(file, session_file.build(both))
    before = file.read_bytes()
    assert hand_back(str(volume), "main", settings) is None  # nothing of ours yet
    sessions.store("main", both)
    assert hand_back(str(volume), "main", settings) is None
    assert file.read_bytes() == before
    assert [each.name for each in volume.iterdir()] == [file.name]
