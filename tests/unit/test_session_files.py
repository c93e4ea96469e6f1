"""Session files and their backups on the disk: whole, private, encrypted where there is a key, never lost."""

import os
import random
import shutil
import sqlite3
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError, SessionError
from gateway.settings import load_settings
from gateway.telegram import session_file
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_backup import EVERY, KEPT, SessionBackups
from gateway.telegram.session_cipher import SessionCipher, is_sealed
from gateway.telegram.session_file import StoredSession

PASSPHRASE = "a passphrase of some length"
_keys = random.Random(5)


def login() -> StoredSession:
    return StoredSession(2, "149.154.167.51", 443, _keys.randbytes(256))


@pytest.fixture
def sessions(tmp_path: Path) -> SessionDirectory:
    return SessionDirectory(tmp_path / "sessions")


@pytest.fixture
def sealed(tmp_path: Path) -> SessionDirectory:
    return SessionDirectory(tmp_path / "sessions", SessionCipher(PASSPHRASE))


@pytest.fixture
def backups(sessions: SessionDirectory, tmp_path: Path) -> SessionBackups:
    return SessionBackups(tmp_path / "state" / "backups", sessions)


def aged(backups: SessionBackups, account: str, age: timedelta) -> Path:
    """Makes the newest backup look as if it had been made `age` ago."""
    newest = backups.of(account)[0]
    then = newest.made_at - age
    older = newest.file.with_name(f"{account}-{then:%Y%m%dT%H%M%S.%fZ}.session")
    return newest.file.rename(older)


# -- encryption


def test_with_a_key_nothing_on_the_disk_shows_the_session(sealed: SessionDirectory, tmp_path: Path) -> None:
    session = login()
    sealed.store("main", session)
    backup = SessionBackups(tmp_path / "backups", sealed).make("main")
    for file in (sealed.file("main"), backup.file):
        content = file.read_bytes()
        assert session.auth_key not in content
        assert session.auth_key[:16] not in content
        assert b"SQLite" not in content
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sealed.load("main") == session


def test_a_clear_file_still_loads_with_a_key_and_is_encrypted_when_written(
    sessions: SessionDirectory, sealed: SessionDirectory
) -> None:
    session = login()
    sessions.store("main", session)
    assert sealed.load("main") == session
    sealed.store("main", sealed.load("main"))
    assert is_sealed(sealed.file("main").read_bytes())
    assert sealed.load("main") == session


def test_without_the_key_or_with_another_an_encrypted_file_is_one_clear_error(
    sessions: SessionDirectory, sealed: SessionDirectory
) -> None:
    sealed.store("main", login())
    with pytest.raises(SessionError, match="is encrypted and TELEGRAM_SESSION_KEY is not set"):
        sessions.load("main")
    with pytest.raises(SessionError, match="TELEGRAM_SESSION_KEY is not the key it was written with"):
        SessionDirectory(sealed.path, SessionCipher(PASSPHRASE.upper())).load("main")


def test_one_accounts_encrypted_file_is_not_taken_for_anothers(sealed: SessionDirectory) -> None:
    sealed.store("main", login())
    shutil.copy(sealed.file("main"), sealed.file("other"))
    with pytest.raises(SessionError, match="another account's than 'other'"):
        sealed.load("other")


@pytest.mark.parametrize("place", [0, 9, 25, 40, 5000, -1])
def test_an_encrypted_file_with_one_byte_changed_or_cut_is_refused(
    sealed: SessionDirectory, place: int
) -> None:
    sealed.store("main", login())
    file = sealed.file("main")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(SessionError, match=str(file)):
        sealed.load("main")
    file.write_bytes(content[: max(place, 0) + 8])
    with pytest.raises(SessionError, match=str(file)):
        sealed.load("main")


def test_two_files_of_one_session_have_nothing_in_common(sealed: SessionDirectory) -> None:
    session = login()
    sealed.store("main", session)
    first = sealed.file("main").read_bytes()
    sealed.store("main", session)
    second = sealed.file("main").read_bytes()
    assert not {first[i : i + 8] for i in range(8, len(first))} & {
        second[i : i + 8] for i in range(8, len(second))
    }


