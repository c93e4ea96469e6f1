"""`telegram-gateway lease`: which host runs which account, and moving an account by hand."""

import asyncio
import json

import click

from gateway.database.leases import GRACE, Lease, LeaseTable, lease_table
from gateway.errors import ConfigurationError, GatewayError
from gateway.lease_record import LeaseRecord, holder_of, key_lease, record_file, user_lease
from gateway.settings import Settings, load_settings
from gateway.telegram.session import SessionDirectory

_ACCOUNT = click.option("--account", default="main", show_default=True, metavar="NAME")
_YES = click.option("--yes", is_flag=True, help="Do not ask, even if the holder's silence proves nothing.")


@click.group("lease", help="Show which host runs which account, and move accounts.")
def command() -> None:
    pass


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_leases(as_json: bool) -> None:
    """Show every lease in the database: who holds it, at which epoch, and whether that gateway is alive."""
    leases = asyncio.run(_all(load_settings()))
    if as_json:
        click.echo(json.dumps([_as_json(lease) for lease in leases], indent=2))
        return
    for lease in leases:
        click.echo(f"{lease.name}\t{lease.holder}\tepoch {lease.epoch}\t{lease.state}")


@command.command()
@_ACCOUNT
@_YES
def take(account: str, yes: bool) -> None:
    """Move an account to this host. The gateway that runs it stops it; the one that waits here goes on."""
    asyncio.run(_take(load_settings(), account, yes))


@command.command()
@_ACCOUNT
@click.option(
    "--holder", metavar="TEXT", help="Part of the holder's name, if several hosts have that account."
)
@_YES
def release(account: str, holder: str | None, yes: bool) -> None:
    """Free the leases of a gateway that is gone for good, for whichever host asks next."""
    asyncio.run(_release(load_settings(), account, holder, yes))


async def _all(settings: Settings) -> list[Lease]:
    async with lease_table(settings) as table:
        return await table.all()


async def _take(settings: Settings, account: str, yes: bool) -> None:
    if not settings.lease_enabled:
        raise ConfigurationError("leases are off here (TELEGRAM_LEASE, TELEGRAM_ENABLE_DB): nothing to take")
    here = holder_of(account, settings.state_dir)
    async with lease_table(settings) as table:
        names = await _names(settings, table, account)
        others = [
            lease
            for name in names
            if (lease := await table.get(name)) and not lease.free and lease.holder != here
        ]
        for lease in others:
            click.echo(f"{lease.name} is held by {lease.holder}: {lease.state}")
        if any(lease.silence > GRACE for lease in others) and not yes:
            click.confirm(
                "A silent gateway may be dead, or may run without reaching this database; two with one key "
                "end it for good. Is it certain that it is stopped?",
                abort=True,
            )
        taken = [await table.take(name, account, here) for name in names]
    if not any(taken):
        click.echo(f"account {account} is this host's already")
    elif any(lease.silence <= GRACE for lease in others):
        click.echo(
            f"account {account} is this host's; a gateway here goes on as soon as the other says that it "
            f"stopped, or after {GRACE.total_seconds():.0f} s without a word from it"
        )
    else:
        click.echo(f"account {account} is this host's; a gateway that waits here goes on at once")


async def _release(settings: Settings, account: str, holder: str | None, yes: bool) -> None:
    async with lease_table(settings) as table:
        held = [
            lease
            for lease in await table.all()
            if lease.account == account and not lease.free and (holder or "") in lease.holder
        ]
        holders = {lease.holder for lease in held}
        if not held:
            raise GatewayError(
                f"nobody holds a lease of account {account!r}; see: telegram-gateway lease list"
            )
        if len(holders) > 1:
            raise GatewayError(
                f"account {account!r} is held by {', '.join(sorted(holders))}; name one with --holder"
            )
        if any(lease.silence <= GRACE for lease in held):
            raise GatewayError(
                f"{held[0].holder} is alive; stop that gateway, which frees its leases, "
                f"or move the account: telegram-gateway lease take --account {account} on the other host"
            )
        if not yes:
            click.confirm(
                f"{held[0].holder} is silent since {held[0].renewed_at:%F %T %Z}. "
                "Is it certain that it is stopped?",
                abort=True,
            )
        freed = await table.free([lease.name for lease in held])
    click.echo(f"freed {', '.join(sorted(freed))}" if freed else "its gateway is alive again: nothing freed")


async def _names(settings: Settings, table: LeaseTable, account: str) -> list[str]:
    """The leases of an account: its key's, and its user's if this host or the holder knows that."""
    key = key_lease(SessionDirectory.from_settings(settings).load(account).auth_key)
    user_id = LeaseRecord.load(record_file(settings.state_dir)).users.get(key)
    if user_id is not None:
        return [key, user_lease(user_id, settings.server)]
    lease = await table.get(key)
    users = [
        other.name
        for other in await table.all()
        if lease is not None and other.holder == lease.holder and other.name.startswith("user:")
    ]
    return [key, *users]


def _as_json(lease: Lease) -> dict[str, object]:
    return {
        "name": lease.name,
        "account": lease.account,
        "holder": lease.holder,
        "epoch": lease.epoch,
        "acquired_at": lease.acquired_at and lease.acquired_at.isoformat(),
        "renewed_at": lease.renewed_at.isoformat(),
        "released_at": lease.released_at and lease.released_at.isoformat(),
        "previous": lease.previous,
        "state": lease.state,
    }
