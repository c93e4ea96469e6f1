"""The session files' part of a backup: read by SQLite's backup API, encrypted where there is a key."""

from pathlib import Path

from gateway.backup.manifest import SessionPart
from gateway.errors import RestoreRefused, SessionError
from gateway.telegram import session_file
from gateway.telegram.session import SessionDirectory, advice
from gateway.telegram.session_backup import SessionBackups
from gateway.telegram.session_file import StoredSession
from gateway.telegram.session_import import take_in

DIRECTORY = "sessions"


def save_sessions(sessions: SessionDirectory, directory: Path) -> tuple[SessionPart, ...]:
    """Copies every account's session below `directory`. Raises SessionError or OSError."""
    (directory / DIRECTORY).mkdir(mode=session_file.DIRECTORY_MODE)
    parts = []
    for account in sessions.accounts():
        part = SessionPart(account, f"{DIRECTORY}/{account}.session")
        image = sessions.image(account)
        session_file.parse(image, sessions.file(account), advice(account))
        session_file.write(directory / part.file, sessions.seal(image, account))
        parts.append(part)
    return tuple(parts)


def read_session(sessions: SessionDirectory, directory: Path, part: SessionPart) -> StoredSession:
    """What a backup holds. Raises SessionError when it is damaged or cannot be decrypted."""
    file = directory / part.file
    try:
        return session_file.parse(sessions.open(file, part.account), file, "use another backup")
    except OSError as error:
        raise SessionError(f"cannot read the backup {file} ({error.strerror})") from None


def check_replaceable(
    sessions: SessionDirectory, account: str, session: StoredSession, replace: bool
) -> None:
    """Raises RestoreRefused when the account has another session here and `replace` is not given."""
    if replace or not sessions.file(account).exists():
        return
    try:
        same = sessions.load(account).auth_key == session.auth_key
    except SessionError as error:
        raise RestoreRefused(f"{error}. To put the backup in its place: --replace") from None
    if not same:
        raise RestoreRefused(
            f"account {account!r} has another session, {sessions.file(account)}; "
            "to put the backup in its place: --replace"
        )


def put_back_session(
    sessions: SessionDirectory, backups: SessionBackups, account: str, session: StoredSession
) -> None:
    """Writes an account's session; another one that was there is kept among the session backups."""
    take_in(account, session, sessions, backups, force=True)
