"""What a database holds, and what its server and a role there can do: asked before, compared after."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from gateway.backup.manifest import DatabasePart
from gateway.database.connection import Connection
from gateway.errors import BackupFailed, BackupUnusable, ConfigurationError, RestoreRefused

_FROM_MIGRATIONS = {"telegram_gateway.schema_migrations", "telegram_gateway.arrival_horizon"}

_SERVER = """
SELECT current_setting('server_version') AS version,
    current_setting('server_version_num')::int / 10000 AS major,
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
    current_user AS role, rolsuper AS superuser, rolcreatedb OR rolsuper AS may_create
FROM pg_roles WHERE rolname = current_user
"""
# Neither PostgreSQL's nor an extension's; TimescaleDB's chunks are counted through their hypertable.
SCHEMAS = """
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
_TIMESCALEDB_VERSIONS = "SELECT version FROM pg_available_extension_versions WHERE name = 'timescaledb'"
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


async def server_of(connection: Connection) -> Server:
    """The server, and the role that is connected."""
    row = await connection.fetchrow(_SERVER)
    assert row is not None
    return Server(**row)


async def tables_of(connection: Connection) -> dict[str, str]:
    """Each table as it is written in a statement, with its schema."""
    return {row["name"]: row["schema"] for row in await connection.fetch(_TABLES)}


async def count_rows(connection: Connection, tables: Iterable[str]) -> dict[str, int]:
    """The rows of each of `tables`, which are quoted as they have to be."""
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables}  # noqa: S608  quoted by the server


async def assert_rows(connection: Connection, part: DatabasePart) -> None:
    """Raises BackupFailed unless every table has the rows that were dumped."""
    found = await count_rows(connection, await tables_of(connection))
    wrong = [
        f"{table} has {found.get(table, 'no')} rows instead of {rows}"
        for table, rows in part.tables.items()
        if found.get(table) != rows
    ]
    if wrong:
        raise BackupFailed(f"restored, the dump is not what was dumped: {'; '.join(wrong[:5])}")


async def assert_restorable(connection: Connection, part: DatabasePart) -> None:
    """Raises NeedsOperator, or one of its kinds, where this role cannot restore the dump on this server."""
    server = await server_of(connection)
    if part.timescaledb is None:
        if server.timescaledb:
            raise RestoreRefused(
                "the backup comes from a database without TimescaleDB and this one has it; "
                "as superuser run DROP EXTENSION timescaledb CASCADE, or use another database"
            )
        return
    require_superuser(server)
    rows = await connection.fetch(_TIMESCALEDB_VERSIONS)
    if part.timescaledb not in {row[0] for row in rows}:
        has = ", ".join(sorted(row[0] for row in rows)) or "none"
        raise BackupUnusable(
            f"the backup needs TimescaleDB {part.timescaledb} and the server has {has}; install that "
            "version, restore, then update it: ALTER EXTENSION timescaledb UPDATE"
        )


def require_superuser(server: Server) -> None:
    """Raises ConfigurationError: nobody else may write to the extension's catalog, as its restore does."""
    if not server.superuser:
        raise ConfigurationError(
            f"PostgreSQL role {server.role} cannot restore a TimescaleDB database, which each backup is on "
            "trial: name a superuser in TELEGRAM_BACKUP_DB_USER and give its password in "
            "TELEGRAM_BACKUP_DB_PASSWORD (systemd credential backup_db_password)"
        )


async def assert_replaceable(
    connection: Connection, part: DatabasePart, own: Collection[str], *, replace: bool
) -> None:
    """Raises RestoreRefused when the database is in use, or holds something that may not be replaced.

    `own` are the lease holders that are known to have stopped.
    """
    schema_of = await tables_of(connection)
    if "telegram_gateway.account_leases" in schema_of:
        holders = {row["holder"] for row in await connection.fetch(_LIVE_HOLDERS)} - set(own)
        if holders:
            raise RestoreRefused(
                f"the database is in use by {', '.join(sorted(holders))}; stop that gateway first"
            )
    stays = [name for name, schema in schema_of.items() if name in part.tables and schema not in part.schemas]
    if stays:
        raise RestoreRefused(
            f"the backup holds {', '.join(stays)}, which the database has too and which is not the "
            "gateway's; move it to another schema or drop it first"
        )
    tables = [
        name for name, schema in schema_of.items() if schema in part.schemas and name not in _FROM_MIGRATIONS
    ]
    held = {table: rows for table, rows in (await count_rows(connection, tables)).items() if rows}
    if held and not replace:
        most = max(held, key=lambda table: held[table])
        raise RestoreRefused(
            f"the database {part.name} holds data ({most}: {held[most]} rows); "
            "to delete it and put the backup in its place: --replace"
        )
