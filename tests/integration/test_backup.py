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
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from gateway.backup.stamp import read_stamp
from gateway.event import encode
from gateway.journal import Batch, Journal, open_reader, read_stats
from gateway.localstack import LocalStack
from gateway.telegram.session import SessionDirectory, StoredSession
from tests.sink_events import new

SESSION = StoredSession(2, "149.154.167.51", 443, bytes(range(256)))
OTHER_SESSION = StoredSession(4, "149.154.167.91", 443, bytes(reversed(range(256))))
SCRATCH = "telegram_gateway_scratch"
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    code: int
    text: str


@dataclass
class Site:
    """A gateway's directories and its database, and the command an operator runs."""

    directory: Path
    stack: LocalStack
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = self.directory / "state"
        self.shelf = self.directory / "backups"
        self.sessions = SessionDirectory(self.directory / "session")
        admin = urlsplit(self.stack.postgres.admin_dsn)
        self.variables = {
            "TELEGRAM_STATE_DIR": str(self.state),
            "TELEGRAM_SESSION_DIR": str(self.sessions.path),
            "TELEGRAM_BACKUP_DIR": str(self.shelf),
            "TELEGRAM_DB_DIRECT_DSN": self.stack.postgres.dsn,
            "TELEGRAM_BACKUP_DB_USER": str(admin.username),
            "TELEGRAM_BACKUP_DB_PASSWORD": str(admin.password),
            **self.variables,
        }

    async def start(self, *arguments: str, **variables: str) -> asyncio.subprocess.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TELEGRAM_")}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments),
            env=clean | self.variables | variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, *arguments: str, **variables: str) -> Answer:
        process = await self.start(*arguments, **variables)
        said, _ = await process.communicate()
        assert process.returncode is not None
        return Answer(process.returncode, said.decode())

    async def backup(self, **variables: str) -> Path:
        """A good one."""
        made = await self.run("backup", "create", **variables)
        assert made.code == 0, made.text
        return self.newest()

    def newest(self) -> Path:
        return max(self.names())

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
    site = Site(tmp_path, stack)
    migrated = await site.run("db", "migrate")
    assert migrated.code == 0, migrated.text
    site.sessions.store("main", SESSION)
    await site.receive(*range(1, 11))
    return site


async def test_a_backup_holds_everything_privately_and_says_what(site: Site) -> None:
    path = await site.backup()
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["database"]["tables"]["telegram_gateway.messages"] == 10
    assert manifest["database"]["schema_version"] > 0
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
    stamp = read_stamp(site.state)
    assert stamp is not None
    assert stamp.path == str(path)
    assert stamp.bytes == sum(entry["bytes"] for entry in manifest["files"])
    assert SCRATCH not in await site.databases()
    listed = await site.run("backup", "list", "--json")
    assert json.loads(listed.text)["path"] == str(path)
    verified = await site.run("backup", "verify", "latest")
    assert (verified.code, "good" in verified.text) == (0, True), verified.text


async def test_all_of_it_comes_back_after_everything_is_lost(site: Site, stack: LocalStack) -> None:
    await site.receive(11, 12, stored=False)
    await site.backup()
    async with connected(stack) as connection:
        await connection.execute("DROP SCHEMA telegram_gateway, tp_capital CASCADE")
    shutil.rmtree(site.state)
    shutil.rmtree(site.sessions.path)
    restored = await site.run("backup", "restore", "latest")
    assert restored.code == 0, restored.text
    assert await site.messages() == 10
    assert site.sessions.load("main") == SESSION
    stats = read_stats(site.state / "journal.db")
    assert (stats.rows, stats.sinks["timescaledb"].lag) == (12, 2)
    assert (await site.run("db", "status")).code == 0


async def test_the_journal_is_copied_while_a_gateway_writes_to_it(site: Site) -> None:
    async with Journal(site.state / "journal.db", sinks=("timescaledb",)) as journal:
        making = asyncio.create_task(site.backup())
        number = 100
        while not making.done():
            await journal.append(Batch("main", [new(number)]))
            number += 1
        path = await making
        manifest = json.loads((path / "manifest.json").read_text())
        assert 10 <= manifest["journals"][0]["head"] <= journal.last_seq
        with open_reader(path / "journal/journal.db") as reader:
            copied = [record.event.message_id for record in reader.read(0, 1 << 40, 1 << 20)]
        assert copied == [*range(1, 11), *range(100, 100 + len(copied) - 10)]
        refused = await site.run("backup", "restore", "latest", "--replace")
        assert (refused.code, "stop that one first" in refused.text) == (78, True), refused.text
        assert await site.messages() == 10


async def test_nothing_that_is_there_is_replaced_unasked(site: Site) -> None:
    await site.backup()
    await site.receive(11)
    for part, hint in (("--database", "holds data"), ("--journal", "there is a journal")):
        refused = await site.run("backup", "restore", "latest", part)
        assert (refused.code, hint in refused.text) == (78, True), refused.text
    site.sessions.store("main", OTHER_SESSION)
    refused = await site.run("backup", "restore", "latest", "--sessions")
    assert (refused.code, "another session" in refused.text) == (78, True), refused.text
    assert await site.messages() == 11
    assert site.sessions.load("main") == OTHER_SESSION
    assert read_stats(site.state / "journal.db").rows == 11

    restored = await site.run("backup", "restore", "latest", "--replace")
    assert restored.code == 0, restored.text
    assert await site.messages() == 10
    assert site.sessions.load("main") == SESSION
    assert read_stats(site.state / "journal.db").rows == 10
    (kept,) = site.state.glob("journal.db.replaced-*Z")
    assert read_stats(kept).rows == 11


