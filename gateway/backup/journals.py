"""The journals' part of a backup: copied while the daemon writes, checked whole, put back in place.

The journal is always copied before the database is dumped. So a restored database has everything that the
restored journal believes it has, and what is newer in it is only delivered once more.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import apsw

from gateway.backup.manifest import JournalPart
from gateway.errors import BackupFailed, BackupUnusable, RestoreRefused
from gateway.journal.moments import moment as moment_of
from gateway.journal.schema import (
    SCHEMA_VERSION,
    connect,
    create_file,
    io_failure,
    lock,
    read_bounds,
    read_cursors,
)
from gateway.journal.store import Store
from gateway.telegram import session_file

FILE = "journal.db"
DIRECTORY = "journal"
DATABASE_SINK = "timescaledb"
_SIDE_FILES = ("", "-wal", "-shm")
_VERSION = "SELECT value FROM meta WHERE key = 'schema_version'"
_RECEIVED = "SELECT received_at FROM events WHERE seq >= ? ORDER BY seq LIMIT 1"


def journals(state_dir: Path) -> list[str]:
    """Names of the journals in a state directory: its own, and those of `telegram-gateway@` instances."""
    found = [*state_dir.glob(FILE), *sorted(state_dir.glob(f"*/{FILE}"))]
    return [str(path.relative_to(state_dir)) for path in found]


def save_journal(state_dir: Path, name: str, directory: Path, now: datetime) -> JournalPart:
    """Copies one journal as it is committed now, whoever writes to it. Raises BackupFailed."""
    file = f"{DIRECTORY}/{name}"
    target = directory / file
    try:
        target.parent.mkdir(mode=session_file.DIRECTORY_MODE, parents=True)
        create_file(target)
        source = connect(state_dir / name, apsw.SQLITE_OPEN_READONLY)
        copy = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            with copy.backup("main", source, "main") as backup:
                backup.step(-1)  # in one step it is one moment of the journal
            copy.pragma("journal_mode", "delete")  # from here on it is one file
            return _describe(copy, name, file, now)
        finally:
            copy.close()
            source.close()
    except apsw.FullError:
        raise BackupFailed(f"no space left for the backup of the journal in {directory.parent}") from None
    except apsw.Error as error:
        raise BackupFailed(f"cannot back up the journal {state_dir / name}: {error}") from error


def check_journal(directory: Path, part: JournalPart) -> None:
    """Raises BackupUnusable unless the copy is a whole journal that holds what the manifest says."""
    file = directory / part.file
    if part.schema_version > SCHEMA_VERSION:
        raise BackupUnusable(
            f"{file} has journal schema version {part.schema_version} and this program knows version "
            f"{SCHEMA_VERSION}; use the version of telegram-gateway that made the backup"
        )
    try:
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            problem = connection.execute("PRAGMA integrity_check(1)").get
            same = problem == "ok" and _describe(connection, part.name, part.file, part.stored_until) == part
        finally:
            connection.close()
    except apsw.Error as error:
        raise BackupUnusable(f"{file} is not a readable journal ({error}); use another backup") from None
    if problem != "ok":
        raise BackupUnusable(f"{file} is damaged ({problem}); use another backup")
    if not same:
        raise BackupUnusable(f"{file} does not hold what the manifest says; use another backup")


@contextmanager
def stopped(state_dir: Path, names: set[str]) -> Iterator[None]:
    """Keeps the daemon from starting. Raises RestoreRefused while it runs."""
    with ExitStack() as locks:
        for name in sorted(names):
            path = state_dir / name
            session_file.create_private(path.parent, "state directory")
            try:
                locks.callback(os.close, lock(path))
            except OSError as error:
                raise io_failure(path, error) from error
        yield


def check_absent(state_dir: Path, part: JournalPart, replace: bool) -> None:
    """Raises RestoreRefused when there is a journal and `replace` is not given."""
    path = state_dir / part.name
    if path.exists() and not replace:
        raise RestoreRefused(
            f"there is a journal at {path}; to put the backup in its place, and keep it beside: --replace"
        )


def put_back_journal(directory: Path, part: JournalPart, state_dir: Path, now: datetime) -> Path | None:
    """Puts the copy in place; returns where the journal is that was there. The daemon must be stopped."""
    path = state_dir / part.name
    kept = path.with_name(f"{path.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
    scratch = path.with_name(f".{path.name}.restored")
    try:
        scratch.unlink(missing_ok=True)
        create_file(scratch)
        with (directory / part.file).open("rb") as source, scratch.open("r+b") as target:
            session_file.give_to_owner_of(path.parent, target.fileno())
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        there = path.exists()
        # A write-ahead log that stayed would be played into the restored file.
        for suffix in _SIDE_FILES:
            side = path.with_name(path.name + suffix)
            if side.exists():
                side.rename(kept.with_name(kept.name + suffix))
        scratch.rename(path)
        session_file.sync_directory(path.parent)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise BackupFailed(
            f"cannot put the journal back at {path} ({error.strerror}); put that right and run it again"
        ) from error
    return kept if there else None


def require_reach(state_dir: Path, name: str, stored_until: datetime) -> None:
    """Raises RestoreRefused unless the journal holds all that a database of that moment may lack."""
    path = state_dir / name
    try:
        connection = connect(path, apsw.SQLITE_OPEN_READONLY)
        try:
            first, _ = read_bounds(connection)
            oldest = connection.execute(_RECEIVED, (first,)).get
        finally:
            connection.close()
    except apsw.Error as error:
        raise io_failure(path, error) from error
    if first > 1 and (oldest is None or moment_of(oldest) > stored_until):
        raise RestoreRefused(
            f"the journal {path} no longer holds what came right after the backup: messages would be missing "
            "from the restored database. Restore the journal too (--database --journal --replace): then "
            "Telegram is asked for everything since the backup"
        )


def deliver_again(state_dir: Path, name: str) -> None:
    """Has the database sink begin at the journal's oldest event. The daemon must be stopped."""
    path = state_dir / name
    try:
        store = Store(path)
        try:
            store.begin()
            store.set_cursors({DATABASE_SINK: store.first_seq - 1})
            store.commit()
        finally:
            store.close()
    except apsw.Error as error:
        raise io_failure(path, error) from error


def _describe(connection: apsw.Connection, name: str, file: str, now: datetime) -> JournalPart:
    first, head = read_bounds(connection)
    cursors = read_cursors(connection)
    undelivered = connection.execute(_RECEIVED, (cursors.get(DATABASE_SINK, 0) + 1,)).get
    return JournalPart(
        name=name,
        file=file,
        schema_version=connection.execute(_VERSION).get,
        first=first,
        head=head,
        cursors=cursors,
        stored_until=now if undelivered is None else min(now, moment_of(undelivered)),
    )