def test_a_short_key_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEGRAM_SESSION_KEY", "hunter2")
    with pytest.raises(ConfigurationError, match=r"TELEGRAM_SESSION_KEY: .*16 characters") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_the_key_comes_from_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELEGRAM_SESSION_KEY", raising=False)
    (tmp_path / "telegram_session_key").write_text(f"{PASSPHRASE}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = load_settings(session_dir=tmp_path / "sessions")
    session = login()
    SessionDirectory.from_settings(settings).store("main", session)
    assert SessionDirectory(tmp_path / "sessions", SessionCipher(PASSPHRASE)).load("main") == session


# -- backups


def test_a_backup_is_private_and_holds_the_session(
    sessions: SessionDirectory, backups: SessionBackups
) -> None:
    session = login()
    sessions.store("main", session)
    backup = backups.make("main")
    assert backups.read(backup) == session
    assert stat.S_IMODE(backup.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(backups.path.stat().st_mode) == 0o700
    assert os.listdir(backups.path) == [backup.file.name]


def test_a_backup_holds_what_is_committed_and_no_more(
    sessions: SessionDirectory, backups: SessionBackups
) -> None:
    """A session file that was put there by hand may be open and have a write-ahead log."""
    session = login()
    sessions.store("main", session)
    file = sessions.file("main")
    program = sqlite3.connect(file, isolation_level=None)
    try:
        program.execute("PRAGMA journal_mode = WAL")
        program.execute("UPDATE sessions SET port = 80")
        program.execute("BEGIN")
        program.execute("UPDATE sessions SET port = 81")
        assert backups.read(backups.make("main")).port == 80
    finally:
        program.close()


def test_a_new_key_is_backed_up_at_once_and_the_same_one_daily(
    sessions: SessionDirectory, backups: SessionBackups
) -> None:
    sessions.store("main", login())
    first = backups.keep("main")
    assert backups.keep("main") == first
    sessions.store("main", login())
    second = backups.keep("main")
    assert second != first
    assert backups.read(second) == sessions.load("main")
    first.file.unlink()
    aged(backups, "main", EVERY - timedelta(minutes=1))
    backups.keep("main")
    assert len(backups.of("main")) == 1
    aged(backups, "main", timedelta(minutes=1))
    backups.keep("main")
    assert len(backups.of("main")) == 2


def test_a_damaged_backup_does_not_count(sessions: SessionDirectory, backups: SessionBackups) -> None:
    session = login()
    sessions.store("main", session)
    good = backups.make("main")
    damaged = backups.make("main")
    damaged.file.write_bytes(damaged.file.read_bytes()[:5000])
    newest = backups.newest("main")
    assert newest == (good, session)
    good.file.write_bytes(b"")
    assert backups.newest("main") is None
    assert backups.read(backups.keep("main")) == session


def test_a_backup_that_the_disk_spoils_does_not_count(
    sessions: SessionDirectory, backups: SessionBackups, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = login()
    sessions.store("main", session)
    good = backups.make("main")
    write = session_file.write

    def write_to_a_bad_disk(file: Path, content: bytes) -> None:
        write(file, content)
        file.write_bytes(content.replace(session.auth_key, bytes(256)))

    monkeypatch.setattr(session_file, "write", write_to_a_bad_disk)
    with pytest.raises(SessionError, match="holds no login"):
        backups.make("main")
    assert os.listdir(backups.path) == [good.file.name]


def test_a_damaged_session_never_replaces_a_good_backup(
    sessions: SessionDirectory, backups: SessionBackups
) -> None:
    session = login()
    sessions.store("main", session)
    backups.make("main")
    sessions.file("main").write_bytes(b"scribble" * 900)
    for attempt in (backups.make, backups.keep):
        with pytest.raises(SessionError, match="not a readable session"):
            attempt("main")
    assert [backups.read(backup) for backup in backups.of("main")] == [session]


def test_old_backups_go_but_never_the_newest(sessions: SessionDirectory, backups: SessionBackups) -> None:
    sessions.store("main", login())
    sessions.store("main-2", login())
    backups.make("main-2")
    other = aged(backups, "main-2", 2 * KEPT)
    backups.make("main")
    old = aged(backups, "main", KEPT + timedelta(hours=1))
    backups.make("main")
    kept = aged(backups, "main", KEPT - timedelta(hours=1))
    newest = backups.make("main").file
    assert {backup.file for backup in backups.of("main")} == {newest, kept}
    assert not old.exists()
    assert other.exists(), "another account's, and its newest"


def test_what_a_crash_left_half_written_is_no_session_and_no_backup(
    sessions: SessionDirectory, backups: SessionBackups
) -> None:
    session = login()
    sessions.store("main", session)
    for directory, name in ((sessions.path, ".main.session.new"), (sessions.path, ".main.new.session")):
        (directory / name).write_bytes(b"half")
    backups.make("main")
    (backups.path / ".main.unproven").write_bytes(b"half")
    (backups.path / "..main.unproven.new").write_bytes(b"half")
    assert sessions.accounts() == ["main"]
    assert len(backups.of("main")) == 1
    sessions.store("main", session)
    backups.make("main")
    assert sessions.load("main") == session


def test_a_backup_directory_that_others_can_enter_is_refused(
    sessions: SessionDirectory, backups: SessionBackups
) -> None:
    sessions.store("main", login())
    backups.path.mkdir(parents=True)
    backups.path.chmod(0o755)
    with pytest.raises(SessionError, match=f"chmod 700 {backups.path}"):
        backups.make("main")


def test_clear_backups_are_encrypted_where_they_lie(
    sessions: SessionDirectory, sealed: SessionDirectory, backups: SessionBackups
) -> None:
    session = login()
    sessions.store("main", session)
    backups.make("main")
    now_sealed = SessionBackups(backups.path, sealed)
    assert now_sealed.seal("main") == 1
    assert now_sealed.seal("main") == 0
    (backup,) = now_sealed.of("main")
    assert session.auth_key not in backup.file.read_bytes()
    assert now_sealed.read(backup) == session


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands files over")
def test_what_root_writes_belongs_to_the_owner_of_the_directory(
    sessions: SessionDirectory, backups: SessionBackups
) -> None:
    for directory in (sessions.path, backups.path.parent):
        directory.mkdir(mode=0o700)
        os.chown(directory, 4321, 4321)
    with sessions.lock("main"):
        sessions.store("main", login())
    backup = backups.make("main")
    for path in (sessions.file("main"), sessions.path / "main.lock", backups.path, backup.file):
        assert (path.stat().st_uid, path.stat().st_gid) == (4321, 4321), path
