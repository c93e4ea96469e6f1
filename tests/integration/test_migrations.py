"""The numbered files of sql/, up and down, on plain PostgreSQL 15 and on a real TimescaleDB."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from gateway.database import Migration, Migrator, connect_direct, load_migrations, refresh_aggregates
from gateway.database.connection import Connection
from gateway.errors import ConfigurationError, GatewayError, SchemaError
from gateway.event import Event, as_edit, encode
from gateway.localstack import LocalStack
from tests.sink_events import CHANNEL, deleted, edited, new
from tests.timescaledb.server import timescaledb_server

NEWEST = load_migrations()[-1].version


@pytest_asyncio.fixture(scope="module")
async def timescaledb() -> AsyncIterator[str]:
    async with timescaledb_server() as dsn:
        yield dsn


@pytest_asyncio.fixture(scope="module")
async def servers() -> AsyncIterator[LocalStack]:
    """A PostgreSQL of its own: the other tests want their schema left in peace."""
    async with LocalStack(servers=("postgres", "pgbouncer")) as running:
        yield running


@pytest.fixture
def plain(servers: LocalStack) -> str:
    return servers.postgres.dsn


@pytest.fixture(params=["plain", "timescaledb"])
def dsn(request: pytest.FixtureRequest) -> str:
    value = request.getfixturevalue(request.param)
    assert isinstance(value, str)
    return value


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    connection = await connect_direct(dsn)
    yield connection
    connection.terminate()


@asynccontextmanager
async def emptied(dsn: str) -> AsyncIterator[Connection]:
    async with connected(dsn) as connection:
        await connection.execute("DROP SCHEMA IF EXISTS telegram_gateway, tp_capital CASCADE")
        yield connection


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Connection]:
    async with emptied(dsn) as connection:
        yield connection


@pytest.fixture
async def plain_database(plain: str) -> AsyncIterator[Connection]:
    async with emptied(plain) as connection:
        yield connection


@pytest.fixture
async def hypertable(timescaledb: str) -> AsyncIterator[Connection]:
    """The whole schema on TimescaleDB."""
    async with emptied(timescaledb) as connection:
        await up(connection)
        yield connection


async def up(connection: Connection, to: int | None = None) -> list[int]:
    done: list[Migration] = []
    await Migrator(connection, load_migrations()).migrate(done.append, to=to)
    return [migration.version for migration in done]


async def down(connection: Connection, to: int = 0) -> list[int]:
    done: list[Migration] = []
    await Migrator(connection, load_migrations()).rollback(done.append, to=to)
    return [migration.version for migration in done]


async def objects(connection: Connection) -> set[tuple[str, str]]:
    """Everything in our schemas, by kind and name."""
    rows = await connection.fetch(
        """
        SELECT 'relation ' || relkind::text AS kind, relname::text AS name
        FROM pg_class
        WHERE relnamespace IN (to_regnamespace('telegram_gateway'), to_regnamespace('tp_capital'))
        UNION ALL
        SELECT 'function', oid::regprocedure::text
        FROM pg_proc WHERE pronamespace = to_regnamespace('telegram_gateway')
        """
    )
    return {(row["kind"], row["name"]) for row in rows}


async def ingest(connection: Connection, *events: Event) -> int:
    return await ingest_bodies(connection, *[encode(event) for event in events])


async def ingest_bodies(connection: Connection, *bodies: bytes) -> int:
    count = await connection.fetchval("SELECT telegram_gateway.ingest($1)", f"[{b','.join(bodies).decode()}]")
    assert isinstance(count, int)
    return count


def with_its_edit(message: Event) -> tuple[bytes, bytes]:
    """A message that comes edited as the sink hands it over."""
    return encode(message), encode(as_edit(message)).removesuffix(b"}") + b',"derived":true}'


def corrected(message: Event) -> Event:
    return msgspec.structs.replace(message, text="corrigida", edit_date=message.received_at)


async def command(*arguments: str, **environment: str) -> tuple[int, str]:
    """Runs `telegram-gateway db …` as an operator does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "db", *arguments),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_up_down_and_up_again_gives_the_same_schema(database: Connection) -> None:
    everything = list(range(1, NEWEST + 1))
    assert await up(database) == everything
    first = await objects(database)
    assert await up(database) == []

    assert await down(database) == everything[::-1]
    assert await objects(database) == set()
    assert not await database.fetchval(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'telegram_gateway')"
    )

    assert await up(database) == everything
    assert await objects(database) == first


