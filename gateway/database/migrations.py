"""Runs the numbered files of `sql/` forwards and backwards, and knows whether a database is fit to write to.

`NNNN_name.up.sql` and `NNNN_name.down.sql` each run in one transaction together with their row in
`telegram_gateway.schema_migrations`. A file whose first line is `-- gateway: no-transaction` runs outside of
one: it holds a single statement (the server would run several as one transaction) that may safely run again,
since a crash can come between it and its row.
"""

import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import asyncpg

from gateway.database.connection import Connection
from gateway.errors import ConfigurationError, GatewayError, SchemaError

SQL_DIRECTORY = Path(__file__).parent / "sql"

_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.(up|down)\.sql$")
_NO_TRANSACTION = "-- gateway: no-transaction"
_LOCK_KEY = 6434_4006  # any fixed number: what every runner of this schema locks
_LOCK_TIMEOUT = "10s"  # DDL that waits for a lock holds up everyone behind it, the daemon's inserts too

_BOOKKEEPING = """
CREATE SCHEMA IF NOT EXISTS telegram_gateway;
CREATE TABLE IF NOT EXISTS telegram_gateway.schema_migrations (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    duration_ms integer NOT NULL
);
"""

State = Literal["applied", "pending", "changed", "unknown"]


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `checksum` is over `up`; a step back may be mended after the fact."""

    version: int
    name: str
    up: str
    down: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


@dataclass(frozen=True, slots=True)
class Step:
    """One migration as seen from a database: `unknown` is in the database but not among the files."""

    version: int
    name: str
    state: State
    applied_at: datetime | None

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


def load_migrations(directory: Path = SQL_DIRECTORY) -> Sequence[Migration]:
    """The migrations in `directory`, in order. Raises SchemaError when the files do not form a chain."""
    files: dict[tuple[int, str], dict[str, str]] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE.match(path.name)
        if match is None:
            raise SchemaError(f"{path} is not named like 0001_messages.up.sql")
        files.setdefault((int(match[1]), match[2]), {})[match[3]] = path.read_text(encoding="utf-8")
    migrations = []
    for expected, ((version, name), sides) in enumerate(sorted(files.items()), start=1):
        if version != expected or sides.keys() != {"up", "down"}:
            raise SchemaError(
                f"{directory} needs exactly one up and one down file for version {expected:04d}; "
                "the installation is incomplete or two migrations share a number"
            )
        checksum = hashlib.sha256(sides["up"].encode()).hexdigest()
        migrations.append(Migration(version, name, sides["up"], sides["down"], checksum))
    if not migrations:
        raise SchemaError(f"there are no migrations in {directory}: the installation is incomplete")
    return migrations


async def require_schema(connection: Connection, migrations: Sequence[Migration]) -> None:
    """Raises SchemaError unless the database is at the newest of `migrations`. Works through a pooler."""
    version = await _version(connection)
    newest = migrations[-1].version
    if version > newest:
        raise SchemaError(_newer(version, newest))
    if version < newest:
        found = f"is at schema version {version}" if version else "has no telegram_gateway schema"
        raise SchemaError(
            f"the database {found} and this telegram-gateway needs {newest}: run telegram-gateway db migrate"
        )


class Migrator:
    """Moves one database along `migrations`, on a connection of its own with no pooler in front of it."""

    def __init__(self, connection: Connection, migrations: Sequence[Migration]) -> None:
        self._connection = connection
        self._migrations = migrations

    async def steps(self) -> Sequence[Step]:
        """Every migration, of the files and of the database, by version."""
        applied = await _applied(self._connection)
        steps = []
        for migration in self._migrations:
            row = applied.pop(migration.version, None)
            if row is None:
                steps.append(Step(migration.version, migration.name, "pending", None))
                continue
            same = (row["name"], row["checksum"]) == (migration.name, migration.checksum)
            state: State = "applied" if same else "changed"
            steps.append(Step(migration.version, migration.name, state, row["applied_at"]))
        steps += [Step(row["version"], row["name"], "unknown", row["applied_at"]) for row in applied.values()]
        return sorted(steps, key=lambda step: step.version)

    async def migrate(self, done: Callable[[Migration], None], *, to: int | None = None) -> None:
        """Applies what is pending, up to version `to`; tells `done` of each once it is committed."""
        self._check_target(to)
        async with self._locked():
            await self._connection.execute(_BOOKKEEPING)
            for step, migration in zip(await self.verified(), self._migrations, strict=True):
                if step.state == "pending" and (to is None or step.version <= to):
                    await self._run(migration, "up")
                    done(migration)

    async def rollback(self, done: Callable[[Migration], None], *, to: int) -> None:
        """Takes back, newest first, all above version `to`; with 0 nothing of the schema is left."""
        self._check_target(to)
        async with self._locked():
            steps = await self.verified()
            for step, migration in reversed(list(zip(steps, self._migrations, strict=True))):
                if step.state == "applied" and step.version > to:
                    await self._run(migration, "down")
                    done(migration)
            if to == 0:
                await self._connection.execute("DROP TABLE IF EXISTS telegram_gateway.schema_migrations")
                try:
                    await self._connection.execute("DROP SCHEMA IF EXISTS telegram_gateway RESTRICT")
                except asyncpg.DependentObjectsStillExistError as error:
                    raise SchemaError(
                        f"everything of ours is gone, but schema telegram_gateway stays: {error.detail}"
                    ) from None

    async def timescaledb_version(self) -> str | None:
        """The extension's version in this database, or None where it is not installed."""
        version: str | None = await self._connection.fetchval(
            "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'"
        )
        return version

    async def timescaledb_available(self) -> bool:
        """Whether the server has the extension's files, in use or not."""
        found: bool = await self._connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')"
        )
        return found

    async def is_hypertable(self) -> bool:
        """Whether messages is a hypertable; it never turns into one by itself."""
        if await self.timescaledb_version() is None:
            return False
        found: bool = await self._connection.fetchval(
            "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables "
            "WHERE hypertable_schema = 'telegram_gateway' AND hypertable_name = 'messages')"
        )
        return found

    async def retention(self) -> str | None:
        """How long messages are kept before TimescaleDB drops them, or None when it drops none."""
        if await self.timescaledb_version() is None:
            return None
        keep: str | None = await self._connection.fetchval(
            "SELECT config ->> 'drop_after' FROM timescaledb_information.jobs "
            "WHERE proc_name = 'policy_retention' AND hypertable_schema = 'telegram_gateway'"
        )
        return keep

    async def set_retention(self, keep: timedelta | None) -> None:
        """Has the database drop messages older than `keep`, or none. Nothing to do before version 8."""
        if await self._connection.fetchval("SELECT to_regproc('telegram_gateway.set_retention') IS NULL"):
            return
        try:
            await self._connection.execute("SELECT telegram_gateway.set_retention($1)", keep)
        except asyncpg.InvalidParameterValueError as error:
            raise ConfigurationError(f"TELEGRAM_DB_RETENTION: {error}") from None

    def _check_target(self, to: int | None) -> None:
        if to is not None and not 0 <= to <= self._migrations[-1].version:
            raise ConfigurationError(
                f"there is no version {to}: choose one from 0 to {self._migrations[-1].version}"
            )

    async def verified(self) -> Sequence[Step]:
        """The steps. Raises SchemaError when the database was given other migrations than these."""
        steps = await self.steps()
        for step in steps:
            if step.state == "unknown":
                raise SchemaError(_newer(step.version, self._migrations[-1].version))
            if step.state == "changed":
                raise SchemaError(
                    f"{step}.up.sql is not the file that this database was given on {step.applied_at:%F}: "
                    "restore that file, and put the change into a new migration"
                )
        return steps

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        connection = self._connection
        await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'; SET statement_timeout = 0")
        # Names in the files are qualified, but for those of the extension.
        await connection.execute("SET search_path = public")
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
        except asyncpg.LockNotAvailableError:
            raise GatewayError(
                "another migration of this database is running: wait for it, then run this again"
            ) from None
        try:
            yield
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK_KEY)

    async def _run(self, migration: Migration, direction: Literal["up", "down"]) -> None:
        sql = migration.up if direction == "up" else migration.down
        started = time.monotonic()
        try:
            if sql.startswith(_NO_TRANSACTION):
                await self._connection.execute(sql)
                await self._record(migration, direction, started)
            else:
                async with self._connection.transaction():
                    await self._connection.execute(sql)
                    await self._record(migration, direction, started)
        except asyncpg.PostgresError as error:
            hint = f" ({error.hint})" if getattr(error, "hint", None) else ""
            raise SchemaError(
                f"{migration}.{direction}.sql failed: {error}{hint}; "
                "everything before it stays, put the cause right and run this again"
            ) from error

    async def _record(self, migration: Migration, direction: str, started: float) -> None:
        if direction == "down":
            await self._connection.execute(
                "DELETE FROM telegram_gateway.schema_migrations WHERE version = $1", migration.version
            )
            return
        await self._connection.execute(
            "INSERT INTO telegram_gateway.schema_migrations (version, name, checksum, duration_ms) "
            "VALUES ($1, $2, $3, $4)",
            migration.version,
            migration.name,
            migration.checksum,
            round((time.monotonic() - started) * 1000),
        )


async def _applied(connection: Connection) -> dict[int, asyncpg.Record]:
    try:
        rows = await connection.fetch(
            "SELECT version, name, checksum, applied_at FROM telegram_gateway.schema_migrations"
        )
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return {}
    return {row["version"]: row for row in rows}


async def _version(connection: Connection) -> int:
    return max(await _applied(connection), default=0)


def _newer(found: int, known: int) -> str:
    return (
        f"the database is at schema version {found}, and this telegram-gateway knows only up to {known}: "
        "install the version that made it, or roll back with that version first"
    )
