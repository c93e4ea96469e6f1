"""The copy into a real TimescaleDB: chunks that are compressed already take what comes late."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest_asyncio

from gateway.database import Migrator, load_migrations
from gateway.database.connection import connect_direct
from gateway.localstack import LocalStack
from gateway.migration.compare import compare
from gateway.migration.copy import carry
from gateway.migration.new import NewDatabase, new_database
from gateway.migration.old import old_table
from gateway.migration.state import Plan
from gateway.settings import Settings, load_settings
from tests import old_stack
from tests.migration_rig import ask
from tests.timescaledb.server import timescaledb_server

ROWS = 1500
DAYS = 40


_COLUMNS = """
SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = 'staged'::regclass AND attnum > 0 ORDER BY attnum
"""


class WithoutCopy(NewDatabase):
    """The server in WebAssembly dies of a COPY inside a transaction: the same rows, inserted."""

    async def stage(self, lines: Sequence[bytes]) -> None:
        columns = await self.connection.fetch(_COLUMNS)
        rows = [[_text(field) for field in line.decode().rstrip("\n").split("\t")] for line in lines]
        values = ", ".join(f"(f ->> {place})::{type_}" for place, (_, type_) in enumerate(columns))
        for start in range(0, len(rows), 50):
            await self.connection.execute(
                f"INSERT INTO staged SELECT {values} FROM json_array_elements($1::json) f",
                json.dumps(rows[start : start + 50]),
            )


def _text(field: str) -> str | None:
    """What a field of COPY's text format stands for."""
    if field == "\\N":
        return None
    return field.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")


@pytest_asyncio.fixture(scope="module")
async def old_dsn() -> AsyncIterator[str]:
    async with LocalStack(servers=("postgres",)) as running:
        dsn = await old_stack.create_database(running.postgres.admin_dsn)
        await old_stack.fill(dsn, rows=ROWS, days=DAYS)
        yield dsn


@pytest_asyncio.fixture(scope="module")
async def settings() -> AsyncIterator[Settings]:
    async with timescaledb_server() as dsn:
        connection = await connect_direct(dsn)
        await Migrator(connection, load_migrations()).migrate(lambda _: None)
        connection.terminate()
        yield load_settings(db_direct_dsn=dsn, state_dir=Path("/nonexistent"))


async def test_what_comes_late_reaches_compressed_chunks_too(old_dsn: str, settings: Settings) -> None:
    async with old_table(old_dsn, None) as old, new_database(settings) as found_there:
        new = WithoutCopy(found_there.connection, found_there.timescaledb)
        assert new.timescaledb
        await carry(old, new, Plan(), await compare(old, new, Plan()), lambda _: None)
        assert not (await compare(old, new, Plan())).different
        await new.connection.execute(
            "SELECT compress_chunk(c) "
            "FROM show_chunks('telegram_gateway.messages', older_than => interval '14 days') c"
        )
        await ask(
            old_dsn,
            "UPDATE telegram_gateway.messages SET text = 'corrigido', updated_at = now() "
            "WHERE message_id = '5'",
        )
        await ask(
            old_dsn,
            "INSERT INTO telegram_gateway.messages (channel_id, message_id, text, telegram_date) "
            "SELECT channel_id, (900000 + message_id::bigint)::text, 'tardia', telegram_date "
            "FROM telegram_gateway.messages WHERE message_id IN ('6', '60')",
        )
        found = await compare(old, new, Plan())
        assert found.different
        await carry(old, new, Plan(), found, lambda _: None)
        assert not (await compare(old, new, Plan())).different
