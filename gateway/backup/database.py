"""The database: dumped in one snapshot with its row counts, restored on trial, and put back."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import asyncpg
import structlog

from gateway.backup.inventory import (
    SCHEMAS,
    assert_replaceable,
    assert_restorable,
    assert_rows,
    count_rows,
    require_superuser,
    server_of,
    tables_of,
)
from gateway.backup.manifest import DatabasePart
from gateway.backup.programs import client_program, run
from gateway.database import read_events
from gateway.database.connection import CONNECTION_LOST, Connection, connect_direct
from gateway.errors import BackupFailed, ConfigurationError, SchemaError
from gateway.event import Event
from gateway.settings import Settings

log = structlog.get_logger()

FILE = "database.dump"
_SCRATCH_LOCK = 6434_4007  # any fixed number but the migrations': who has it may use the scratch database
_CLOCKS_APART = timedelta(days=1)
_LOCK_WAIT = "60s"  # for a table that a migration holds, and for the scratch database
_SESSION = f"""
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '{_LOCK_WAIT}'
"""

_CREATE = """
SELECT format(
    'CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    $1::text, pg_encoding_to_char(encoding), datcollate, datctype
)
FROM pg_database WHERE datname = current_database()
"""
_CREATE_TIMESCALEDB = "SELECT format('CREATE EXTENSION timescaledb SCHEMA public VERSION %L', $1::text)"


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

    async def check_reachable(self) -> None:
        """Raises SinkUnavailable or ConfigurationError when the database cannot be asked."""
        async with self._connection():
            pass

    async def check_may_prove(self) -> None:
        """Raises ConfigurationError when the role can make no scratch database to restore a dump into."""
        async with self._connection() as connection:
            server = await server_of(connection)
        if server.timescaledb:
            require_superuser(server)
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
            server = await server_of(connection)
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
                schemas=tuple(row["name"] for row in await connection.fetch(SCHEMAS)),
                # Counting takes the locks that keep a chunk from being dropped before it is dumped.
                tables=await count_rows(connection, await tables_of(connection)),
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
                await assert_rows(connection, part)

    async def check_replaceable(self, part: DatabasePart, own: Collection[str], *, replace: bool) -> None:
        """Raises NeedsOperator, or one of its kinds, when `restore` must not or cannot be carried out."""
        async with self._connection() as connection:
            await assert_restorable(connection, part)
            await assert_replaceable(connection, part, own, replace=replace)

    async def restore(self, directory: Path, part: DatabasePart) -> None:
        """Replaces the gateway's schemas by the backup's; raises BackupFailed unless all rows are there."""
        async with self._connection() as connection, connection.transaction():
            for row in await connection.fetch(SCHEMAS):
                if row["name"] in part.schemas:
                    await connection.execute(f"DROP SCHEMA {row['quoted']} CASCADE")
            if part.timescaledb:
                # Its catalog has to be as new for what the dump puts there.
                await connection.execute("DROP EXTENSION IF EXISTS timescaledb CASCADE")
        try:
            await self._load(directory / part.file, part, self.name)
            async with self._connection() as connection:
                if part.timescaledb:
                    await connection.execute("SELECT public.timescaledb_post_restore()")
                await assert_rows(connection, part)
                await connection.execute("ANALYZE")
        except BackupFailed as error:
            raise BackupFailed(
                f"{error}. The database {self.name} is without its data now; "
                "put that right and run the restore again"
            ) from error

    @asynccontextmanager
    async def events(self, since: datetime) -> AsyncIterator[AsyncIterator[Event]]:
        """What it holds that was received since, in the order of arrival; nothing without a schema."""
        async with self._connection() as connection:
            known = await connection.fetchval("SELECT to_regclass('telegram_gateway.event_log') IS NOT NULL")
            until = datetime.now(UTC) + _CLOCKS_APART
            yield read_events(connection, since, until if known else since)

    @property
    def _scratch(self) -> str:
        return f"{self.name}_scratch"

    async def _load(self, file: Path, part: DatabasePart, name: str) -> None:
        async with self._connection(name) as connection:
            server = await server_of(connection)
            if part.timescaledb:
                await assert_restorable(connection, part)
                await connection.execute(await connection.fetchval(_CREATE_TIMESCALEDB, part.timescaledb))
                await connection.execute("SELECT public.timescaledb_pre_restore()")
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
                except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
                    log.warning("scratch_database_left", database=self._scratch, reason=str(error))

    @asynccontextmanager
    async def _connection(self, name: str | None = None) -> AsyncIterator[Connection]:
        """A connection whose work may take its time. What asyncpg raises becomes BackupFailed."""
        connection = await connect_direct(self._dsn(name), self._password)
        try:
            await connection.execute(_SESSION)
            yield connection
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            raise BackupFailed(f"the database did not carry it out: {error}") from error
        finally:
            connection.terminate()

    def _dsn(self, name: str | None = None) -> str:
        parts = self._parts if name is None else self._parts._replace(path=f"/{quote(name, safe='')}")
        return parts.geturl()

    def _variables(self) -> dict[str, str]:
        return {"PGPASSWORD": self._password} if self._password else {}
