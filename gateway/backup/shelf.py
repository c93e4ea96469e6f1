"""The directory of backups: one directory each, named by its moment once it is proved; which to keep."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.backup.manifest import Manifest, read_manifest
from gateway.errors import BackupFailed, BackupUnusable
from gateway.telegram import session_file

_TIME = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"\d{8}T\d{6}Z")
_UNFINISHED = ".unfinished-"
LATEST = "latest"


@dataclass(frozen=True)
class Backup:
    """One proved backup. `manifest` is None when it cannot be read any more, for the reason in `problem`."""

    path: Path
    moment: datetime
    manifest: Manifest | None
    problem: str = ""


class Shelf:
    """Only one process at a time puts something on it; a backup counts from the moment it has its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def backups(self) -> list[Backup]:
        """All of them, the newest first. Raises BackupFailed when the directory cannot be read."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BackupFailed(f"cannot read TELEGRAM_BACKUP_DIR {self.path} ({error.strerror})") from None
        found = []
        for name in sorted(filter(_NAME.fullmatch, names), reverse=True):
            moment = datetime.strptime(name, _TIME).replace(tzinfo=UTC)
            try:
                found.append(Backup(self.path / name, moment, read_manifest(self.path / name)))
            except BackupUnusable as error:
                found.append(Backup(self.path / name, moment, None, str(error)))
        return found

    def find(self, name: str) -> Path:
        """The backup at a path, by its name here, or the newest one that can be read for `latest`."""
        if name == LATEST:
            for backup in self.backups():
                if backup.manifest is not None:
                    return backup.path
            raise BackupUnusable(
                f"there is no backup in {self.path}; make one: telegram-gateway backup create"
            )
        if _NAME.fullmatch(name) and (self.path / name).is_dir():
            return self.path / name
        return Path(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other backups away, and removes what crashed ones left. Raises BackupFailed."""
        try:
            session_file.create_private(self.path, "backup directory")
            descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BackupFailed(
                f"cannot write TELEGRAM_BACKUP_DIR {self.path} ({error.strerror}); "
                "it must be a directory of the gateway's user"
            ) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupFailed(f"another backup to {self.path} is being made; wait for it") from None
            for left in self.path.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def unfinished(self, moment: datetime) -> Iterator[Path]:
        """A directory to write a backup to; it is removed unless `finish` was called with it."""
        while (self.path / moment.strftime(_TIME)).exists():
            moment += timedelta(seconds=1)
        directory = self.path / f"{_UNFINISHED}{moment.strftime(_TIME)}"
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            with suppress(FileNotFoundError):
                shutil.rmtree(directory)

    def finish(self, directory: Path) -> Path:
        """Gives a proved backup the name under which it counts. Raises OSError."""
        session_file.sync_directory(directory)
        finished = self.path / directory.name.removeprefix(_UNFINISHED)
        directory.rename(finished)
        session_file.sync_directory(self.path)
        return finished

    def prune(self, retention: timedelta, newest: Path) -> list[Path]:
        """Removes what is older than `retention`, but never `newest`, which was just proved."""
        before = datetime.now(UTC) - retention
        old = [backup.path for backup in self.backups() if backup.moment < before and backup.path != newest]
        for path in old:
            # Renamed first: half of a backup must not look like a whole one.
            doomed = self.path / f"{_UNFINISHED}{path.name}"
            path.rename(doomed)
            shutil.rmtree(doomed)
        return old
