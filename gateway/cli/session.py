"""`telegram-gateway session`: lists, checks, brings in, backs up and puts back session files."""

import asyncio
import os
import sys
from pathlib import Path

import click

from gateway.database.leases import lease_table
from gateway.errors import (
    EXIT_NEEDS_OPERATOR,
    ConfigurationError,
    GatewayError,
    SchemaError,
    SessionError,
    SinkUnavailable,
)
from gateway.lease_record import holder_of, key_lease
from gateway.logs import configure_logging
from gateway.settings import Settings, load_settings
from gateway.telegram import session_file
from gateway.telegram.check import check_session
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import SessionDirectory, is_encrypted
from gateway.telegram.session_backup import SessionBackups
from gateway.telegram.session_import import as_string, read_bytes, read_file, take_in

_OWNS = "whoever has it owns the account"
_account = click.option("--account", default="main", show_default=True, help="Name of the session file.")
_accounts = click.option(
    "--account", "accounts", multiple=True, help="Which; all of TELEGRAM_ACCOUNTS by default."
)


@click.group(name="session")
def command() -> None:
    """List, check, import, export, back up and restore session files."""


@command.command(name="list")
@click.option("--backups", "with_backups", is_flag=True, help="Also each backup, the newest first.")
def list_sessions(with_backups: bool) -> None:
    """List the session files, with what is wrong with each."""
    _, sessions, backups = _open()
    accounts = sessions.accounts()
    if not accounts:
        click.echo(f"no session files in {sessions.path}; make one with: telegram-gateway login")
    for account in accounts:
        click.echo(f"{account}\t{_state_of(sessions, backups, account)}")
        for backup in backups.of(account) if with_backups else ():
            try:
                backups.read(backup)
            except SessionError as error:
                click.echo(f"{account}\tbackup {error}")
            else:
                click.echo(f"{account}\tbackup ok {backup.file}")


@command.command()
@_accounts
def check(accounts: tuple[str, ...]) -> int:
    """Ask Telegram whether each session is still logged in. The gateway must be stopped."""
    settings, sessions, _ = _open(accounts)
    results = [_check(settings, sessions, account) for account in settings.accounts]
    return 0 if all(results) else EXIT_NEEDS_OPERATOR


@command.command()
@_accounts
def backup(accounts: tuple[str, ...]) -> None:
    """Back sessions up now. The gateway may run; it does so daily by itself."""
    settings, _, backups = _open(accounts)
    for account in settings.accounts:
        click.echo(f"{account}\t{backups.make(account).file}")


@command.command()
@_account
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="The backup to restore; the newest good one by default.",
)
def restore(account: str, source: Path | None) -> None:
    """Put a backup in place of a session file. The gateway must be stopped."""
    _, sessions, backups = _open((account,))
    if source is not None:
        session = read_file(source, account, sessions)
    elif (newest := backups.newest(account)) is not None:
        source, session = newest[0].file, newest[1]
    else:
        raise SessionError(
            f"there is no good backup of account {account!r} in {backups.path}; "
            f"name one with --from, or log in with: telegram-gateway login --account {account}"
        )
    take_in(account, session, sessions, backups, force=True)
    click.echo(f"{account}: restored from {source}")
    click.echo(f"See whether Telegram still accepts it: telegram-gateway session check --account {account}")
    keep_backup(backups, account)


@command.command(name="import")
@_account
@click.option(
    "--from",
    "source",
    default="-",
    show_default=True,
    metavar="FILE",
    help="A Telethon session file or a file with a session string; - reads either from standard input.",
)
@click.option("--force", is_flag=True, help="Replace another session of this account; it is backed up first.")
def import_session(account: str, source: str, force: bool) -> None:
    """Bring in a session from a container's volume, or a Telethon session string.

    Stop what uses it before: Telegram ends a session for good that two programs use. A string is read from a
    file or from standard input, or asked for at a terminal; never give it as an argument.
    """
    _, sessions, backups = _open((account,))
    if source != "-":
        session = read_file(Path(source), account, sessions)
    elif sys.stdin.isatty():
        text = click.prompt("Session string", hide_input=True, err=True)
        session = read_bytes(text.encode(), account, sessions, "what was typed")
    else:
        session = read_bytes(sys.stdin.buffer.read(), account, sessions, "standard input")
    take_in(account, session, sessions, backups, force=force)
    click.echo(f"{account}: imported into {sessions.file(account)} (data centre {session.dc_id})")
    click.echo(f"See whether Telegram accepts it: telegram-gateway session check --account {account}")
    click.echo(f"Then delete what it was imported from: {_OWNS}, and two users of it would end it.")
    keep_backup(backups, account)


