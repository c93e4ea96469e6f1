"""Session files: one Telethon SQLite file per account, private to the gateway's user, used by one process.

The file holds the authorisation key and the address of its data centre, no more: update state and access
hashes live in the journal, so that a running gateway never keeps the file open.
"""

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telethon.crypto import AuthKey
from telethon.sessions import MemorySession, SQLiteSession
from telethon.tl.types import InputPeerChannel

from gateway.errors import SessionError

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


@dataclass(frozen=True)
class StoredSession:
    """What a session file holds: the data centre, its address and the 256-byte authorisation key."""

    dc_id: int
    server_address: str
    port: int
    auth_key: bytes


class GatewaySession(MemorySession):  # type: ignore[misc]  # untyped base
    """The session object given to Telethon: in memory, with nothing of Telethon's own bookkeeping.

    Telethon's SQLite session keeps a write transaction open for up to a minute and saves update state that
    may be ahead of what was handled. Here `states` and `access_hashes` (by unmarked
    channel id) come from the journal and nothing is written back.
    """

    def __init__(
        self,
        stored: StoredSession | None = None,
        states: dict[int, Any] | None = None,
        access_hashes: dict[int, int] | None = None,
    ) -> None:
        super().__init__()
        self._states = states or {}
        self._access_hashes = access_hashes or {}
        if stored is not None:
            self.set_dc(stored.dc_id, stored.server_address, stored.port)
            self.auth_key = AuthKey(stored.auth_key)

    def stored(self) -> StoredSession:
        """What must be written to the file after a login."""
        return StoredSession(self.dc_id, self.server_address, self.port, self.auth_key.key)

    def get_update_states(self) -> list[tuple[int, Any]]:
        return list(self._states.items())

    def set_update_state(self, entity_id: int, state: Any) -> None:
        """Ignored: only the journal stores update state, together with its events."""

    def get_input_entity(self, key: Any) -> InputPeerChannel:
        """Only channels by their unmarked id, which is what Telethon asks for at start.

        Raises ValueError for anything else, as Telethon expects of a session that does not know.
        """
        if isinstance(key, int) and key in self._access_hashes:
            return InputPeerChannel(key, self._access_hashes[key])
        raise ValueError("not kept in the session")

    def process_entities(self, tlo: Any) -> None:
        """Ignored: Telethon would parse every answer for entities; the client keeps what it needs itself."""


class SessionDirectory:
    """The directory of session files.

    Raises SessionError, with what to do, for a missing or damaged file and for one that others can read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, account: str) -> Path:
        """The session file of `account`, whether it exists or not."""
        return self.path / f"{account}.session"

    def accounts(self) -> list[str]:
        """The accounts that have a session file."""
        return sorted(file.stem for file in self.path.glob("*.session"))

    def create(self) -> None:
        """Makes the directory, private to this user."""
        try:
            self.path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise SessionError(
                f"cannot create the session directory {self.path} ({error.strerror}); "
                "create it for the gateway's user with mode 0700"
            ) from error
        self._check_private(self.path, DIRECTORY_MODE)

    def load(self, account: str) -> StoredSession:
        """Reads an account's session."""
        file = self.file(account)
        try:
            self._check_private(self.path, DIRECTORY_MODE)
            self._check_private(file, FILE_MODE)
        except FileNotFoundError:
            raise SessionError(
                f"account {account!r} has no session file {file}; "
                f"log in with: telegram-gateway login --account {account}"
            ) from None
        except PermissionError as error:
            raise SessionError(f"cannot read {error.filename}; run as the user that owns it") from None
        return read_session_file(file)

    def store(self, account: str, session: StoredSession) -> None:
        """Writes an account's session, replacing an older one atomically."""
        self.create()
        scratch = self.path / f".{account}.new.session"
        scratch.unlink(missing_ok=True)
        os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
        database = SQLiteSession(str(scratch))
        try:
            database.set_dc(session.dc_id, session.server_address, session.port)
            database.auth_key = AuthKey(session.auth_key)
            database.save()
        finally:
            database.close()
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        scratch.replace(self.file(account))
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def lock(self, account: str) -> Iterator[None]:
        """Holds the account's session for this process; a second process gets SessionError at once.

        Telegram kills a key that is used from two connections' worth of addresses (AUTH_KEY_DUPLICATED).
        The lock goes with the process, so a crash leaves none behind.
        """
        self.create()
        path = self.path / f"{account}.lock"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise SessionError(
                    f"session {account!r} is in use by process {holder}; "
                    "stop that gateway first (two users of one session would end it for good)"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _check_private(path: Path, wanted: int) -> None:
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise SessionError(
                f"{path} can be read by others (mode {mode:04o}); whoever reads it owns the account. "
                f"Run: chmod {wanted:o} {path}"
            )


def read_session_file(file: Path) -> StoredSession:
    """Reads a Telethon SQLite session file without changing it.

    Raises SessionError when it is not one, or holds no login.
    """
    try:
        database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        try:
            row = database.execute("SELECT dc_id, server_address, port, auth_key FROM sessions").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        raise SessionError(
            f"{file} is not a readable session file ({error}); log in again or restore a backup"
        ) from None
    if row is None or not row[3]:
        raise SessionError(
            f"{file} holds no login; log in with: telegram-gateway login --account {file.stem}"
        )
    return StoredSession(int(row[0]), str(row[1]), int(row[2]), bytes(row[3]))
