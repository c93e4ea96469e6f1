"""The database: dumped in one snapshot with its row counts, restored on trial, and put back."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import asyncpg
import structlog

from gateway.backup.manifest import DatabasePart
from gateway.backup.programs import client_program, run
from gateway.database.connection import Connection, connect_direct
from gateway.errors import BackupFailed, BackupUnusable, ConfigurationError, RestoreRefused, SchemaError
from gateway.settings import Settings

log = structlog.get_logger()

FILE = "database.dump"
_SCRATCH_LOCK = 6434_4007  # any fixed number but the migrations': who has it may use the scratch database
_LOCK_WAIT = "60s"  # for a table that a migration holds, and for the scratch database
_FROM_MIGRATIONS = {"telegram_gateway.schema_migrations", "telegram_gateway.arrival_horizon"}
_SESSION = f"""
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '{_LOCK_WAIT}'
"""

_SERVER = """
SELECT current_setting('server_version') AS version,
    current_setting('server_version_num')::int / 10000 AS major,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
    current_user AS role, rolsuper AS superuser, rolcreatedb OR rolsuper AS may_create
FROM pg_roles WHERE rolname = current_user
"""
# Neither PostgreSQL's nor an extension's; TimescaleDB's chunks are counted through their hypertable.
_SCHEMAS = """
SELECT n.nspname::text AS name, format('%I', n.nspname) AS quoted FROM pg_namespace n
WHERE n.nspname !~ '^(pg_|_?timescaledb_)' AND n.nspname NOT IN ('information_schema', 'public')
    AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e'
    )
