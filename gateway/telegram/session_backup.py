"""Backups of the session files: one after each change of key and one a day, each read back before it counts.

A login cannot be made again without the phone at hand; its backup costs 28 KB. The daemon keeps them up to
date beside everything else, and none of their failures stops it.
"""

import asyncio
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from gateway import metrics
from gateway.errors import SessionError
from gateway.telegram import session_file
from gateway.telegram.session import SessionDirectory, advice
from gateway.telegram.session_cipher import is_sealed
from gateway.telegram.session_file import StoredSession

log = structlog.get_logger()

EVERY = timedelta(days=1)
KEPT = timedelta(days=30)  # and the newest, however old
LOOK_SECONDS = 3600.0
_TIME = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class Backup:
    """One backup of an account's session file."""

    account: str
    file: Path
    made_at: datetime


class SessionBackups:
    """The directory of backups: ACCOUNT-TIME.session, private, encrypted where the session files are."""

    def __init__(self, path: Path, sessions: SessionDirectory) -> None:
        self.path = path
        self._sessions = sessions

    def of(self, account: str) -> list[Backup]:
        """All of an account's backups, the newest first."""
        return sorted(self._found(account), key=lambda backup: backup.made_at, reverse=True)

    def read(self, backup: Backup) -> StoredSession:
        """What a backup holds. Raises SessionError when it is damaged or cannot be decrypted."""
        try:
            image = self._sessions.open(backup.file, backup.account)
            return session_file.parse(image, backup.file, advice(backup.account))
        except OSError as error:
            raise SessionError(f"cannot read the backup {backup.file} ({error.strerror})") from None

    def newest(self, account: str) -> tuple[Backup, StoredSession] | None:
        """The newest backup that is whole, with what it holds."""
        for backup in self.of(account):
            try:
                return backup, self.read(backup)
            except SessionError as error:
                log.warning("session_backup_unusable", account=account, reason=str(error))
        return None

    def make(self, account: str) -> Backup:
        """Backs an account's session up now, and removes what is older than 30 days.

        Raises SessionError when the session or the backup is not whole, or the directory cannot be written.
        """
        session_file.create_private(self.path, "session backup directory")
        image = self._sessions.image(account)
        session = session_file.parse(image, self._sessions.file(account), advice(account))
        now = datetime.now(UTC)
        backup = Backup(account, self.path / f"{account}-{now.strftime(_TIME)}.session", now)
        # The name is what makes it count, so it is read back under another one.
        unproven = Backup(account, self.path / f".{account}.unproven", now)
        try:
            session_file.write(unproven.file, self._sessions.seal(image, account))
            if self.read(unproven) != session:
                raise SessionError(f"the backup {backup.file} does not hold what was written; check the disk")
            unproven.file.rename(backup.file)
            session_file.sync_directory(self.path)
        except OSError as error:
            raise SessionError(f"cannot write the backup {backup.file} ({error.strerror})") from None
        finally:
            unproven.file.unlink(missing_ok=True)
        for old in self.of(account):
            if now - old.made_at > KEPT:
                old.file.unlink(missing_ok=True)
        return backup

    def keep(self, account: str) -> Backup:
        """The newest good backup, made now if that one is a day old or holds another key."""
        session = self._sessions.load(account)
        newest = self.newest(account)
        if newest is not None:
            backup, held = newest
            if held == session and timedelta(0) <= datetime.now(UTC) - backup.made_at < EVERY:
                return backup
        return self.make(account)

    def seal(self, account: str) -> int:
        """Encrypts the account's clear backups where they lie; returns how many there were."""
        clear = [backup for backup in self.of(account) if not is_sealed(backup.file.read_bytes())]
        for backup in clear:
            image = self._sessions.open(backup.file, account)
            session_file.write(backup.file, self._sessions.seal(image, account))
        return len(clear)

    def _found(self, account: str) -> Iterator[Backup]:
        name = re.compile(re.escape(account) + r"-(\d{8}T\d{6}\.\d{6}Z)\.session")
        try:
            files = os.listdir(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SessionError(f"cannot read the backups in {self.path} ({error.strerror})") from None
        for file in files:
            if match := name.fullmatch(file):
                made_at = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
                yield Backup(account, self.path / file, made_at)


async def keep_backed_up(backups: SessionBackups, account: str, ready: asyncio.Event) -> None:
    """Backs one account up once it is known to work, and daily from then on; runs until cancelled."""
    gauge = metrics.SESSION_BACKUP.labels(account)  # an alert needs a 0 to look at until there is one
    await ready.wait()
    while True:
        try:
            backup = await asyncio.to_thread(backups.keep, account)
        except SessionError as error:
            log.error("session_backup_failed", account=account, reason=str(error))  # noqa: TRY400
        else:
            gauge.set(backup.made_at.timestamp())
        await asyncio.sleep(LOOK_SECONDS)
