"""Backups of sessions, journal and a real PostgreSQL's database: what counts as one, and what comes back."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from gateway.backup.create import create_backup, verify_backup
from gateway.backup.restore import Restore
from gateway.backup.shelf import Shelf
from gateway.backup.stamp import read_stamp
from gateway.database import Migrator, load_migrations, require_schema
from gateway.errors import (
    BackupFailed,
    BackupUnusable,
    ConfigurationError,
    JournalUnusable,
    RestoreRefused,
    SinkUnavailable,
)
from gateway.event import encode
from gateway.journal import Batch, Journal, open_reader, read_stats
from gateway.localstack import LocalStack
from gateway.settings import Settings, load_settings
from gateway.telegram.session import SessionDirectory, StoredSession
from tests.sink_events import new

EVERYTHING = ("database", "sessions", "journal")
SESSION = StoredSession(2, "149.154.167.51", 443, bytes(range(256)))
OTHER_SESSION = StoredSession(4, "149.154.167.91", 443, bytes(reversed(range(256))))
SCRATCH = "telegram_gateway_scratch"
PATIENCE_SECONDS = 90.0


@dataclass
class Site:
    """A gateway's directories and its database, and what an operator does with their backups."""

    directory: Path
    stack: LocalStack

    def __post_init__(self) -> None:
        self.state = self.directory / "state"
        self.shelf = self.directory / "backups"
        self.sessions = SessionDirectory(self.directory / "session")
        admin = urlsplit(self.stack.postgres.admin_dsn)
        self.variables = {
            "state_dir": str(self.state),
            "session_dir": str(self.sessions.path),
            "backup_dir": str(self.shelf),
            "db_direct_dsn": self.stack.postgres.dsn,
            "backup_db_user": str(admin.username),
            "backup_db_password": str(admin.password),
        }

    def settings(self, **changes: str) -> Settings:
        return load_settings(**(self.variables | changes))

    async def backup(self, **changes: str) -> Path:
        return await create_backup(self.settings(**changes), print)

    async def verify(self, name: str | Path = "latest") -> None:
        settings = self.settings()
        await verify_backup(settings, Shelf(settings.backup_dir).find(str(name)))

    async def restore(self, *parts: str, replace: bool = False) -> None:
        settings = self.settings()
        path = Shelf(settings.backup_dir).find("latest")
        await Restore(settings, path, set(parts or EVERYTHING), replace=replace).run(print)

    async def command(self, *arguments: str) -> asyncio.subprocess.Process:
        """The command line, as a process of its own."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "backup", *arguments),
            env=os.environ | {f"TELEGRAM_{name.upper()}": value for name, value in self.variables.items()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def answer(self, *arguments: str) -> str:
        """What a command that succeeds says."""
        process = await self.command(*arguments)
        said, _ = await process.communicate()
        assert process.returncode == 0, said
        return said.decode()

    def names(self) -> list[Path]:
        """What counts as a backup, and what only might be taken for one."""
        return [path for path in self.shelf.iterdir() if path.name != ".lock"]

    async def messages(self) -> int:
        async with connected(self.stack) as connection:
            return int(await connection.fetchval("SELECT count(*) FROM telegram_gateway.messages"))

    async def databases(self) -> set[str]:
        async with connected(self.stack) as connection:
            return {row[0] for row in await connection.fetch("SELECT datname FROM pg_database")}

    async def receive(self, *numbers: int, stored: bool = True, **fields: Any) -> None:
        """Messages in the journal and, with `stored`, in the database too."""
        events = [new(number, **fields) for number in numbers]
        async with Journal(self.state / "journal.db", sinks=("timescaledb",)) as journal:
            await journal.append(Batch("main", events))
            if stored:
                await journal.advance("timescaledb", journal.last_seq)
        if stored:
            body = "[" + ",".join(encode(event).decode() for event in events) + "]"
            async with connected(self.stack) as connection:
                await connection.fetchval("SELECT telegram_gateway.ingest($1)", body)


@asynccontextmanager
async def connected(stack: LocalStack) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(stack.postgres.dsn, ssl=False)
    try:
        yield connection
    finally:
        await connection.close()


@pytest_asyncio.fixture(scope="module")
async def stack() -> AsyncIterator[LocalStack]:
    """A PostgreSQL of its own, which is stopped and wiped."""
    async with LocalStack(servers=("postgres",)) as running:
        yield running


@pytest.fixture
async def site(stack: LocalStack, tmp_path: Path) -> Site:
    """A gateway that has received ten messages."""
    async with connected(stack) as connection:
        await connection.execute("DROP SCHEMA IF EXISTS telegram_gateway, tp_capital CASCADE")
        await Migrator(connection, load_migrations()).migrate(lambda _: None)
    site = Site(tmp_path, stack)
    site.sessions.store("main", SESSION)
    await site.receive(*range(1, 11))
    return site


async def test_a_backup_holds_everything_privately_and_says_what(site: Site) -> None:
    said = await site.answer("create")
    (path,) = site.names()
    assert str(path) in said
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["database"]["tables"]["telegram_gateway.messages"] == 10
    assert manifest["database"]["schema_version"] == load_migrations()[-1].version
    (journal,) = manifest["journals"]
    assert (journal["head"], journal["cursors"]) == (10, {"timescaledb": 10})
    assert read_stats(path / "journal/journal.db").rows == 10
    assert SessionDirectory(path / "sessions").load("main") == SESSION
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*")}
    assert modes == {
        "manifest.json": 0o600,
        "database.dump": 0o600,
        "journal": 0o700,
        "journal.db": 0o600,
        "sessions": 0o700,
        "main.session": 0o600,
    }
    assert {stat.S_IMODE(place.stat().st_mode) for place in (path, site.shelf)} == {0o700}
    stamp = read_stamp(site.state)
    assert stamp is not None
    assert stamp.path == str(path)
    assert stamp.bytes == sum(entry["bytes"] for entry in manifest["files"])
    assert SCRATCH not in await site.databases()
    assert json.loads(await site.answer("list", "--json"))["path"] == str(path)
    assert "good" in await site.answer("verify", "latest")


async def test_all_of_it_comes_back_after_everything_is_lost(site: Site, stack: LocalStack) -> None:
    await site.receive(11, 12, stored=False)
    await site.backup()
    async with connected(stack) as connection:
        await connection.execute("DROP SCHEMA telegram_gateway, tp_capital CASCADE")
    shutil.rmtree(site.state)
    shutil.rmtree(site.sessions.path)
    await site.restore()
    assert await site.messages() == 10
    assert site.sessions.load("main") == SESSION
    stats = read_stats(site.state / "journal.db")
    assert (stats.rows, stats.sinks["timescaledb"].lag) == (12, 2)
    async with connected(stack) as connection:
        await require_schema(connection, load_migrations())
    await site.receive(13)
    assert await site.messages() == 11


async def test_the_journal_is_copied_while_a_gateway_writes_to_it(site: Site) -> None:
    async with Journal(site.state / "journal.db", sinks=("timescaledb",)) as journal:
        making = asyncio.create_task(site.backup())
        number = 100
        while not making.done():
            await journal.append(Batch("main", [new(number)]))
            number += 1
        path = await making
        with open_reader(path / "journal/journal.db") as reader:
            copied = [record.event.message_id for record in reader.read(0, 1 << 40, 1 << 20)]
        assert 10 < len(copied) < journal.last_seq
        assert copied == [*range(1, 11), *range(100, 100 + len(copied) - 10)]
        with pytest.raises(JournalUnusable, match="stop that one first"):
            await site.restore(replace=True)
    assert await site.messages() == 10


async def test_nothing_that_is_there_is_replaced_unasked(site: Site) -> None:
    await site.backup()
    await site.receive(11)
    site.sessions.store("main", OTHER_SESSION)
    for part, hint in (
        ("database", "holds data"),
        ("journal", "there is a journal"),
        ("sessions", "another session"),
    ):
        with pytest.raises(RestoreRefused, match=hint):
            await site.restore(part)
    assert await site.messages() == 11
    assert site.sessions.load("main") == OTHER_SESSION
    assert read_stats(site.state / "journal.db").rows == 11

    await site.restore(replace=True)
    assert await site.messages() == 10
    assert site.sessions.load("main") == SESSION
    assert read_stats(site.state / "journal.db").rows == 10
    (kept,) = site.state.glob("journal.db.replaced-*Z")
    assert read_stats(kept).rows == 11


async def test_a_database_that_goes_back_alone_gets_what_the_journal_has_once_more(site: Site) -> None:
    await site.backup()
    await site.receive(11, 12)
    await site.restore("database", replace=True)
    assert await site.messages() == 10
    assert read_stats(site.state / "journal.db").sinks["timescaledb"].cursor == 0


async def test_a_database_does_not_go_back_behind_what_the_journal_still_holds(site: Site) -> None:
    await site.backup()
    await site.receive(11, 12)
    async with Journal(site.state / "journal.db", sinks=("timescaledb",), retention=timedelta(0)) as journal:
        assert await journal.prune() > 0
    with pytest.raises(RestoreRefused, match="Restore the journal too"):
        await site.restore("database", replace=True)
    assert await site.messages() == 12
    await site.restore("database", "journal", replace=True)
    assert await site.messages() == 10
    assert read_stats(site.state / "journal.db").rows == 10


async def test_a_database_is_not_pulled_away_under_another_hosts_gateway(
    site: Site, stack: LocalStack
) -> None:
    await site.backup()
    async with connected(stack) as connection:
        await connection.execute(
            "INSERT INTO telegram_gateway.account_leases (name, account, holder, epoch, acquired_at) "
            "VALUES ('user:1', 'main', 'main at another:/var/lib (x)', 1, now())"
        )
    with pytest.raises(RestoreRefused, match="in use by main at another"):
        await site.restore("database", replace=True)
    assert await site.messages() == 10


async def test_old_backups_go_and_the_newest_good_one_stays_however_old(site: Site) -> None:
    old = site.shelf / "20200101T000000Z"
    (await site.backup()).rename(old)
    crashed = site.shelf / ".unfinished-20200102T000000Z"
    crashed.mkdir()
    (crashed / "database.dump").write_bytes(b"half of it")
    with pytest.raises(SinkUnavailable):
        await site.backup(db_direct_dsn="postgresql://x@127.0.0.1:1/x")
    await site.verify(old)
    path = await site.backup()
    assert site.names() == [path]
    second = await site.backup(backup_retention="1h")
    assert sorted(site.names()) == [path, second]


@pytest.mark.parametrize(
    ("name", "whole", "damaged"),
    [
        ("database.dump", b"PGDMP", b"PGDNP"),
        ("manifest.json", b'"format"', b'"farmot"'),
        ("manifest.json", b'"head": 10', b'"head": 11'),
        ("manifest.json", b'.messages": 10', b'.messages": 11'),
    ],
)
async def test_a_damaged_backup_is_found_out(site: Site, name: str, whole: bytes, damaged: bytes) -> None:
    path = await site.backup()
    content = (path / name).read_bytes()
    assert whole in content
    (path / name).write_bytes(content.replace(whole, damaged))
    with pytest.raises((BackupUnusable, BackupFailed)):
        await site.verify(path)
    (path / name).write_bytes(content)
    await site.verify(path)
    assert SCRATCH not in await site.databases()


async def test_a_role_that_may_not_create_databases_is_told_what_to_do(site: Site) -> None:
    del site.variables["backup_db_user"]
    with pytest.raises(ConfigurationError, match="ALTER ROLE telegram CREATEDB") as refused:
        await site.backup()
    assert "TELEGRAM_BACKUP_DB_USER" in str(refused.value)
    assert not site.shelf.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[None]:
    """The backups' directory on a file system of its own."""
    place = tmp_path / "backups"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.usefixtures("small_disk")
