"""One session file as bytes: a Telethon SQLite database, read as committed, checked, written atomically.

Below SessionDirectory and its backups; knows nothing of accounts, locks or encryption.
"""

import os
import sqlite3
import stat
from dataclasses import dataclass
from pathlib import Path

from telethon.crypto import AuthKey
from telethon.sessions import SQLiteSession

from gateway.errors import SessionError

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
KEY_BYTES = 256
DATA_CENTRES = range(1, 6)
BUSY_SECONDS = 5.0
_VERSION_BYTES = slice(18, 20)  # of SQLite's header: 1 rollback journal, 2 write-ahead log


@dataclass(frozen=True)
class StoredSession:
    """What a session file holds: the data centre, its address and the 256-byte authorisation key."""

    dc_id: int
    server_address: str
    port: int
    auth_key: bytes


def build(session: StoredSession) -> bytes:
    """The database that Telethon would write, made in memory: a clear key touches no disk on the way."""
    database = SQLiteSession()
    try:
        database.set_dc(session.dc_id, session.server_address, session.port)
        database.auth_key = AuthKey(session.auth_key)
        database.save()
        return bytes(database._conn.serialize())  # Telethon has no public way to its connection
    finally:
        database.close()


def snapshot(file: Path) -> bytes:
    """The database as it is committed now, by SQLite's backup API: another process may have it open.

    Raises sqlite3.Error, OperationalError when it cannot be opened without writing beside it.
    """
    return _backed_up(f"{file.resolve().as_uri()}?mode=ro")


def recovered(file: Path) -> bytes:
    """As `snapshot`, of a private copy that nobody else has open: what a crash left behind is played in."""
    return _backed_up(f"{file.resolve().as_uri()}?mode=rw")


def has_write_ahead_log(content: bytes) -> bool:
    """Whether what was committed last may be in a file beside this one."""
    return 2 in content[_VERSION_BYTES]


def parse(image: bytes, name: object, advice: str) -> StoredSession:
    """Checks the whole database and reads the login from it.

    Raises SessionError, with `name` and `advice`, when it is damaged, not Telethon's, or holds no login.
    """
    if not image:
        raise SessionError(f"{name} is empty; {advice}")
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(image)
        problems = [str(row[0]) for row in database.execute("PRAGMA integrity_check(3)")]
        if problems != ["ok"]:
            raise SessionError(f"{name} is damaged ({problems[0].splitlines()[-1]}); {advice}")
        columns = {row[1] for row in database.execute("PRAGMA table_info(sessions)")}
        if "test_mode" in columns:
            raise SessionError(f"{name} is a Pyrogram session, not one of Telethon; log in instead")
        rows = database.execute("SELECT dc_id, server_address, port, auth_key FROM sessions").fetchall()
    except sqlite3.Error as error:
        raise SessionError(f"{name} is not a readable session file ({error}); {advice}") from None
    finally:
        database.close()
    logins = [row for row in rows if row[3] and any(bytes(row[3]))]
    if not logins:
        raise SessionError(f"{name} holds no login; {advice}")
    dc_id, address, port, key = logins[0]
    return checked(StoredSession(int(dc_id), str(address or ""), int(port or 0), bytes(key)), name, advice)


def checked(session: StoredSession, name: object, advice: str) -> StoredSession:
    """`session` itself. Raises SessionError when it cannot be a login."""
    wrong = None
    if len(session.auth_key) != KEY_BYTES or not any(session.auth_key):
        wrong = f"a key of {len(session.auth_key)} bytes instead of {KEY_BYTES}"
    elif session.dc_id not in DATA_CENTRES:
        wrong = f"data centre {session.dc_id}, which does not exist"
    elif not session.server_address or not 0 < session.port < 65536:
        wrong = "no server address"
    if wrong:
        raise SessionError(f"{name} holds {wrong}; {advice}")
    return session


def write(file: Path, content: bytes) -> None:
    """Replaces `file` atomically and durably, private to the owner of its directory.

    Root thus leaves files that the gateway's user can read.
    """
    scratch = file.with_name(f".{file.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as target:
        give_to_owner_of(file.parent, descriptor)
        target.write(content)
        target.flush()
        os.fsync(descriptor)
    scratch.replace(file)
    sync_directory(file.parent)


def sync_directory(path: Path) -> None:
    """Makes what happened to the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_to_owner_of(directory: Path, descriptor: int) -> None:
    """Hands what root made in a directory to the directory's owner."""
    owner = directory.stat()
    if os.geteuid() == 0 != owner.st_uid:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def create_private(path: Path, what: str) -> None:
    """Makes a directory that only this user can enter. Raises SessionError when that cannot be."""
    try:
        if not path.is_dir():
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            owner = path.parent.stat()
            if os.geteuid() == 0 != owner.st_uid:
                os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise SessionError(
            f"cannot create the {what} {path} ({error.strerror}); "
            "create it for the gateway's user with mode 0700"
        ) from error
    check_private(path, DIRECTORY_MODE)


def check_private(path: Path, wanted: int) -> None:
    """Raises SessionError when others than the owner can read or enter `path`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SessionError(
            f"{path} can be read by others (mode {mode:04o}); whoever reads it owns the account. "
            f"Run: chmod {wanted:o} {path}"
        )


def _backed_up(uri: str) -> bytes:
    source = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    target = sqlite3.connect(":memory:")
    try:
        # The read lock first: the backup itself would wait for a locked database for ever.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(target)
        image = bytearray(target.serialize() or b"")
    finally:
        target.close()
        source.close()
    if image:
        image[_VERSION_BYTES] = b"\x01\x01"  # the write-ahead log is played in: from here on it is one file
    return bytes(image)