@command.command()
@_account
@click.option("--string", "wants_string", is_flag=True, help="Print it as a Telethon session string.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Write it as a Telethon session file.")
def export(account: str, wants_string: bool, target: Path | None) -> None:
    """Hand a session out, unencrypted. Whoever has it owns the account."""
    if wants_string == (target is not None):
        raise ConfigurationError(f"give --string or --to FILE; {_OWNS}, so nothing is exported unasked")
    _, sessions, _ = _open((account,))
    session = sessions.load(account)
    if target is None:
        click.echo(as_string(session, account))
    else:
        _write_new(target, session_file.build(session))
    click.echo(
        f"Unencrypted: {_OWNS}. Use it nowhere while this gateway runs: Telegram ends a session for good "
        "that two programs use.",
        err=True,
    )


@command.command()
@_accounts
def encrypt(accounts: tuple[str, ...]) -> None:
    """Encrypt session files and backups that are still clear. The gateway must be stopped."""
    settings, sessions, backups = _open(accounts)
    if settings.session_key is None:
        raise ConfigurationError("TELEGRAM_SESSION_KEY is not set; make one with: openssl rand -base64 32")
    for account in settings.accounts:
        with sessions.lock(account):
            sessions.store(account, sessions.load(account))
            sealed = backups.seal(account)
        click.echo(f"{account}\tencrypted, with {sealed} backup(s) that were clear")


def keep_backup(backups: SessionBackups, account: str) -> None:
    """Backs up a session that was just written; the session stays when that fails."""
    try:
        backups.keep(account)
    except SessionError as error:
        click.echo(f"telegram-gateway: the session is in place but not backed up: {error}", err=True)


def _open(accounts: tuple[str, ...] = ()) -> tuple[Settings, SessionDirectory, SessionBackups]:
    settings = load_settings(**({"accounts": accounts} if accounts else {}))
    configure_logging(settings.log_level)
    sessions = SessionDirectory.from_settings(settings)
    return settings, sessions, SessionBackups(settings.session_backups, sessions)


def _state_of(sessions: SessionDirectory, backups: SessionBackups, account: str) -> str:
    try:
        stored = sessions.load(account)
        kept = backups.of(account)
    except SessionError as error:
        return str(error)
    encrypted = ", encrypted" if is_encrypted(sessions.file(account)) else ""
    backed_up = f"backed up {kept[0].made_at:%Y-%m-%d %H:%M} UTC" if kept else "no backup"
    return f"ok (data centre {stored.dc_id}, {stored.server_address}:{stored.port}{encrypted}, {backed_up})"


def _check(settings: Settings, sessions: SessionDirectory, account: str) -> bool:
    api_id, api_hash = settings.require_api_credentials()

    async def check() -> str:
        if settings.lease_enabled:
            await _assert_not_elsewhere(settings, account, sessions.load(account).auth_key)
        server = ServerAddress.from_settings(settings)
        return await check_session(account, sessions, api_id, api_hash, server)

    try:
        who = asyncio.run(check())
    except GatewayError as error:
        click.echo(f"{account}\t{error}")
        return False
    click.echo(f"{account}\tlogged in as {who}")
    return True


async def _assert_not_elsewhere(settings: Settings, account: str, auth_key: bytes) -> None:
    """A look at Telegram with a key that another host uses would end it for good."""
    try:
        async with lease_table(settings) as table:
            lease = await table.get(key_lease(auth_key))
    except SchemaError:
        return  # nobody can hold what is not there
    except (SinkUnavailable, ConfigurationError) as error:
        raise SessionError(
            f"cannot ask whether another host runs the account ({error}); "
            "if none does, check with TELEGRAM_LEASE=false"
        ) from None
    if lease is not None and not lease.free and lease.holder != holder_of(account, settings.state_dir):
        raise SessionError(f"not checked: {lease.holder} runs the account ({lease.state}); check it there")


def _write_new(target: Path, content: bytes) -> None:
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, session_file.FILE_MODE)
    except FileExistsError:
        raise SessionError(f"{target} exists and is not overwritten; name another file") from None
    except OSError as error:
        raise SessionError(f"cannot write {target} ({error.strerror})") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
