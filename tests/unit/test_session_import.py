"""Sessions from elsewhere: whatever a container left behind, out comes the login or one clear error."""

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyrogram.storage.sqlite_storage import SQLiteStorage
from telethon.crypto import AuthKey
from telethon.sessions import SQLiteSession, StringSession

from gateway.errors import SessionError
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_backup import SessionBackups
from gateway.telegram.session_cipher import SessionCipher
from gateway.telegram.session_file import StoredSession
from gateway.telegram.session_import import as_string, read_bytes, read_file, take_in

KEY = random.Random(3).randbytes(256)
LOGIN = StoredSession(2, "149.154.167.51", 443, KEY)
PASSPHRASE = "a passphrase of some length"

# What each version of Telethon's schema has more than the one before, as its own upgrade adds it.
YOUNGER_COLUMNS = {8: "tmp_auth_key", 5: "takeout_id"}


@pytest.fixture
def sessions(tmp_path: Path) -> SessionDirectory:
    return SessionDirectory(tmp_path / "sessions")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A container's volume with the session that Telethon made there."""
    directory = tmp_path / "volume"
    directory.mkdir()
    return telethon_file(directory / "anon.session")


def telethon_file(file: Path, login: StoredSession = LOGIN) -> Path:
    session = SQLiteSession(str(file))
    session.set_dc(login.dc_id, login.server_address, login.port)
    session.auth_key = AuthKey(login.auth_key)
    session.save()
    session.close()
    return file


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if not file.name.endswith("-shm")}


@pytest.mark.parametrize("version", range(1, 9))
def test_a_file_of_every_telethon_schema_is_read(
    volume: Path, sessions: SessionDirectory, version: int
) -> None:
    with opened(volume) as database:
        for since, column in YOUNGER_COLUMNS.items():
            if version < since:
                database.execute(f"ALTER TABLE sessions DROP COLUMN {column}")
        if version < 4:
            database.execute("DROP TABLE update_state")
        database.execute("UPDATE version SET version = ?", (version,))
    assert read_file(volume, "main", sessions) == LOGIN


def test_a_file_that_a_program_has_open_is_read_as_committed(
    volume: Path, sessions: SessionDirectory
) -> None:
    with opened(volume) as program:
        program.execute("BEGIN")  # as Telethon does, for up to a minute
        program.execute("UPDATE sessions SET port = 1")
        before = contents(volume.parent)
        assert read_file(volume, "main", sessions) == LOGIN
        assert contents(volume.parent) == before
        program.execute("COMMIT")
    assert read_file(volume, "main", sessions).port == 1


def test_what_is_only_in_the_write_ahead_log_is_read(volume: Path, sessions: SessionDirectory) -> None:
    with opened(volume) as program:
        program.execute("PRAGMA journal_mode = WAL")
        program.execute("UPDATE sessions SET port = 80")
        assert read_file(volume, "main", sessions).port == 80
        program.execute("BEGIN")
        program.execute("UPDATE sessions SET port = 81")
        assert read_file(volume, "main", sessions).port == 80
        # What a killed container leaves: the file and its log, without the shared index.
        killed = volume.parent.parent / "killed"
        killed.mkdir()
        for name in ("anon.session", "anon.session-wal"):
            shutil.copyfile(volume.with_name(name), killed / name)
    assert read_file(killed / "anon.session", "main", sessions).port == 80