async def test_a_database_that_goes_back_alone_gets_what_the_journal_has_once_more(site: Site) -> None:
    await site.backup()
    await site.receive(11, 12)
    restored = await site.run("backup", "restore", "latest", "--database", "--replace")
    assert restored.code == 0, restored.text
    assert await site.messages() == 10
    assert read_stats(site.state / "journal.db").sinks["timescaledb"].cursor == 0


async def test_a_database_does_not_go_back_behind_what_the_journal_still_holds(site: Site) -> None:
    await site.backup()
    await site.receive(11, 12)
    journal = site.state / "journal.db"
    async with Journal(journal, sinks=("timescaledb",), retention=timedelta(0)) as opened:
        assert await opened.prune() > 0
    refused = await site.run("backup", "restore", "latest", "--database", "--replace")
    assert (refused.code, "Restore the journal too" in refused.text) == (78, True), refused.text
    assert await site.messages() == 12
    assert (await site.run("backup", "restore", "latest", "--replace")).code == 0
    assert await site.messages() == 10


async def test_another_hosts_gateway_that_lives_holds_the_database(site: Site, stack: LocalStack) -> None:
    await site.backup()
    async with connected(stack) as connection:
        await connection.execute(
            "INSERT INTO telegram_gateway.account_leases (name, account, holder, epoch, acquired_at) "
            "VALUES ('user:1', 'main', 'main at another:/var/lib (x)', 1, now())"
        )
    refused = await site.run("backup", "restore", "latest", "--database", "--replace")
    assert (refused.code, "in use by main at another" in refused.text) == (78, True), refused.text
    assert await site.messages() == 10


async def test_old_backups_go_and_the_newest_stays_however_old(site: Site) -> None:
    await site.backup()
    old = site.shelf / "20200101T000000Z"
    site.newest().rename(old)
    crashed = site.shelf / ".unfinished-20200102T000000Z"
    crashed.mkdir()
    (crashed / "database.dump").write_bytes(b"half of it")
    assert (await site.run("backup", "verify", "latest")).code == 0
    broken = await site.run("backup", "create", TELEGRAM_DB_DIRECT_DSN="postgresql://x@127.0.0.1:1/x")
    assert broken.code == 1, broken.text
    assert old.is_dir()
    path = await site.backup()
    assert site.names() == [path]
    kept = await site.backup(TELEGRAM_BACKUP_RETENTION="1h")
    assert sorted(site.names()) == [path, kept]


async def test_a_damaged_backup_is_found_out(site: Site) -> None:
    path = await site.backup()
    whole = {name: (path / name).read_bytes() for name in ("database.dump", "manifest.json")}
    for name, damage in (
        ("database.dump", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("manifest.json", lambda content: content[:-20]),
        ("manifest.json", lambda content: content.replace(b'"head": 10', b'"head": 11')),
        ("manifest.json", lambda content: content.replace(b'.messages": 10', b'.messages": 11')),
    ):
        (path / name).write_bytes(damage(whole[name]))
        assert (path / name).read_bytes() != whole[name]
        judged = await site.run("backup", "verify", str(path))
        assert judged.code in {1, 78}, judged.text
        assert "good" not in judged.text
        (path / name).write_bytes(whole[name])
    assert (await site.run("backup", "verify", str(path))).code == 0
    assert SCRATCH not in await site.databases()


async def test_a_role_that_may_not_create_databases_is_told_what_to_do(site: Site) -> None:
    del site.variables["TELEGRAM_BACKUP_DB_USER"]
    refused = await site.run("backup", "create")
    assert refused.code == 78
    assert "ALTER ROLE telegram CREATEDB" in refused.text
    assert "TELEGRAM_BACKUP_DB_USER" in refused.text
    assert not site.shelf.exists() or site.names() == []


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
    full = await site.run("backup", "create")
    assert (full.code, "no space left" in full.text.lower()) == (1, True), full.text
    assert site.names() == []
    assert read_stamp(site.state) is None


async def test_a_server_that_goes_down_in_the_middle_leaves_no_backup_behind(
    site: Site, stack: LocalStack
) -> None:
    making = await in_the_middle(site)
    await stack.postgres.kill()
    said, _ = await making.communicate()
    await stack.postgres.start()
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
    listed = await site.run("backup", "list")
    assert "no backups" in listed.text
    assert read_stamp(site.state) is None
    path = await site.backup()
    assert site.names() == [path]
    assert SCRATCH not in await site.databases()


async def in_the_middle(site: Site) -> asyncio.subprocess.Process:
    """A backup that is being restored on trial at this moment."""
    making = await site.start("backup", "create")
    async with asyncio.timeout(PATIENCE_SECONDS), connected(site.stack) as connection:
        while not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", SCRATCH):
            assert making.returncode is None, await making.communicate()
            await asyncio.sleep(0.005)
    return making
