"""`telegram-gateway session`: lists and checks session files."""

import asyncio

import click

from gateway.errors import EXIT_NEEDS_OPERATOR, SessionError
from gateway.logs import configure_logging
from gateway.settings import Settings, load_settings
from gateway.telegram.check import check_session
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import SessionDirectory


@click.group(name="session")
def command() -> None:
    """List and check session files."""


@command.command(name="list")
def list_sessions() -> None:
    """List the session files, with what is wrong with each."""
    settings = load_settings()
    directory = SessionDirectory(settings.session_dir)
    accounts = directory.accounts()
    if not accounts:
        click.echo(f"no session files in {directory.path}; make one with: telegram-gateway login")
    for account in accounts:
        click.echo(f"{account}\t{_state_of(directory, account)}")


@command.command()
@click.option(
    "--account", "accounts", multiple=True, help="Which to check; all of TELEGRAM_ACCOUNTS by default."
)
def check(accounts: tuple[str, ...]) -> int:
    """Ask Telegram whether each session is still logged in. The gateway must be stopped."""
    settings = load_settings(**({"accounts": accounts} if accounts else {}))
    configure_logging(settings.log_level)
    directory = SessionDirectory(settings.session_dir)
    results = [_check(settings, directory, account) for account in settings.accounts]
    return 0 if all(results) else EXIT_NEEDS_OPERATOR


def _state_of(directory: SessionDirectory, account: str) -> str:
    try:
        stored = directory.load(account)
    except SessionError as error:
        return str(error)
    return f"ok (data centre {stored.dc_id}, {stored.server_address}:{stored.port})"


def _check(settings: Settings, directory: SessionDirectory, account: str) -> bool:
    api_id, api_hash = settings.require_api_credentials()
    try:
        who = asyncio.run(
            check_session(account, directory, api_id, api_hash, ServerAddress.from_settings(settings))
        )
    except SessionError as error:
        click.echo(f"{account}\t{error}")
        return False
    click.echo(f"{account}\tlogged in as {who}")
    return True