async def test_every_single_step_can_be_taken_back_and_done_again(database: Connection) -> None:
    for version in range(1, NEWEST + 1):
        before = await objects(database)
        assert await up(database, to=version) == [version]
        after = await objects(database)
        if version > 1:
            assert await down(database, to=version - 1) == [version]
            assert await objects(database) == before
            assert await up(database, to=version) == [version]
            assert await objects(database) == after


async def test_nothing_of_ours_runs_after_a_rollback(hypertable: Connection) -> None:
    await Migrator(hypertable, load_migrations()).set_retention(timedelta(days=90))
    assert len(await jobs(hypertable)) == 5
    await down(hypertable)
    assert await jobs(hypertable) == []


async def test_messages_is_a_hypertable_of_daily_chunks_by_its_own_date(hypertable: Connection) -> None:
    dimension = await hypertable.fetchrow(
        "SELECT column_name, time_interval FROM timescaledb_information.dimensions "
        "WHERE hypertable_name = 'messages'"
    )
    assert dimension is not None
    assert dict(dimension) == {"column_name": "telegram_date", "time_interval": timedelta(days=1)}
    settings = await hypertable.fetch(
        "SELECT attname FROM timescaledb_information.compression_settings "
        "WHERE hypertable_name = 'messages' AND segmentby_column_index IS NOT NULL "
        "ORDER BY segmentby_column_index"
    )
    assert [row["attname"] for row in settings] == ["channel_id", "account_scope"]


async def test_chunks_are_compressed_after_14_days_and_dropped_after_the_setting(
    hypertable: Connection,
) -> None:
    migrator = Migrator(hypertable, load_migrations())
    await migrator.set_retention(timedelta(days=90))
    found = {job["proc_name"]: json.loads(job["config"]) for job in await jobs(hypertable)}
    assert found["policy_compression"]["compress_after"] == "14 days"
    assert found["policy_retention"]["drop_after"] == "90 days"
    assert found["expire"] == {"keep": "90 days"}

    await migrator.set_retention(timedelta(days=5))
    found = {job["proc_name"]: json.loads(job["config"]) for job in await jobs(hypertable)}
    assert found["policy_retention"]["drop_after"] == "5 days"
    assert found["policy_refresh_continuous_aggregate"]["start_offset"] == "4 days"

    await migrator.set_retention(None)
    assert {job["proc_name"] for job in await jobs(hypertable)} == {
        "policy_compression",
        "policy_refresh_continuous_aggregate",
    }
    with pytest.raises(ConfigurationError, match=r"TELEGRAM_DB_RETENTION.*4 days"):
        await migrator.set_retention(timedelta(days=2))


async def test_retention_drops_old_messages_and_what_belongs_to_them(database: Connection) -> None:
    await up(database)
    migrator = Migrator(database, load_migrations())
    await migrator.set_retention(timedelta(days=90))
    old = datetime.now(UTC) - timedelta(days=100)
    await ingest(
        database,
        new(1, telegram_date=old, received_at=old),
        edited(1, "late", telegram_date=old, received_at=old),
        new(2),
        edited(2, "kept"),
    )
    await database.execute("SELECT telegram_gateway.record_processing('c', 0, $1, 1, 'published')", CHANNEL)
    await database.execute("UPDATE telegram_gateway.message_processing SET at = $1", old)
    await database.execute("SELECT telegram_gateway.record_processing('c', 0, $1, 2, 'published')", CHANNEL)

    if await migrator.is_hypertable():
        for job in await jobs(database):
            if job["proc_name"] in {"policy_retention", "expire"}:
                await database.execute(f"CALL run_job({job['job_id']})")
    else:
        await database.execute("""CALL telegram_gateway.expire(0, '{"keep": "90 days"}')""")

    for table in ("messages", "message_revisions", "message_processing"):
        rows = await database.fetch(f"SELECT message_id FROM telegram_gateway.{table}")
        assert [row[0] for row in rows] == [2], table


async def test_a_message_is_stored_once_and_never_updated(database: Connection) -> None:
    await up(database)
    message = new(1)
    assert await ingest(database, message, edited(1, "second")) == 2
    assert await ingest(database, message, message) == 0
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await database.execute("UPDATE telegram_gateway.messages SET text = 'changed'")
    rows = await database.fetch("SELECT text FROM telegram_gateway.messages")
    assert [row[0] for row in rows] == [message.text]


