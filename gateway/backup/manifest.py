"""What a backup says of itself: its files with their checksums, and what each part held when it was taken."""

import hashlib
import os
from datetime import datetime
from pathlib import Path

import msgspec

from gateway.errors import BackupUnusable
from gateway.telegram import session_file

NAME = "manifest.json"
FORMAT = 1


class FileEntry(msgspec.Struct, frozen=True):
    """A file by its path below the backup's directory."""

    path: str
    bytes: int
    sha256: str


class SessionPart(msgspec.Struct, frozen=True):
    """One account's session file."""

    account: str
    file: str


class JournalPart(msgspec.Struct, frozen=True):
    """One journal. `name` is its path below the state directory; numbers are those of events.

    All that was received before `stored_until` was in the database when the journal was copied.
    """

    name: str
    file: str
    schema_version: int
    first: int
    head: int
    cursors: dict[str, int]
    stored_until: datetime


class DatabasePart(msgspec.Struct, frozen=True):
    """The database: `tables` has the rows of each table in the snapshot that was dumped."""

    file: str
    name: str
    server_version: str
    timescaledb: str | None
    schema_version: int
    schemas: tuple[str, ...]
    tables: dict[str, int]


class Manifest(msgspec.Struct, frozen=True):
    """`manifest.json`."""

    format: int
    gateway_version: str
    started_at: datetime
    files: tuple[FileEntry, ...]
    sessions: tuple[SessionPart, ...]
    journals: tuple[JournalPart, ...]
    database: DatabasePart | None

    @property
    def bytes(self) -> int:
        """The size of all files but the manifest's own."""
        return sum(entry.bytes for entry in self.files)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes it, durably. Raises OSError."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    session_file.write(directory / NAME, text + b"\n")


def read_manifest(directory: Path) -> Manifest:
    """Raises BackupUnusable when there is none, or one that this program cannot read."""
    file = directory / NAME
    try:
        text = file.read_bytes()
        found = msgspec.json.decode(text, type=_Format).format
        if found != FORMAT:
            raise BackupUnusable(
                f"{file} has format {found} and this telegram-gateway reads {FORMAT}; "
                "use the version of telegram-gateway that made the backup"
            )
        return msgspec.json.decode(text, type=Manifest)
    except OSError as error:
        raise BackupUnusable(
            f"{directory} is no backup that can be read: {NAME}: {error.strerror}; "
            "see what there is: telegram-gateway backup list"
        ) from None
    except msgspec.DecodeError as error:
        raise BackupUnusable(f"{file} is damaged ({error}); use another backup") from None


def enter_files(directory: Path) -> tuple[FileEntry, ...]:
    """Every file below `directory`, made durable and with its checksum. Raises OSError."""
    entries = []
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            entries.append(FileEntry(str(file.relative_to(directory)), file.stat().st_size, digest))
        else:
            session_file.sync_directory(file)
    return tuple(entries)


def check_files(directory: Path, manifest: Manifest) -> None:
    """Raises BackupUnusable unless every file is there as it was written."""
    for entry in manifest.files:
        file = directory / entry.path
        if not file.resolve().is_relative_to(directory.resolve()):
            raise BackupUnusable(
                f"{directory} names a file outside of itself, {entry.path}; use another backup"
            )
        try:
            with file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                whole = (
                    size == entry.bytes and hashlib.file_digest(opened, "sha256").hexdigest() == entry.sha256
                )
        except OSError as error:
            raise BackupUnusable(f"cannot read {file} ({error.strerror}); use another backup") from None
        if not whole:
            raise BackupUnusable(f"{file} is not what was written; check the disk and use another backup")


class _Format(msgspec.Struct):
    format: int
