"""`telegram-gateway backup`: makes, lists, proves and puts back backups of sessions, database and journal."""

import asyncio
import os
import pwd
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from gateway.backup.create import create_backup, verify_backup
from gateway.backup.restore import Restore, catch_up
from gateway.backup.shelf import Backup, Shelf
from gateway.errors import BackupFailed, ConfigurationError
from gateway.logs import configure_logging
from gateway.settings import Settings, load_settings

T = TypeVar("T")

_backup = click.argument("backup", metavar="PATH|latest")


@click.group("backup", help="Create, list, verify and restore backups of sessions, database and journal.")
def command() -> None:
    pass


@command.command()
def create() -> None:
    """Back up sessions, journal and database now. The gateway may run.

    The backup is restored on trial before it counts; then those older than TELEGRAM_BACKUP_RETENTION go.
    """
    settings = _settings()
    path = _run(create_backup(settings, click.echo))
    click.echo(f"{path}: {decimal(_size(path))}")


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_backups(as_json: bool) -> None:
    """List the backups, the newest first."""
    shelf = Shelf(_settings().backup_dir)
    backups = shelf.backups()
    if as_json:
        for backup in backups:
            click.echo(msgspec.json.encode(_entry(backup)).decode())
        return
    if not backups:
        click.echo(f"no backups in {shelf.path}; make one: telegram-gateway backup create")
        return
    table = Table("backup", "size", "sessions", "events in journal", "rows in database", box=None)
    for backup in backups:
        held = backup.manifest
        if held is None:
            table.add_row(backup.path.name, backup.problem)
            continue
        table.add_row(
            backup.path.name,
            decimal(held.bytes),
            ", ".join(part.account for part in held.sessions),
            str(sum(part.head - part.first + 1 for part in held.journals)),
            str(sum(held.database.tables.values())) if held.database else "",
        )
    Console().print(table)


@command.command()
@_backup
def verify(backup: str) -> None:
    """Check every file of a backup and restore it on trial. The gateway may run."""
    settings = _settings()
    path = Shelf(settings.backup_dir).find(backup)
    manifest = _run(verify_backup(settings, path))
    click.echo(f"{path}: {len(manifest.files)} files, {decimal(manifest.bytes)}, restored on trial: good")


@command.command()
@_backup
@click.option("--database", "database", is_flag=True, help="Only the database, and what else is named.")
@click.option("--sessions", "sessions", is_flag=True, help="Only the session files, and what else is named.")
@click.option("--journal", "journal", is_flag=True, help="Only the journal, and what else is named.")
@click.option("--replace", is_flag=True, help="Put it in the place of what is there.")
def restore(backup: str, database: bool, sessions: bool, journal: bool, replace: bool) -> None:
    """Put a backup back, all of it by default. The gateway must be stopped.

    What is there already is only replaced with --replace; the journal and another session are then kept
    beside, what the database holds is deleted.
    """
    settings = _settings()
    path = Shelf(settings.backup_dir).find(backup)
    named = {"database": database, "sessions": sessions, "journal": journal}
    parts = {name for name, wanted in named.items() if wanted} or set(named)
    manifest = _run(Restore(settings, path, parts, replace=replace).run(click.echo))
    click.echo(f"restored from {path}, made by telegram-gateway {manifest.gateway_version}")
    click.echo("before the gateway starts: telegram-gateway db migrate, then telegram-gateway doctor")


@command.command(name="catch-up")
def catch_up_() -> None:
    """Give a journal that went back what the newer database has. The gateway must be stopped.

    `restore` does so by itself; for a journal that was put back in another way.
    """
    _run(catch_up(_settings(), click.echo))


def _settings() -> Settings:
    settings = load_settings()
    configure_logging(settings.log_level)
    os.umask(0o077)
    _become_owner(settings)
    return settings


def _become_owner(settings: Settings) -> None:
    """Goes on as the gateway's user when root runs this: files of root's would be useless to the daemon."""
    if os.geteuid() != 0:
        return
    places = (settings.state_dir, settings.session_dir, settings.backup_dir)
    owners = [place.stat() for place in places if place.exists()]
    owner = next((found for found in owners if found.st_uid != 0), None)
    if owner is None:
        return
    try:
        for place in places:
            if not place.exists():
                place.mkdir(mode=0o700, parents=True)
                os.chown(place, owner.st_uid, owner.st_gid)
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    except (OSError, KeyError) as error:
        raise ConfigurationError(
            f"cannot go on as the gateway's user ({error}); run this as that user"
        ) from None


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it so that systemd's SIGTERM ends it as Ctrl-C does: what is half done is cleared away."""

    async def until_told_to_stop() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(until_told_to_stop())
    except asyncio.CancelledError:
        raise BackupFailed("stopped before it was complete") from None


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _entry(backup: Backup) -> dict[str, Any]:
    return {
        "path": str(backup.path),
        "moment": backup.moment,
        "bytes": backup.manifest.bytes if backup.manifest else None,
        "problem": backup.problem or None,
        "manifest": backup.manifest,
    }
