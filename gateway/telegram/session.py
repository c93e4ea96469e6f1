"""Session files: one Telethon SQLite file per account, private to the gateway's user, used by one process.

The file holds the authorisation key and the address of its data centre, no more: update state and access
hashes live in the journal, so that a running gateway never keeps the file open. With TELEGRAM_SESSION_KEY
the file is encrypted; a clear one still loads, and is encrypted when it is next written.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from telethon.crypto import AuthKey
from telethon.sessions import MemorySession
from telethon.tl.types import InputPeerChannel

from gateway.errors import SessionError
from gateway.settings import Settings
from gateway.telegram import session_file
from gateway.telegram.session_cipher import MAGIC, SessionCipher, is_sealed
from gateway.telegram.session_file import DIRECTORY_MODE, FILE_MODE, StoredSession

__all__ = ["GatewaySession", "SessionDirectory", "StoredSession"]


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

    Raises SessionError, with what to do, for a missing or damaged file, for one that others can read, and
    for an encrypted one without its key.
    """

    def __init__(self, path: Path, cipher: SessionCipher | None = None) -> None:
        self.path = path
        self._cipher = cipher

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The directory that the settings name, with their key if there is one."""
        key = settings.session_key
        return cls(settings.session_dir, SessionCipher(key.get_secret_value()) if key else None)

    def file(self, account: str) -> Path:
        """The session file of `account`, whether it exists or not."""
        return self.path / f"{account}.session"

    def accounts(self) -> list[str]:
        """The accounts that have a session file."""
        return sorted(file.stem for file in self.path.glob("*.session") if not file.name.startswith("."))

    def create(self) -> None:
        """Makes the directory, private to this user."""
        session_file.create_private(self.path, "session directory")

    def load(self, account: str) -> StoredSession:
        """Reads an account's session, its integrity checked."""
        return session_file.parse(self.image(account), self.file(account), advice(account))

    def image(self, account: str) -> bytes:
        """An account's session as the clear SQLite database, by SQLite's backup API."""
        file = self.file(account)
        try:
            session_file.check_private(self.path, DIRECTORY_MODE)
            session_file.check_private(file, FILE_MODE)
            return self.open(file, account)
        except FileNotFoundError:
            raise SessionError(
                f"account {account!r} has no session file {file}; "
                f"log in with: telegram-gateway login --account {account}"
            ) from None
        except PermissionError as error:
            raise SessionError(f"cannot read {error.filename}; run as the user that owns it") from None

    def store(self, account: str, session: StoredSession) -> None:
        """Writes an account's session, replacing an older one atomically."""
        self.create()
        session_file.write(self.file(account), self.seal(session_file.build(session), account))

    def open(self, file: Path, account: str) -> bytes:
        """The clear SQLite database in a session file or backup of `account`, wherever that is."""
        with file.open("rb") as opened:
            if is_sealed(opened.read(len(MAGIC))):
                opened.seek(0)
                return self.unseal(opened.read(), account, file)
        try:
            return session_file.snapshot(file)
        except sqlite3.Error as error:
            raise SessionError(
                f"{file} is not a readable session file ({error}); {advice(account)}"
            ) from None

    def seal(self, image: bytes, account: str) -> bytes:
        """What is written to disk for a clear database: itself, or encrypted where there is a key."""
        return self._cipher.seal(image, account) if self._cipher else image

    def unseal(self, sealed: bytes, account: str, name: object) -> bytes:
        """The clear database in an encrypted file's content."""
        if self._cipher is None:
            raise SessionError(
                f"{name} is encrypted and TELEGRAM_SESSION_KEY is not set; "
                "give the key it was written with (systemd credential session_key)"
            )
        return self._cipher.open(sealed, account, name)

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
            session_file.give_to_owner_of(self.path, descriptor)
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


def advice(account: str) -> str:
    """What to do about a session file that is no good."""
    return (
        f"log in again or restore a backup: telegram-gateway login --account {account}, "
        f"or telegram-gateway session restore --account {account}"
    )


def is_encrypted(file: Path) -> bool:
    """Whether a session file is encrypted."""
    with file.open("rb") as opened:
        return is_sealed(opened.read(len(MAGIC)))