async def test_a_compressed_chunk_takes_late_messages_and_no_duplicates(hypertable: Connection) -> None:
    old = datetime.now(UTC) - timedelta(days=20)
    await ingest(hypertable, *[new(number, telegram_date=old) for number in range(1, 101)])
    compressed = await hypertable.fetch(
        "SELECT compress_chunk(c) FROM show_chunks('telegram_gateway.messages') c"
    )
    assert len(compressed) == 1

    again = [new(number, telegram_date=old) for number in range(50, 111)]
    assert await ingest(hypertable, *again) == 10
    assert await hypertable.fetchval("SELECT count(*) FROM telegram_gateway.messages") == 110


async def test_a_missed_edit_of_a_message_in_a_compressed_chunk_is_stored_and_no_other_chunk_touched(
    hypertable: Connection,
) -> None:
    dates = [datetime.now(UTC) - timedelta(days=days) for days in range(20, 40)]
    messages = [new(number, telegram_date=date) for number, date in enumerate(dates)]
    await ingest(hypertable, *messages)
    await hypertable.execute("SELECT compress_chunk(c) FROM show_chunks('telegram_gateway.messages') c")
    # A plan that serves any date is tried after a few times, and would name every chunk.
    for message in messages[:10]:
        async with hypertable.transaction():
            assert await ingest_bodies(hypertable, *with_its_edit(corrected(message))) == 1
            assert await ingest_bodies(hypertable, *with_its_edit(corrected(message))) == 0
            locked = await hypertable.fetchval(
                "SELECT count(*) FROM show_chunks('telegram_gateway.messages') c "
                "WHERE EXISTS (SELECT FROM pg_locks l WHERE l.relation = c)"
            )
            assert locked == 1
    for view in ("messages_current", "messages_newest"):
        rows = await hypertable.fetch(f"SELECT text FROM telegram_gateway.{view} ORDER BY message_id")
        assert [row[0] for row in rows] == ["corrigida"] * 10 + [message.text for message in messages[10:]]
    compressed = await hypertable.fetch("SELECT is_compressed FROM timescaledb_information.chunks")
    assert [row[0] for row in compressed] == [True] * 20


async def test_a_derived_edit_counts_only_where_it_is_one_and_is_no_event_of_its_own(
    database: Connection,
) -> None:
    await up(database)
    stored = [new(number) for number in (1, 2, 3)]
    assert await ingest_bodies(database, *with_its_edit(corrected(stored[0]))) == 1
    assert await ingest(database, *stored) == 2
    for expected in (2, 0):
        bodies = [body for event in stored for body in with_its_edit(corrected(event))]
        assert await ingest_bodies(database, *bodies) == expected
    message, edit = with_its_edit(corrected(new(5, chat_title="As the message has it")))
    await ingest_bodies(database, message, edit.replace(b"As the message has it", b"As nobody has it"))
    assert await database.fetchval("SELECT title FROM telegram_gateway.channels") == "As the message has it"
    rows = await database.fetch("SELECT message_id FROM telegram_gateway.message_revisions ORDER BY revision")
    assert [row[0] for row in rows] == [2, 3]


@pytest.mark.parametrize(("version", "function"), [(19, "ingest"), (20, "mark_processed")])
async def test_taking_a_function_back_leaves_the_one_of_before(
    database: Connection, version: int, function: str
) -> None:
    definition = f"SELECT pg_get_functiondef('telegram_gateway.{function}'::regproc)"
    await up(database, to=version - 1)
    before = await database.fetchval(definition)
    await up(database, to=version)
    assert await database.fetchval(definition) != before
    await down(database, to=version - 1)
    assert await database.fetchval(definition) == before


