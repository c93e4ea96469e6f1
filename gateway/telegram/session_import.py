"""Sessions from elsewhere: a Telethon file out of a container's volume, or a session string; and back out.

What is brought in is written anew by SessionDirectory: its schema, write-ahead log and mode stay behind.
"""

import binascii
import re
import shutil
import sqlite3
import struct
import tempfile
from pathlib import Path

from telethon.crypto import AuthKey
from telethon.sessions import StringSession

from gateway.errors import SessionError
from gateway.telegram import session_file
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_backup import SessionBackups
from gateway.telegram.session_cipher import is_sealed
from gateway.telegram.session_file import StoredSession

SQLITE_MAGIC = b"SQLite format 3\0"
LARGEST_BYTES = 1 << 30  # Telethon's entity cache can make a session file large, but not this large
_ADVICE = "give a Telethon session file (SQLite) or a Telethon session string"
_STRING = re.compile(r"1[A-Za-z0-9_-]{100,400}=*")
_PYROGRAM_STRING = re.compile(r"[A-Za-z0-9_-]{350,370}=*")


def read_file(file: Path, account: str, sessions: SessionDirectory) -> StoredSession:
    """The login in a file: Telethon's database, a session string, or an encrypted file of this gateway.

    The file may be open elsewhere, hold a write-ahead log, and lie where nothing can be written. It is not
    changed. Raises SessionError, which never quotes the content.
    """
    if len(file.name) > 255 or _STRING.fullmatch(str(file)):
        raise SessionError(
            "a session string on the command line can be read by every user of this host; "
            "give it on standard input (--from -) or in a file"
        )
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise SessionError(f"{file} is too large for a session file; {_ADVICE}")
        content = file.read_bytes()
        if not content.startswith(SQLITE_MAGIC):
            return read_bytes(content, account, sessions, str(file))
        return session_file.parse(_database(file), file, _ADVICE)
    except FileNotFoundError:
        raise SessionError(f"{file} does not exist; {_ADVICE}") from None
    except IsADirectoryError:
        raise SessionError(f"{file} is a directory; {_ADVICE}") from None
    except PermissionError as error:
        raise SessionError(f"cannot read {error.filename}; run as a user who can, or as root") from None


def read_bytes(content: bytes, account: str, sessions: SessionDirectory, name: str) -> StoredSession:
    """The login in what was read from a pipe or typed; `name` is what errors call it."""
    if content.startswith(SQLITE_MAGIC):
        if session_file.has_write_ahead_log(content):
            raise SessionError(f"{name} may lack what is in its -wal file; give the file itself: --from FILE")
        return session_file.parse(content, name, _ADVICE)
    if is_sealed(content):
        return session_file.parse(sessions.unseal(content, account, name), name, _ADVICE)
    text = content.decode("ascii", errors="replace").strip()
    if not text:
        raise SessionError(f"{name} is empty; {_ADVICE}")
    if _STRING.fullmatch(text):
        try:
            session = StringSession(text)
        except (ValueError, struct.error, binascii.Error):
            raise SessionError(f"{name} is a damaged session string; copy it again, whole") from None
        if session.auth_key is None:
            raise SessionError(f"{name} holds no login; {_ADVICE}")
        stored = StoredSession(session.dc_id, session.server_address, session.port, session.auth_key.key)
        return session_file.checked(stored, name, _ADVICE)
    if _PYROGRAM_STRING.fullmatch(text):
        raise SessionError(f"{name} is a Pyrogram session string or a damaged one of Telethon; {_ADVICE}")
    raise SessionError(f"{name} is no session; {_ADVICE}")


def take_in(
    account: str, session: StoredSession, sessions: SessionDirectory, backups: SessionBackups, *, force: bool
) -> None:
    """Writes an imported or restored session. Another one stays, or with `force` is backed up and replaced.

    Raises SessionError when the account is in use or has another session.
    """
    with sessions.lock(account):
        file = sessions.file(account)
        if file.exists():
            try:
                held = sessions.load(account)
            except SessionError as error:
                if not force:
                    raise SessionError(f"{error}. To replace it: --force") from None
            else:
                if held.auth_key != session.auth_key:
                    if not force:
                        raise SessionError(
                            f"account {account!r} already has another session, {file}; to replace it: --force"
                        )
                    backups.keep(account)
        sessions.store(account, session)


def as_string(session: StoredSession, account: str) -> str:
    """The session as Telethon's session string."""
    string = StringSession()
    string.set_dc(session.dc_id, session.server_address, session.port)
    string.auth_key = AuthKey(session.auth_key)
    try:
        return str(string.save())
    except ValueError:
        raise SessionError(
            f"account {account!r} logged in to a server by name; a session string holds an address only. "
            "Export it as a file: --to FILE"
        ) from None


def _database(file: Path) -> bytes:
    """The database in `file`, also when it cannot be opened where it lies."""
    try:
        return session_file.snapshot(file)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise SessionError(f"{file} is being written to; stop the program that uses it first") from None
    except sqlite3.DatabaseError as error:
        raise SessionError(f"{file} is not a readable session file ({error}); {_ADVICE}") from None
    # Opening it had to write beside it: a crash left a journal, or the volume is read-only.
    with tempfile.TemporaryDirectory(prefix="telegram-gateway-") as private:
        copy = Path(private) / "copy.session"
        for suffix in ("", "-wal", "-journal"):
            beside = file.with_name(file.name + suffix)
            if beside.exists():
                shutil.copyfile(beside, f"{copy}{suffix}")
        try:
            return session_file.recovered(copy)
        except sqlite3.Error as error:
            raise SessionError(f"{file} is not a readable session file ({error}); {_ADVICE}") from None
