"""`telegram-gateway db`: runs the files of `sql/` on a direct connection, never through the pooler."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from gateway.database import Migrator, connect_direct, load_migrations
from gateway.database.connection import CONNECTION_LOST
from gateway.errors import GatewayError
from gateway.settings import Settings, load_settings


@click.group("db", help="Migrate the database schema, roll it back, show its state.")
def command() -> None:
    pass


@command.command()
@click.option("--to", type=int, metavar="N", help="Stop at this version instead of the newest.")
def migrate(to: int | None) -> None:
    """Apply the migrations that are missing, and TELEGRAM_DB_RETENTION."""
    asyncio.run(_migrate(load_settings(), to))


@command.command()
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="How many to take back (1).")
@click.option("--to", type=int, metavar="N", help="Take back everything above this version; 0 for all.")
def rollback(steps: int | None, to: int | None) -> None:
    """Take the newest migrations back. What their tables held is deleted with them."""
    if steps is not None and to is not None:
        raise click.UsageError("give either --steps or --to")
    asyncio.run(_rollback(load_settings(), steps or 1, to))


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show which migrations the database has. Exits 78 when they are not those of this version."""
    asyncio.run(_status(load_settings(), as_json))


async def _migrate(settings: Settings, to: int | None) -> None:
    async with _migrator(settings) as migrator:
        if all(step.state == "applied" for step in await migrator.steps()):
            click.echo("nothing to apply")
        await migrator.migrate(lambda migration: click.echo(f"applied {migration}"), to=to)
        await migrator.set_retention(settings.db_retention)
        await _say_kind(migrator, settings)


async def _rollback(settings: Settings, steps: int, to: int | None) -> None:
    async with _migrator(settings) as migrator:
        applied = [step.version for step in await migrator.steps() if step.state != "pending"]
        if not applied:
            click.echo("nothing to roll back")
        if to is None:
            to = max(max(applied, default=0) - steps, 0)
        await migrator.rollback(lambda migration: click.echo(f"rolled back {migration}"), to=to)


async def _status(settings: Settings, as_json: bool) -> None:
    async with _migrator(settings) as migrator:
        steps = await migrator.steps()
        timescaledb = await migrator.timescaledb_version()
        if as_json:
            report = {
                "timescaledb": timescaledb,
                "hypertable": await migrator.is_hypertable(),
                "retention": await migrator.retention(),
                "current": all(step.state == "applied" for step in steps),
                "migrations": [
                    {
                        "version": step.version,
                        "name": step.name,
                        "state": step.state,
                        "applied_at": step.applied_at and step.applied_at.isoformat(),
                    }
                    for step in steps
                ],
            }
            click.echo(json.dumps(report, indent=2))
            await migrator.verified()
            return
        table = Table("migration", "state", "applied at", box=None)
        for step in steps:
            table.add_row(str(step), step.state, f"{step.applied_at:%F %T %Z}" if step.applied_at else "")
        Console().print(table)
        if any(step.state == "applied" for step in steps):
            await _say_kind(migrator, settings)
        await migrator.verified()


async def _say_kind(migrator: Migrator, settings: Settings) -> None:
    keep = settings.db_retention
    if await migrator.is_hypertable():
        kept = f"kept for {await migrator.retention() or 'ever'}"
        click.echo(f"TimescaleDB {await migrator.timescaledb_version()}: messages is a hypertable, {kept}")
        return
    click.echo("no TimescaleDB: messages is a plain table, without chunks or compression")
    if await migrator.timescaledb_available():
        click.echo(
            "TimescaleDB is there for the taking: db rollback --to 0 (which deletes all data), "
            "CREATE EXTENSION timescaledb as superuser, then db migrate"
        )
    if keep:
        config = json.dumps({"keep": f"{keep.total_seconds() / 86400:g} days"})
        click.echo(f"nothing expires by itself; run daily: CALL telegram_gateway.expire(0, '{config}')")


@asynccontextmanager
async def _migrator(settings: Settings) -> AsyncIterator[Migrator]:
    migrations = load_migrations()
    password = settings.db_password.get_secret_value() if settings.db_password else None
    connection = await connect_direct(settings.db_direct_dsn.get_secret_value(), password)
    try:
        yield Migrator(connection, migrations)
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        raise GatewayError(f"the database did not carry it out: {error}") from error
    finally:
        connection.terminate()