async def test_the_current_view_shows_the_newest_content_and_what_was_deleted(database: Connection) -> None:
    await up(database)
    posted: dict[str, Any] = {"telegram_date": datetime.now(UTC) - timedelta(days=2)}
    await ingest(
        database,
        new(1, text="as posted", **posted),
        new(2, text="as posted", **posted),
        edited(2, "first edit", 1000, **posted),
        edited(2, "second edit", 2000, **posted),
        new(3, text="gone", **posted),
        edited(3, "changed, then gone", 1, **posted),
        deleted(3),
        edited(4, "posted before the account joined", 1, **posted),
        edited(4, "and edited twice", 2, **posted),
        deleted(5),
        new(6, text=None, caption="a photo", media_type="photo", media={"width": 1280}, **posted),
        edited(6, "another text", 1, media_type="photo", media={"width": 640}, **posted),
    )
    # Arrives late and out of order: an older edit does not win.
    await ingest(database, edited(2, "zeroth edit", 500, **posted))
    # Backfilled after the edit was seen, and already carries a newer one.
    now = datetime.now(UTC)
    await ingest(database, edited(7, "older than the row", 1, **posted))
    await ingest(database, new(7, text="as it is now", edit_date=now + timedelta(seconds=900), **posted))

    rows = await database.fetch(
        "SELECT message_id, coalesce(text, caption) AS words, is_deleted, media ->> 'width' AS width "
        "FROM telegram_gateway.messages_current ORDER BY message_id"
    )
    assert [tuple(row) for row in rows] == [
        (1, "as posted", False, None),
        (2, "second edit", False, None),
        (3, "changed, then gone", True, None),
        (4, "and edited twice", False, None),
        (6, "another text", False, "640"),
        (7, "as it is now", False, None),
    ]


async def test_channels_know_their_name_and_their_first_and_last_message(database: Connection) -> None:
    await up(database)
    base = datetime(2026, 5, 1, 12, tzinfo=UTC)
    at = [base + timedelta(minutes=minute) for minute in range(10)]
    await ingest(
        database,
        new(11, chat_title="Old name", telegram_date=at[1], received_at=at[1]),
        new(12, chat_title="New name", chat_username="sinais", telegram_date=at[2], received_at=at[2]),
        deleted(11),
    )
    # History and a replay: neither brings the old name back nor moves the last message.
    await ingest(database, new(10, chat_title="Oldest name", telegram_date=at[0], received_at=at[0]))
    row = await database.fetchrow("SELECT * FROM telegram_gateway.channels")
    assert row is not None
    assert {name: value for name, value in row.items() if name not in {"seen_at", "updated_at"}} == {
        "account_scope": 0,
        "id": CHANNEL,
        "title": "New name",
        "username": "sinais",
        "type": "channel",
        "is_active": True,
        "first_message_id": 10,
        "first_message_date": at[0],
        "last_message_id": 12,
        "last_message_date": at[2],
        "hidden_at": None,
        "switched_at": None,
        "version": 0,
    }


async def test_search_finds_portuguese_words_with_and_without_accents(database: Connection) -> None:
    await up(database)
    await ingest(
        database,
        new(1, text="Operação de COMPRA em PETR4"),
        new(2, text=None, caption="Gráfico: opções compradas"),
        new(3, text="Bom dia"),
    )
    query = """
        SELECT message_id FROM telegram_gateway.messages
        WHERE telegram_gateway.search_document(text, caption) @@ telegram_gateway.search_query($1)
        ORDER BY 1
    """
    for words, expected in [
        ("operacao", [1]),
        ("Operações", [1]),
        ("comprar", [1, 2]),
        ("grafico", [2]),
        ("dia -bom", []),
        ("petr4 or dia", [1, 3]),
    ]:
        assert [row[0] for row in await database.fetch(query, words)] == expected, words
    await database.execute("SET enable_seqscan = off")
    plan = await database.fetch("EXPLAIN " + query.replace("$1", "'petr4'"))
    await database.execute("RESET enable_seqscan")
    assert "messages_search" in "\n".join(row[0] for row in plan)


