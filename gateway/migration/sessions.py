"""The old stack's session: out of a container's volume into our directory, and back if it changed here.

What is in the volume stays there; nothing connects with the session on the way.
"""

import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from telethon.tl.types.updates import State as UpdateState

from gateway.errors import SessionError
from gateway.settings import Settings
from gateway.telegram import session_file
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_backup import SessionBackups
from gateway.telegram.session_file import StoredSession
from gateway.telegram.session_import import read_file, take_in

_DOCKER_VOLUMES = Path("/var/lib/docker/volumes")
_SELF = "SELECT hash FROM entities WHERE id = 0"  # Telethon keeps its own user's id there
_STATES = "SELECT id, pts, qts, date, seq FROM update_state"


@dataclass(frozen=True)
class OldSession:
    """A session file of the old stack: the login, whose it is, and where its updates had got to, if it
    knew."""

    file: Path
    login: StoredSession
    user_id: int | None
    states: dict[int, UpdateState]


def find_session(volume: str, account: str) -> Path:
    """The session file in a directory or a docker volume, or `volume` itself when it is one.

    Raises SessionError when there is none, or more than one and none is named as the account.
    """
    place = Path(volume)
    if "/" not in volume and not place.exists():
        place = _mount_point(volume)
    if place.is_file():
        return place
    if not place.is_dir():
        raise SessionError(
            f"{place} is neither a session file nor a directory; give the volume's with --volume"
        )
    files = sorted(file for file in place.rglob("*.session") if not file.name.startswith("."))
    named = [file for file in files if file.stem == account]
    if len(files) == 1 or len(named) == 1:
        return (named or files)[0]
    if not files:
        raise SessionError(f"there is no *.session file in {place}; give the file itself with --volume")
    raise SessionError(
        f"{place} has several session files ({', '.join(file.name for file in files)}): "
        "give the one to take with --volume"
    )


def read_old_session(volume: str, account: str, settings: Settings) -> OldSession:
    """Reads it, also while the old stack has it open. Raises SessionError."""
    file = find_session(volume, account)
    login = read_file(file, account, SessionDirectory.from_settings(settings))
    user_id, states = _telethons_own(file)
    return OldSession(file, login, user_id, states)


def bring_in(old: OldSession, account: str, settings: Settings) -> bool:
    """Makes it the account's session; returns whether it was not yet. Another one that is there is
    backed up."""
    sessions, backups = _ours(settings)
    if _held(sessions, account) == old.login:
        return False
    take_in(account, old.login, sessions, backups, force=True)
    backups.keep(account)
    return True


def hand_back(volume: str, account: str, settings: Settings) -> Path | None:
    """Gives the volume our session if its key is another one by now; what lay there stays beside it.

    Returns the file that was replaced, None when there was nothing to do. Raises SessionError.
    """
    sessions, _ = _ours(settings)
    ours = _held(sessions, account)
    file = find_session(volume, account)
    if ours is None or read_file(file, account, sessions).auth_key == ours.auth_key:
        return None
    kept = file.with_name(f"{file.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    for suffix in ("", "-wal", "-shm", "-journal"):
        beside = file.with_name(file.name + suffix)
        if beside.exists():
            shutil.copy2(beside, kept.with_name(kept.name + suffix))
    owner = file.stat()
    session_file.write(file, session_file.build(ours))
    shutil.chown(file, owner.st_uid, owner.st_gid)
    for suffix in ("-wal", "-shm", "-journal"):
        # They belong to the file that was; its copy has them.
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    return kept


def _ours(settings: Settings) -> tuple[SessionDirectory, SessionBackups]:
    sessions = SessionDirectory.from_settings(settings)
    return sessions, SessionBackups(settings.session_backups, sessions)


def _held(sessions: SessionDirectory, account: str) -> StoredSession | None:
    return sessions.load(account) if sessions.file(account).exists() else None


def _mount_point(volume: str) -> Path:
    if docker := shutil.which("docker"):
        asked = subprocess.run(  # noqa: S603
            [docker, "volume", "inspect", "--format", "{{ .Mountpoint }}", volume],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip():
            return Path(asked.stdout.strip())
    return _DOCKER_VOLUMES / volume / "_data"


def _telethons_own(file: Path) -> tuple[int | None, dict[int, UpdateState]]:
    """Whose session it is and its update states; a session string, or a file of another program, has
    neither."""
    try:
        image = session_file.snapshot(file)
        database = sqlite3.connect(":memory:")
        try:
            database.deserialize(image)
            myself = database.execute(_SELF).fetchone()
            states = database.execute(_STATES).fetchall()
        finally:
            database.close()
    except sqlite3.Error:
        return None, {}
    return (
        int(myself[0]) if myself and myself[0] else None,
        {
            int(channel): UpdateState(
                pts, qts or 0, datetime.fromtimestamp(date, UTC), seq or 0, unread_count=0
            )
            for channel, pts, qts, date, seq in states
            if pts
        },
    )
