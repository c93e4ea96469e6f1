"""`telegram-gateway token`: who may use the REST API."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import click

from gateway.database import connect
from gateway.database.connection import CONNECTION_LOST, Connection
from gateway.errors import GatewayError
from gateway.settings import Settings, load_settings, parse_duration
from gateway.tokens import SCOPES, Token, all_tokens, create_token, revoke_token

_CHAT_KEY = re.compile(r"(\d+/)?-?\d+")
_FOREVER = ("never", "none")


def _lifetime(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta | None:
    if value.lower() in _FOREVER:
        return None
    try:
        lifetime = parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; or write never") from None
    if lifetime <= timedelta(0):
        raise click.BadParameter("must be longer than nothing; or write never")
    return lifetime


def _chat_keys(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    for chat in value:
        if not _CHAT_KEY.fullmatch(chat):
            raise click.BadParameter(
                f"{chat!r} is no chat's id; write -1001649127710, or ACCOUNT_SCOPE/ID for a private chat"
            )
    return value


@click.group("token", help="Create, list and revoke the API's tokens.")
def command() -> None:
    pass


@command.command()
@click.option("--name", required=True, metavar="TEXT", help="Whose it is, to recognise it by.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(SCOPES),
    help="process includes read, admin includes both; may be given several times.",
)
@click.option(
    "--chat", "chats", multiple=True, metavar="ID", callback=_chat_keys, help="Only these chats; default all."
)
@click.option(
    "--expires",
    default="never",
    show_default=True,
    metavar="TIME",
    callback=_lifetime,
    help="How long it is good for, such as 90d.",
)
def create(name: str, scopes: tuple[str, ...], chats: tuple[str, ...], expires: timedelta | None) -> None:
    """Print a new token. It is shown this once; only its hash is kept."""
    expires_at = datetime.now(UTC) + expires if expires is not None else None
    secret = asyncio.run(_create(load_settings(), name, scopes, chats, expires_at))
    click.echo(secret)
    click.echo("Keep it now: it cannot be shown again.", err=True)


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_tokens(as_json: bool) -> None:
    """Show every token's name, first characters, scopes, chats and use; never the token."""
    tokens = asyncio.run(_all(load_settings()))
    if as_json:
        click.echo(json.dumps([_as_json(token) for token in tokens], indent=2))
        return
    for token in tokens:
        click.echo("\t".join(_line(token)))


@command.command()
@click.argument("token", metavar="NAME|PREFIX|ID")
def revoke(token: str) -> None:
    """End a token, given by its name, first characters or id. Works within seconds."""
    ended = asyncio.run(_revoke(load_settings(), token))
    if not ended:
        raise GatewayError(f"no token {token!r} that is not revoked already; see telegram-gateway token list")
    for each in ended:
        click.echo(f"revoked {each.name} ({each.prefix}…)")


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Connection]:
    password = settings.db_password.get_secret_value() if settings.db_password else None
    connection = await connect(settings.db_dsn.get_secret_value(), password)
    try:
        yield connection
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        raise GatewayError(f"the database could not be asked: {error}") from error
    finally:
        connection.terminate()


async def _create(
    settings: Settings,
    name: str,
    scopes: tuple[str, ...],
    chats: tuple[str, ...],
    expires_at: datetime | None,
) -> str:
    async with _database(settings) as connection:
        secret, _ = await create_token(connection, name, set(scopes), chats, expires_at)
        return secret


async def _all(settings: Settings) -> list[Token]:
    async with _database(settings) as connection:
        return await all_tokens(connection)


async def _revoke(settings: Settings, which: str) -> list[Token]:
    async with _database(settings) as connection:
        return await revoke_token(connection, which)


def _line(token: Token) -> tuple[str, ...]:
    chats = "all chats" if token.chats is None else ", ".join(sorted(token.chats))
    used = f"used {token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never used"
    scopes = ", ".join(scope for scope in SCOPES if scope in token.scopes)
    return str(token.id), token.name, f"{token.prefix}…", scopes, chats, used, _state(token)


def _state(token: Token) -> str:
    if token.revoked_at:
        return f"revoked {token.revoked_at:%Y-%m-%d %H:%M}"
    if token.expires_at is None:
        return "never expires"
    expired = token.expires_at <= datetime.now(UTC)
    return f"{'expired' if expired else 'expires'} {token.expires_at:%Y-%m-%d %H:%M}"


def _as_json(token: Token) -> dict[str, object]:
    def moment(value: datetime | None) -> str | None:
        return value.isoformat() if value else None

    return {
        "id": token.id,
        "name": token.name,
        "prefix": token.prefix,
        "scopes": [scope for scope in SCOPES if scope in token.scopes],
        "chats": sorted(token.chats) if token.chats is not None else None,
        "created_at": moment(token.created_at),
        "expires_at": moment(token.expires_at),
        "last_used_at": moment(token.last_used_at),
        "revoked_at": moment(token.revoked_at),
    }