async def test_hourly_and_daily_counts_equal_the_messages(database: Connection) -> None:
    await up(database)
    day = datetime(2026, 5, 4, tzinfo=UTC)
    dates = [day + timedelta(hours=hour, minutes=1) for hour in (0, 0, 5, 23, 24, 30)]
    await ingest(
        database,
        *[new(number, telegram_date=date) for number, date in enumerate(dates)],
        new(1, telegram_date=day, channel="-1002"),
        new(7, telegram_date=day, source="backfill", media_type="photo"),
    )
    if await Migrator(database, load_migrations()).is_hypertable():
        for view in ("messages_hourly", "messages_daily"):
            await database.execute(
                f"CALL refresh_continuous_aggregate('telegram_gateway.{view}', NULL, NULL)"
            )
    daily = await database.fetch(
        "SELECT bucket, messages, with_media, not_live, first_message_id, last_message_id "
        "FROM telegram_gateway.messages_daily WHERE channel_id = $1 ORDER BY bucket",
        CHANNEL,
    )
    assert [tuple(row) for row in daily] == [(day, 5, 1, 1, 0, 7), (day + timedelta(days=1), 2, 0, 0, 4, 5)]
    hourly = await database.fetch(
        "SELECT extract(hour FROM bucket AT TIME ZONE 'UTC')::int, messages "
        "FROM telegram_gateway.messages_hourly WHERE channel_id = $1 ORDER BY bucket",
        CHANNEL,
    )
    assert [tuple(row) for row in hourly] == [(0, 3), (5, 1), (23, 1), (0, 1), (6, 1)]


async def test_an_aggregate_is_refreshed_by_its_policy_and_shows_what_it_has_not_seen(
    hypertable: Connection,
) -> None:
    await Migrator(hypertable, load_migrations()).set_retention(timedelta(days=90))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await ingest(hypertable, new(1, telegram_date=yesterday))
    for job in await jobs(hypertable):
        if job["proc_name"] == "policy_refresh_continuous_aggregate":
            await hypertable.execute(f"CALL run_job({job['job_id']})")
    await ingest(hypertable, new(2))
    assert await hypertable.fetchval("SELECT sum(messages) FROM telegram_gateway.messages_hourly") == 2


async def test_monitoring_views_show_consumers_channels_and_rates(database: Connection) -> None:
    await up(database)
    await ingest(
        database, new(1), new(2, telegram_date=datetime.now(UTC) - timedelta(hours=3), channel="-1002")
    )
    record = "SELECT telegram_gateway.record_processing($1, 0, $2, 1, $3, $4)"
    for consumer, status, error in [
        ("tp-capital", "received", None),
        ("tp-capital", "retrying", "timeout"),
        ("tp-capital", "published", None),
        ("tp-capital", "failed", "a retry that came too late"),
        ("audit", "ignored", None),
    ]:
        await database.execute(record, consumer, CHANNEL, status, error)
    stats = await database.fetch(
        "SELECT consumer, status, messages, most_attempts "
        "FROM telegram_gateway.message_processing_stats ORDER BY 1"
    )
    assert [tuple(row) for row in stats] == [("audit", "ignored", 1, 1), ("tp-capital", "published", 1, 2)]
    health = await database.fetch(
        "SELECT id, health, messages_last_day FROM telegram_gateway.channel_health_summary"
    )
    assert {tuple(row) for row in health} == {(CHANNEL, "active", 1), ("-1002", "quiet", 1)}
    rate = await database.fetchrow("SELECT * FROM telegram_gateway.performance_metrics_realtime")
    assert rate is not None
    assert (rate["messages"], rate["chats"]) == (1, 1)
    assert -1 < rate["storage_p99_seconds"] < 60


async def test_a_file_that_was_changed_after_it_was_applied_is_refused(
    plain_database: Connection, tmp_path: Path
) -> None:
    write(tmp_path, "0001_one", "CREATE TABLE telegram_gateway.one ()", "DROP TABLE telegram_gateway.one")
    await Migrator(plain_database, load_migrations(tmp_path)).migrate(print)
    write(
        tmp_path, "0001_one", "CREATE TABLE telegram_gateway.one (a int)", "DROP TABLE telegram_gateway.one"
    )
    changed = Migrator(plain_database, load_migrations(tmp_path))
    assert [step.state for step in await changed.steps()] == ["changed"]
    with pytest.raises(SchemaError, match=r"0001_one\.up\.sql is not the file"):
        await changed.migrate(print)
    with pytest.raises(SchemaError, match=r"0001_one\.up\.sql is not the file"):
        await changed.rollback(print, to=0)


async def test_a_failing_migration_leaves_no_trace_and_the_ones_before_it_stay(
    plain_database: Connection, tmp_path: Path
) -> None:
    write(tmp_path, "0001_one", "CREATE TABLE telegram_gateway.one ()", "DROP TABLE telegram_gateway.one")
    write(tmp_path, "0002_two", "CREATE TABLE telegram_gateway.two (); SELECT 1 / 0", "SELECT 1")
    migrator = Migrator(plain_database, load_migrations(tmp_path))
    with pytest.raises(SchemaError, match=r"0002_two\.up\.sql failed: division by zero"):
        await migrator.migrate(print)
    assert [step.state for step in await migrator.steps()] == ["applied", "pending"]
    assert ("relation r", "two") not in await objects(plain_database)


