"""Puts a backup back, part by part, after making sure of everything that can be known before.

Sessions first, then the journal, then the database: wherever it is interrupted, the journal in place is never
ahead of the database, so what is missing there is still to be delivered.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gateway.backup.catch_up import OVERLAP, CatchUp
from gateway.backup.database import BackupDatabase
from gateway.backup.journals import (
    check_absent,
    check_journal,
    deliver_again,
    journals,
    put_back_journal,
    require_reach,
    stopped,
)
from gateway.backup.manifest import DatabasePart, Manifest, check_files, read_manifest
from gateway.backup.sessions import check_replaceable, put_back_session, read_session
from gateway.database import load_migrations
from gateway.errors import BackupUnusable
from gateway.lease_record import holder_of
from gateway.settings import Settings
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_backup import SessionBackups
from gateway.telegram.session_file import StoredSession

Say = Callable[[str], None]


class Restore:
    """One run: which parts of which backup, and whether they may replace what is there."""

    def __init__(self, settings: Settings, path: Path, parts: set[str], *, replace: bool) -> None:
        self._settings = settings
        self._path = path
        self._replace = replace
        self._manifest = read_manifest(path)
        self._sessions = SessionDirectory.from_settings(settings)
        self._database: tuple[BackupDatabase, DatabasePart] | None = None
        chosen = self._manifest
        if "database" in parts and chosen.database:
            self._database = (BackupDatabase.from_settings(settings), chosen.database)
        self._session_parts = chosen.sessions if "sessions" in parts else ()
        self._journal_parts = chosen.journals if "journal" in parts else ()
        if not (self._database or self._session_parts or self._journal_parts):
            raise BackupUnusable(f"{path} holds no {', '.join(sorted(parts))}; see its manifest.json")
        # A database that stays may have more than the journal that goes back behind it.
        self._newer_database = (
            BackupDatabase.from_settings(settings)
            if self._journal_parts and settings.enable_db and self._database is None
            else None
        )
        present = set(journals(settings.state_dir))
        # Journals that stay while the database goes back behind them.
        self._staying = present - {part.name for part in self._journal_parts} if self._database else set()
        self._locked = present | {part.name for part in chosen.journals} | {settings.journal_path.name}

    async def run(self, say: Say) -> Manifest:
        """Raises GatewayError, or one of its kinds; RestoreRefused when nothing has been touched."""
        await asyncio.to_thread(check_files, self._path, self._manifest)
        with stopped(self._settings.state_dir, self._locked):
            stored = [
                (part.account, read_session(self._sessions, self._path, part)) for part in self._session_parts
            ]
            await self._check(stored)
            now = datetime.now(UTC)
            backups = SessionBackups(self._settings.session_backups, self._sessions)
            for account, session in stored:
                put_back_session(self._sessions, backups, account, session)
                say(f"session of {account}: restored")
            for journal in self._journal_parts:
                kept = await asyncio.to_thread(
                    put_back_journal, self._path, journal, self._settings.state_dir, now
                )
                say(f"{journal.name}: restored" + (f"; what was there is {kept}" if kept else ""))
                if self._newer_database:
                    otherwise = self._manifest.started_at - OVERLAP
                    await take_newer(
                        self._settings.state_dir, journal.name, self._newer_database, otherwise, say
                    )
            if self._database:
                database, part = self._database
                for name in sorted(self._staying):
                    deliver_again(self._settings.state_dir, name)
                    say(f"{name}: all of its events will be delivered to the database again")
                await database.restore(self._path, part)
                say(f"database {database.name}: restored, {sum(part.tables.values())} rows")
        return self._manifest

    async def _check(self, stored: list[tuple[str, StoredSession]]) -> None:
        for account, session in stored:
            check_replaceable(self._sessions, account, session, self._replace)
        for journal in self._journal_parts:
            await asyncio.to_thread(check_journal, self._path, journal)
            check_absent(self._settings.state_dir, journal, self._replace)
        if self._newer_database:
            await self._newer_database.check_reachable()
        if self._database is None:
            return
        database, part = self._database
        newest = load_migrations()[-1].version
        if part.schema_version > newest:
            raise BackupUnusable(
                f"the backup has database schema version {part.schema_version} and this program knows "
                f"up to {newest}; install telegram-gateway {self._manifest.gateway_version} first"
            )
        moments = {journal.name: journal.stored_until for journal in self._manifest.journals}
        for name in self._staying:
            until = moments.get(name, self._manifest.started_at)
            await asyncio.to_thread(require_reach, self._settings.state_dir, name, until)
        await database.check_replaceable(part, self._own_holders(), replace=self._replace)

    def _own_holders(self) -> list[str]:
        """This host's gateways, which are known to have stopped: their journals are locked."""
        accounts = {*self._settings.accounts, *self._sessions.accounts()}
        accounts |= {part.account for part in self._manifest.sessions}
        places = {(self._settings.state_dir / name).parent for name in self._locked}
        return [holder_of(account, place) for account in accounts for place in places]


async def catch_up(settings: Settings, say: Say) -> None:
    """Every journal of this host that went back behind the database gets what that has.

    Raises RestoreRefused while the gateway runs, SinkUnavailable without the database.
    """
    names = set(journals(settings.state_dir))
    with stopped(settings.state_dir, names):
        for name in sorted(names):
            database = BackupDatabase.from_settings(settings)
            await take_newer(settings.state_dir, name, database, None, say)


async def take_newer(
    state_dir: Path, name: str, database: BackupDatabase, otherwise: datetime | None, say: Say
) -> None:
    """One journal; an empty one takes what was received since `otherwise`."""
    with CatchUp(state_dir, name) as newer:
        since = newer.since or otherwise
        if since is None:
            return
        async with database.events(since) as events:
            added = await newer.take(events)
    say(f"{name}: {added} newer events taken from the database, to be delivered and read again")