ORDER BY n.nspname
"""
_TABLES = """
SELECT n.nspname::text AS schema, format('%I.%I', n.nspname, c.relname) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND n.nspname !~ '^(pg_|_?timescaledb_)' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
ORDER BY name
"""
_CREATE = """
SELECT format(
    'CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    $1::text, pg_encoding_to_char(encoding), datcollate, datctype
)
FROM pg_database WHERE datname = current_database()
"""
_CREATE_TIMESCALEDB = "SELECT format('CREATE EXTENSION timescaledb VERSION %L', $1::text)"
_LIVE_HOLDERS = """
SELECT holder FROM telegram_gateway.account_leases
WHERE released_at IS NULL AND renewed_at > now() - interval '30 seconds'
"""


@dataclass(frozen=True)
class Server:
    """What a connection finds: versions, and what its role may do."""

    version: str
    major: int
    timescaledb: str | None
    role: str
    superuser: bool
    may_create: bool


class BackupDatabase:
    """The gateway's database, past the pooler, as the role that makes its backups."""

    def __init__(self, dsn: str, password: str | None = None, user: str | None = None) -> None:
        parts = urlsplit(dsn)
        login, _, hosts = parts.netloc.rpartition("@")
        name, _, written = login.partition(":")
        query = dict(parse_qsl(parts.query))
        if password is None and user is None:
            password = unquote(written) or query.get("password")
        query.pop("password", None)
        name = name if user is None else quote(user, safe="")
        # Without the password: programs show their arguments to everybody on the host.
        self._parts = parts._replace(netloc=f"{name}@{hosts}" if name else hosts, query=urlencode(query))
        self._password = password
        self.name = unquote(parts.path.lstrip("/")) or unquote(name)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        user = settings.backup_db_user
        password = settings.db_password if user is None else settings.backup_db_password
        dsn = settings.db_direct_dsn.get_secret_value()
        return cls(dsn, password.get_secret_value() if password else None, user)

    async def check_may_prove(self) -> None:
        """Raises ConfigurationError when the role can make no scratch database to restore a dump into."""
        async with self._connection() as connection:
            server = await _server(connection)
        if server.timescaledb and not server.superuser:
            raise ConfigurationError(
                f"PostgreSQL role {server.role} cannot restore a TimescaleDB database, and no backup counts "
                "that was not restored on trial: name a superuser in TELEGRAM_BACKUP_DB_USER and give its "
                "password in TELEGRAM_BACKUP_DB_PASSWORD (systemd credential backup_db_password)"
            )
        if not server.may_create:
            raise ConfigurationError(
                f"PostgreSQL role {server.role} may not create the database {self._scratch} in which each "
                f"backup is restored on trial: as superuser run ALTER ROLE {server.role} CREATEDB and let it "
                "into that database in pg_hba.conf, or name another role in TELEGRAM_BACKUP_DB_USER and give "
                "its password in TELEGRAM_BACKUP_DB_PASSWORD (systemd credential backup_db_password)"
            )

    async def dump(self, file: Path) -> DatabasePart:
        """Dumps to `file`. Raises GatewayError, or one of its kinds."""
        async with (
            self._connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
            server = await _server(connection)
            try:
                version = await connection.fetchval(
                    "SELECT max(version) FROM telegram_gateway.schema_migrations"
                )
            except asyncpg.UndefinedTableError:
                raise SchemaError(
                    f"the database {self.name} has no telegram_gateway schema; "
                    "run telegram-gateway db migrate"
                ) from None
            part = DatabasePart(
                file=file.name,
                name=self.name,
                server_version=server.version,
                timescaledb=server.timescaledb,
                schema_version=version or 0,
                schemas=tuple(row["name"] for row in await connection.fetch(_SCHEMAS)),
                # Counting takes the locks that keep a chunk from being dropped before it is dumped.
                tables=await _count(connection, await _tables(connection)),
            )
            await run(
                client_program("pg_dump", server.major),
                "--format=custom",
                f"--snapshot={snapshot}",
                f"--lock-wait-timeout={_LOCK_WAIT}",
                # What else is installed, as pg_stat_statements, is the server's own, and takes a superuser.
                f"--extension={'timescaledb' if server.timescaledb else 'plpgsql'}",
                "--no-password",
                f"--file={file}",
                f"--dbname={self._dsn()}",
                variables=self._variables(),
            )
        return part

    async def prove(self, directory: Path, part: DatabasePart) -> None:
        """Restores the dump into a scratch database; raises BackupFailed unless its rows are all there."""
        async with self._scratch_database():
            try:
                await self._load(directory / part.file, part, self._scratch)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"{error}; pg_hba.conf must let the role into the database {self._scratch} too"
                ) from None
            async with self._connection(self._scratch) as connection:
                if part.timescaledb:
                    # For this session only: its jobs must not begin to drop or compress what is counted here.
                    await connection.execute("SET timescaledb.restoring = off")
                await _assert_rows(connection, part)

    async def check_replaceable(self, part: DatabasePart, own: Iterable[str], replace: bool) -> None:
        """Raises RestoreRefused when the database is in use or holds something, without `replace`.

        `own` are the lease holders that are known to have stopped.
        """
        async with self._connection() as connection:
            server = await _server(connection)
            _check_timescaledb(part, await _available_timescaledb(connection), server)
            schema_of = await _tables(connection)
            if "telegram_gateway.account_leases" in schema_of:
                holders = {row["holder"] for row in await connection.fetch(_LIVE_HOLDERS)} - set(own)
                if holders:
                    raise RestoreRefused(
                        f"the database is in use by {', '.join(sorted(holders))}; stop that gateway first"
                    )
            stays = [
                table
                for table, schema in schema_of.items()
                if table in part.tables and schema not in part.schemas
            ]
            if stays:
                raise RestoreRefused(
                    f"the backup holds {', '.join(stays)}, which the database has too and which is not the "
                    "gateway's; move it to another schema or drop it first"
                )
            counts = await _count(
                connection,
                [
                    table
                    for table, schema in schema_of.items()
                    if schema in part.schemas and table not in _FROM_MIGRATIONS
                ],
            )
            held = {table: rows for table, rows in counts.items() if rows}
            if held and not replace:
                most = max(held, key=lambda table: held[table])
                raise RestoreRefused(
                    f"the database {self.name} holds data ({most}: {held[most]} rows); "
                    "to delete it and put the backup in its place: --replace"
                )

    async def restore(self, directory: Path, part: DatabasePart) -> None:
        """Replaces the gateway's schemas by the backup's; raises BackupFailed unless all rows are there."""
        async with self._connection() as connection, connection.transaction():
            there = await connection.fetch(_SCHEMAS)
            for row in there:
                if row["name"] in part.schemas:
                    await connection.execute(f"DROP SCHEMA {row['quoted']} CASCADE")
            # Its catalog has to be as new for what the dump puts there.
            await connection.execute("DROP EXTENSION IF EXISTS timescaledb CASCADE")
        try:
            await self._load(directory / part.file, part, self.name)
            async with self._connection() as connection:
                if part.timescaledb:
                    await connection.execute("SELECT timescaledb_post_restore()")
                await _assert_rows(connection, part)
                await connection.execute("ANALYZE")
        except BackupFailed as error:
            raise BackupFailed(
                f"{error}. The database {self.name} is without its data now; "
                "put that right and run the restore again"
            ) from error

    @property
    def _scratch(self) -> str:
        return f"{self.name}_scratch"

    async def _load(self, file: Path, part: DatabasePart, name: str) -> None:
        async with self._connection(name) as connection:
            server = await _server(connection)
            if part.timescaledb:
                _check_timescaledb(part, await _available_timescaledb(connection), server)
                await connection.execute(await connection.fetchval(_CREATE_TIMESCALEDB, part.timescaledb))
                await connection.execute("SELECT timescaledb_pre_restore()")
        await run(
            client_program("pg_restore", server.major),
            "--exit-on-error",
            "--single-transaction",
            "--no-password",
            f"--dbname={self._dsn(name)}",
            str(file),
            variables=self._variables(),
        )

    @asynccontextmanager
    async def _scratch_database(self) -> AsyncIterator[None]:
        async with self._connection() as connection:
            try:
                await connection.execute("SELECT pg_advisory_lock($1)", _SCRATCH_LOCK)
            except asyncpg.LockNotAvailableError:
                raise BackupFailed(
                    f"another backup is being restored on trial in the database {self._scratch}; wait for it"
                ) from None
            drop = await connection.fetchval(
                "SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', $1::text)", self._scratch
            )
            await connection.execute(drop)  # what a run that was killed left
            await connection.execute(await connection.fetchval(_CREATE, self._scratch))
            try:
                yield
            finally:
                try:
                    await connection.execute(drop)
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                    log.warning("scratch_database_left", database=self._scratch, reason=str(error))

    @asynccontextmanager
    async def _connection(self, name: str | None = None) -> AsyncIterator[Connection]:
        """A connection whose work may take its time. What asyncpg raises becomes BackupFailed."""
        connection = await connect_direct(self._dsn(name), self._password)
        try:
            await connection.execute(_SESSION)
            yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise BackupFailed(f"the database did not carry it out: {error}") from error
        finally:
            connection.terminate()

    def _dsn(self, name: str | None = None) -> str:
        parts = self._parts if name is None else self._parts._replace(path=f"/{quote(name, safe='')}")
        return parts.geturl()

    def _variables(self) -> dict[str, str]:
        return {"PGPASSWORD": self._password} if self._password else {}