async def test_a_step_that_cannot_run_in_a_transaction_runs_outside_of_one(
    plain_database: Connection, tmp_path: Path
) -> None:
    write(
        tmp_path, "0001_one", "CREATE TABLE telegram_gateway.one (a int)", "DROP TABLE telegram_gateway.one"
    )
    head = "-- gateway: no-transaction\n"
    write(
        tmp_path,
        "0002_index",
        head + "CREATE INDEX CONCURRENTLY IF NOT EXISTS one_a ON telegram_gateway.one (a)",
        head + "DROP INDEX CONCURRENTLY IF EXISTS telegram_gateway.one_a",
    )
    migrator = Migrator(plain_database, load_migrations(tmp_path))
    await migrator.migrate(print)
    assert ("relation i", "one_a") in await objects(plain_database)
    await migrator.rollback(print, to=1)
    assert ("relation i", "one_a") not in await objects(plain_database)


@pytest.mark.parametrize("name", ["0002_gap.up.sql", "0001_alone.up.sql", "notes.sql"])
def test_files_that_form_no_chain_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(SchemaError):
        load_migrations(tmp_path)


async def test_two_migrations_at_once_apply_everything_once(
    plain: str, plain_database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two of them wait for all that the first one does, which on a busy machine is long.
    monkeypatch.setattr("gateway.database.migrations._LOCK_TIMEOUT", "120s")

    async def run() -> list[int]:
        connection = await connect_direct(plain)
        try:
            return await up(connection)
        finally:
            connection.terminate()

    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(run()) for _ in range(3)]
    assert sorted(run.result() for run in runs) == [[], [], list(range(1, NEWEST + 1))]