def kill_while_writing(file: Path) -> None:
    program = f"""
import os, sqlite3
database = sqlite3.connect({str(file)!r}, isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.execute("UPDATE sessions SET port = 1, auth_key = zeroblob(256)")
database.executemany(
    "INSERT INTO entities (id, hash, name) VALUES (?, 0, ?)", [(i, "x" * 1000) for i in range(200)]
)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_half_written_transaction_of_a_killed_program_is_rolled_back(
    volume: Path, sessions: SessionDirectory
) -> None:
    kill_while_writing(volume)
    before = contents(volume.parent)
    assert "anon.session-journal" in before
    assert KEY not in before["anon.session"], "the half-written transaction reached the file"
    assert read_file(volume, "main", sessions) == LOGIN
    assert contents(volume.parent) == before, "the volume is not ours to mend"


def test_a_file_in_a_read_only_volume_is_read(volume: Path, sessions: SessionDirectory) -> None:
    with opened(volume) as database:
        database.execute("PRAGMA journal_mode = WAL")
    volume.chmod(0o444)
    volume.parent.chmod(0o555)
    try:
        assert read_file(volume, "main", sessions) == LOGIN
    finally:
        volume.parent.chmod(0o755)


def test_a_file_being_written_to_is_not_read(
    volume: Path, sessions: SessionDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.telegram.session_file.BUSY_SECONDS", 0.1)
    with opened(volume) as program:
        program.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SessionError, match="stop the program that uses it"):
            read_file(volume, "main", sessions)


@pytest.mark.parametrize("address", ["149.154.167.51", "2001:67c:4e8:f002::a"])
def test_a_session_string_and_a_piped_file_are_read(
    volume: Path, sessions: SessionDirectory, address: str
) -> None:
    login = StoredSession(4, address, 443, KEY)
    string = as_string(login, "main")
    there = StringSession(string)
    assert (there.dc_id, there.server_address, there.auth_key.key) == (4, address, KEY), "Telethon reads it"
    assert read_bytes(f"{string}\n".encode(), "main", sessions, "standard input") == login
    in_a_file = volume.with_name("string.txt")
    in_a_file.write_text(f"\n{string}\n")
    assert read_file(in_a_file, "main", sessions) == login
    assert read_bytes(volume.read_bytes(), "main", sessions, "standard input") == LOGIN


def test_half_of_a_database_with_a_write_ahead_log_is_refused(
    volume: Path, sessions: SessionDirectory
) -> None:
    with opened(volume) as database:
        database.execute("PRAGMA journal_mode = WAL")
    with pytest.raises(SessionError, match="give the file itself"):
        read_bytes(volume.read_bytes(), "main", sessions, "standard input")


def broken(file: Path, statement: str, *values: object) -> Path:
    with opened(telethon_file(file)) as database:
        database.execute(statement, values)
    return file


async def test_whatever_is_no_session_is_refused_in_its_own_words(
    tmp_path: Path, sessions: SessionDirectory
) -> None:
    pyrogram = SQLiteStorage("pyrogram", tmp_path)
    await pyrogram.open()  # type: ignore[no-untyped-call]
    await pyrogram.dc_id(2)
    await pyrogram.api_id(1)
    await pyrogram.test_mode(False)
    await pyrogram.auth_key(KEY)
    await pyrogram.user_id(7)
    await pyrogram.is_bot(False)
    pyrogram_string = await pyrogram.export_session_string()
    await pyrogram.close()  # type: ignore[no-untyped-call]

    def written(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    string = as_string(LOGIN, "main")
    whole = telethon_file(tmp_path / "whole.session").read_bytes()
    refused = {
        tmp_path / "pyrogram.session": "Pyrogram session",
        written("pyrogram.txt", pyrogram_string.encode()): "Pyrogram session string",
        written("half.txt", string[:-40].encode()): "damaged",
        written("notes.txt", b"buy PETR4 at 30\n"): "is no session",
        written("picture.jpg", bytes(range(256)) * 20): "is no session",
        written("empty.session", b""): "is empty",
        written("cut.session", whole[:9000]): "not a readable session|damaged",
        written("torn.session", whole[:4096] + bytes(len(whole) - 4096)): "not a readable session|damaged",
        written(
            "worn.session", whole[:-4096] + bytes(4096)
        ): "not a readable session",  # not where the key is
        written("wrong.session", whole[:36] + bytes([0, 0, 0, 7]) + whole[40:]): "is damaged",
        broken(tmp_path / "nobody.session", "DELETE FROM sessions"): "holds no login",
        broken(tmp_path / "blank.session", "UPDATE sessions SET auth_key = zeroblob(256)"): "holds no login",
        broken(tmp_path / "short.session", "UPDATE sessions SET auth_key = ?", KEY[:255]): "255 bytes",
        broken(tmp_path / "far.session", "UPDATE sessions SET dc_id = 9"): "data centre 9",
        broken(tmp_path / "lost.session", "UPDATE sessions SET port = 0"): "no server address",
        broken(tmp_path / "other.session", "DROP TABLE sessions"): "not a readable session",
        tmp_path / "absent.session": "does not exist",
        tmp_path: "is a directory",
        Path(string): "command line",
    }
    wrong = {}
    for file, words in refused.items():
        with pytest.raises(SessionError) as caught:
            read_file(file, "main", sessions)
        text = str(caught.value)
        if not any(word in text for word in words.split("|")) or string in text or "\n" in text:
            wrong[file.name] = text
    assert not wrong


def test_another_session_is_replaced_only_when_forced_and_is_kept_as_a_backup(
    tmp_path: Path, sessions: SessionDirectory
) -> None:
    backups = SessionBackups(tmp_path / "backups", sessions)
    other = StoredSession(2, "149.154.167.51", 443, KEY[::-1])
    take_in("main", LOGIN, sessions, backups, force=False)
    take_in("main", LOGIN, sessions, backups, force=False)  # the same one is no conflict
    with pytest.raises(SessionError, match="--force"):
        take_in("main", other, sessions, backups, force=False)
    assert sessions.load("main") == LOGIN
    take_in("main", other, sessions, backups, force=True)
    assert sessions.load("main") == other
    assert [backups.read(backup) for backup in backups.of("main")] == [LOGIN]

    sessions.file("main").write_bytes(b"scribble")
    with pytest.raises(SessionError, match=r"not a readable session.*--force"):
        take_in("main", LOGIN, sessions, backups, force=False)
    take_in("main", LOGIN, sessions, backups, force=True)
    assert sessions.load("main") == LOGIN


def test_an_encrypted_file_is_taken_in_by_whoever_has_its_key(tmp_path: Path, volume: Path) -> None:
    there = SessionDirectory(tmp_path / "there", SessionCipher(PASSPHRASE))
    there.store("main", LOGIN)
    file = there.file("main")
    assert read_file(file, "main", SessionDirectory(volume, SessionCipher(PASSPHRASE))) == LOGIN
    for account, cipher in (
        ("main", None),
        ("main", SessionCipher(PASSPHRASE + "!")),
        ("b", SessionCipher(PASSPHRASE)),
    ):
        with pytest.raises(SessionError, match="TELEGRAM_SESSION_KEY"):
            read_file(file, account, SessionDirectory(volume, cipher))


def test_no_copy_of_an_imported_key_stays_behind(
    volume: Path, sessions: SessionDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    kill_while_writing(volume)
    read_file(volume, "main", sessions)
    assert list(scratch.iterdir()) == []