async def test_a_full_disk_leaves_no_backup_behind(site: Site) -> None:
    await site.receive(*range(1000, 3000), text="x" * 2000)
    with pytest.raises(BackupFailed, match=r"(?i)no space left"):
        await site.backup()
    assert site.names() == []
    assert read_stamp(site.state) is None


async def test_a_server_that_goes_down_in_the_middle_leaves_no_backup_behind(
    site: Site, stack: LocalStack
) -> None:
    making = await in_the_middle(site)
    await stack.postgres.kill()
    said, _ = await making.communicate()
    await stack.postgres.start()
    await without_obstacle(site)
    assert making.returncode == 1, said
    assert said.splitlines()[-1].startswith(b"telegram-gateway: ")
    assert site.names() == []
    await site.backup()
    assert SCRATCH not in await site.databases()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_backup_that_is_stopped_or_killed_never_counts(site: Site, number: signal.Signals) -> None:
    making = await in_the_middle(site)
    making.send_signal(number)
    said, _ = await making.communicate()
    killed = number == signal.SIGKILL
    assert making.returncode == (-signal.SIGKILL if killed else 1), said
    assert ((site.names() != []), (SCRATCH in await site.databases())) == (killed, killed)
    assert "no backups" in await site.answer("list")
    assert read_stamp(site.state) is None
    await without_obstacle(site)
    path = await site.backup()
    assert site.names() == [path]
    assert SCRATCH not in await site.databases()


async def in_the_middle(site: Site) -> asyncio.subprocess.Process:
    """A backup that is being restored on trial at this moment, and does not get to the end of that."""
    async with connected(site.stack) as connection:
        # Filled anew where it is restored.
        await connection.execute(
            "CREATE MATERIALIZED VIEW telegram_gateway.obstacle AS "
            f"SELECT pg_sleep(CASE current_database() WHEN '{SCRATCH}' THEN 600 ELSE 0 END)::text"
        )
    making = await site.command("create")
    async with asyncio.timeout(PATIENCE_SECONDS), connected(site.stack) as connection:
        while not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", SCRATCH):
            assert making.returncode is None, await making.communicate()
            await asyncio.sleep(0.005)
    return making


async def without_obstacle(site: Site) -> None:
    async with connected(site.stack) as connection:
        await connection.execute("DROP MATERIALIZED VIEW telegram_gateway.obstacle")