async def _server(connection: Connection) -> Server:
    row = await connection.fetchrow(_SERVER)
    assert row is not None
    return Server(**row)


async def _tables(connection: Connection) -> dict[str, str]:
    """Each table as it is written in a statement, with its schema."""
    return {row["name"]: row["schema"] for row in await connection.fetch(_TABLES)}


async def _count(connection: Connection, tables: Iterable[str]) -> dict[str, int]:
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables}  # noqa: S608  quoted by the server


async def _assert_rows(connection: Connection, part: DatabasePart) -> None:
    found = await _count(connection, await _tables(connection))
    wrong = [
        f"{table} has {found.get(table, 'no')} rows instead of {rows}"
        for table, rows in part.tables.items()
        if found.get(table) != rows
    ]
    if wrong:
        raise BackupFailed(f"restored, the dump is not what was dumped: {'; '.join(wrong[:5])}")


async def _available_timescaledb(connection: Connection) -> set[str]:
    rows = await connection.fetch(
        "SELECT version FROM pg_available_extension_versions WHERE name = 'timescaledb'"
    )
    return {row[0] for row in rows}


def _check_timescaledb(part: DatabasePart, available: set[str], server: Server) -> None:
    if part.timescaledb is None:
        if server.timescaledb:
            raise RestoreRefused(
                "the backup comes from a database without TimescaleDB and this one has it; "
                "as superuser run DROP EXTENSION timescaledb CASCADE, or use another database"
            )
        return
    if part.timescaledb not in available:
        has = ", ".join(sorted(available)) or "none"
        raise BackupUnusable(
            f"the backup needs TimescaleDB {part.timescaledb} and the server has {has}; install that "
            "version, restore, then update it: ALTER EXTENSION timescaledb UPDATE"
        )
