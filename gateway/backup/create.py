"""Makes a backup, and proves one: only what was restored on trial and counted gets a name that counts."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gateway import __version__
from gateway.backup.database import FILE, BackupDatabase
from gateway.backup.journals import check_journal, journals, save_journal
from gateway.backup.manifest import FORMAT, Manifest, check_files, enter_files, read_manifest, write_manifest
from gateway.backup.sessions import read_session, save_sessions
from gateway.backup.shelf import Shelf
from gateway.backup.stamp import Stamp, write_stamp
from gateway.errors import BackupFailed
from gateway.settings import Settings
from gateway.telegram.session import SessionDirectory

Say = Callable[[str], None]


async def create_backup(settings: Settings, say: Say) -> Path:
    """Makes one and removes what is older than the retention; returns where it is.

    Raises GatewayError, or one of its kinds, and leaves nothing that looks like a backup.
    """
    database = BackupDatabase.from_settings(settings) if settings.enable_db else None
    if database:
        await database.check_may_prove()
    shelf = Shelf(settings.backup_dir)
    now = datetime.now(UTC)
    try:
        with shelf.locked(), shelf.unfinished(now) as directory:
            manifest = await _gather(settings, database, directory, now, say)
            await _prove(settings, database, directory, manifest)
            say("restored on trial: every count is right")
            path = shelf.finish(directory)
            stamp = Stamp(datetime.now(UTC), manifest.bytes, str(path))
            places = {
                settings.state_dir,
                *((settings.state_dir / part.name).parent for part in manifest.journals),
            }
            for place in places:
                write_stamp(place, stamp)
            for old in shelf.prune(settings.backup_retention, path):
                say(f"removed {old}: older than {settings.backup_retention.total_seconds() / 86400:g} days")
    except OSError as error:
        raise BackupFailed(
            f"cannot write the backup to {settings.backup_dir} ({error.strerror or error}); "
            "make room or put that right, and run it again"
        ) from error
    return path


async def verify_backup(settings: Settings, path: Path) -> Manifest:
    """Checks every file and restores the database on trial. Raises GatewayError, or one of its kinds."""
    manifest = read_manifest(path)
    database = BackupDatabase.from_settings(settings) if manifest.database else None
    if database:
        await database.check_may_prove()
    await asyncio.to_thread(check_files, path, manifest)
    await _prove(settings, database, path, manifest)
    return manifest


async def _gather(
    settings: Settings, database: BackupDatabase | None, directory: Path, now: datetime, say: Say
) -> Manifest:
    sessions = await asyncio.to_thread(save_sessions, SessionDirectory.from_settings(settings), directory)
    say(f"sessions: {', '.join(part.account for part in sessions) or 'none'}")
    # Before the database, which may then be ahead of the journal but never behind it.
    parts = []
    for name in journals(settings.state_dir):
        part = await asyncio.to_thread(save_journal, settings.state_dir, name, directory, now)
        say(f"{name}: events {part.first} to {part.head}")
        parts.append(part)
    dumped = None
    if database:
        dumped = await database.dump(directory / FILE)
        say(f"database {dumped.name}: {sum(dumped.tables.values())} rows in {len(dumped.tables)} tables")
    files = await asyncio.to_thread(enter_files, directory)
    manifest = Manifest(FORMAT, __version__, now, files, sessions, tuple(parts), dumped)
    await asyncio.to_thread(write_manifest, directory, manifest)
    return manifest


async def _prove(
    settings: Settings, database: BackupDatabase | None, directory: Path, manifest: Manifest
) -> None:
    sessions = SessionDirectory.from_settings(settings)
    for session in manifest.sessions:
        await asyncio.to_thread(read_session, sessions, directory, session)
    for journal in manifest.journals:
        await asyncio.to_thread(check_journal, directory, journal)
    if database and manifest.database:
        await database.prove(directory, manifest.database)