async def test_a_migration_that_waits_too_long_for_another_says_so(
    plain: str, plain_database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.database.migrations._LOCK_TIMEOUT", "200ms")
    monkeypatch.setattr("gateway.database.migrations._LOCK_KEY", 77)
    await plain_database.execute("SELECT pg_advisory_lock(77)")
    other = await connect_direct(plain)
    try:
        with pytest.raises(GatewayError, match="another migration of this database is running"):
            await up(other)
    finally:
        other.terminate()


async def test_the_command_migrates_shows_and_rolls_back(database: Connection, dsn: str) -> None:
    timescale = await Migrator(database, load_migrations()).timescaledb_version() is not None
    # TimescaleDB in the tests has room for one connection.
    database.terminate()
    environment = {"TELEGRAM_DB_DIRECT_DSN": dsn, "TELEGRAM_DB_RETENTION": "30d"}
    code, output = await command("migrate", **environment)
    assert code == 0
    assert "applied 0001_messages" in output
    said = (
        "messages is a hypertable, kept for 30 days"
        if timescale
        else "no TimescaleDB: messages is a plain table"
    )
    assert said in output

    code, output = await command("status", "--json", **environment)
    report: dict[str, Any] = json.loads(output)
    assert code == 0
    assert report["current"] is True
    assert report["hypertable"] is timescale
    assert [step["state"] for step in report["migrations"]] == ["applied"] * NEWEST

    code, output = await command("rollback", "--steps", "2", **environment)
    assert (code, output.count("rolled back")) == (0, 2)
    code, output = await command("status", **environment)
    assert (code, output.count("pending")) == (0, 2)
    code, output = await command("rollback", "--to", "0", **environment)
    assert (code, output.count("rolled back")) == (0, NEWEST - 2)


async def test_the_command_refuses_what_it_must_with_one_line_and_exit_78(
    servers: LocalStack, plain: str, plain_database: Connection
) -> None:
    code, output = await command("migrate", TELEGRAM_DB_DIRECT_DSN=servers.pgbouncer.dsn())
    assert (code, output.count("\n")) == (78, 1)
    assert "TELEGRAM_DB_DIRECT_DSN leads to a connection pooler" in output

    await up(plain_database)
    await plain_database.execute(
        "INSERT INTO telegram_gateway.schema_migrations (version, name, checksum, duration_ms) "
        "VALUES ($1, 'future', '', 0)",
        NEWEST + 1,
    )
    for arguments in (["migrate"], ["rollback"]):
        code, output = await command(*arguments, TELEGRAM_DB_DIRECT_DSN=plain)
        assert (code, output.count("\n")) == (78, 1)
        assert f"is at schema version {NEWEST + 1}" in output

    code, output = await command("status", TELEGRAM_DB_DIRECT_DSN=plain, TELEGRAM_DB_PASSWORD="wrong")
    assert (code, output.count("\n")) == (78, 1)
    assert "TELEGRAM_DB_PASSWORD" in output
    code, output = await command("status", TELEGRAM_DB_DIRECT_DSN="postgresql://telegram@127.0.0.1:1/x")
    assert (code, output.count("\n")) == (1, 1)
    assert "cannot connect to PostgreSQL at 127.0.0.1:1" in output


def write(directory: Path, name: str, up: str, down: str) -> None:
    (directory / f"{name}.up.sql").write_text(up)
    (directory / f"{name}.down.sql").write_text(down)


async def jobs(connection: Connection) -> list[asyncpg.Record]:
    """Our jobs: by their hypertable, which for an aggregate's is the one that TimescaleDB keeps it in."""
    return await connection.fetch(
        "SELECT job_id, proc_name, config FROM timescaledb_information.jobs "
        "WHERE proc_name NOT IN ('policy_telemetry', 'policy_job_stat_history_retention') ORDER BY job_id"
    )


async def test_counts_of_backfilled_days_are_brought_up_to_date_within_what_is_kept(timescaledb: str) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    dates = [today - timedelta(days=days, hours=-5) for days in (60, 60, 30)]
    daily = "SELECT bucket, messages FROM telegram_gateway.messages_daily ORDER BY bucket"
    async with emptied(timescaledb) as connection:
        await up(connection)
        migrator = Migrator(connection, load_migrations())
        await migrator.set_retention(timedelta(days=90))
        await ingest(connection, new(1, telegram_date=today - timedelta(hours=1)))
        for view in ("messages_hourly", "messages_daily"):
            await connection.execute(
                f"CALL refresh_continuous_aggregate('telegram_gateway.{view}', NULL, '{today.isoformat()}')"
            )
        await ingest(connection, *[new(2 + n, telegram_date=date) for n, date in enumerate(dates)])
        assert (
            len(await connection.fetch(daily)) == 1
        )  # what the policy's last days do not reach stays unseen
    # The server has room for one connection.
    await refresh_aggregates(timescaledb, today - timedelta(days=1000), datetime.now(UTC))
    async with connected(timescaledb) as connection:
        counted = {row["bucket"]: row["messages"] for row in await connection.fetch(daily)}
        assert counted == {
            today - timedelta(days=60): 2,
            today - timedelta(days=30): 1,
            today - timedelta(days=1): 1,
        }
        hourly = await connection.fetchval("SELECT sum(messages) FROM telegram_gateway.messages_hourly")
        assert hourly == 4
        # What comes in now is still seen at once.
        await ingest(connection, new(9, telegram_date=datetime.now(UTC)))
        assert await connection.fetchval("SELECT sum(messages) FROM telegram_gateway.messages_hourly") == 5
        # Retention drops the messages; a refresh that reaches behind it does not drop their counts.
        await Migrator(connection, load_migrations()).set_retention(timedelta(days=45))
        for job in await jobs(connection):
            if job["proc_name"] == "policy_retention":
                await connection.execute(f"CALL run_job({job['job_id']})")
        assert await connection.fetchval("SELECT count(*) FROM telegram_gateway.messages") == 3
    await refresh_aggregates(timescaledb, today - timedelta(days=80), datetime.now(UTC))
    async with connected(timescaledb) as connection:
        assert len(await connection.fetch(daily)) == len(counted) + 1


async def test_without_timescaledb_there_are_no_counts_to_bring_up_to_date(
    plain_database: Connection, plain: str
) -> None:
    await up(plain_database)
    await ingest(plain_database, new(1, telegram_date=datetime.now(UTC) - timedelta(days=30)))
    await refresh_aggregates(plain, datetime.now(UTC) - timedelta(days=31), datetime.now(UTC))
    assert await plain_database.fetchval("SELECT sum(messages) FROM telegram_gateway.messages_daily") == 1
