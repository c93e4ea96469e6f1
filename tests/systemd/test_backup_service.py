"""The nightly backup under a real systemd: what it may touch is enough, and its result is private."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from gateway.database import Migrator, load_migrations
from gateway.journal import Batch, Journal
from gateway.localstack import LocalStack
from gateway.telegram.session import SessionDirectory, StoredSession
from tests.sink_events import new
from tests.systemd.conftest import COMMAND
from tests.systemd.machine import Machine

UNIT = "telegram-gateway-backup.service"
TIMER = "telegram-gateway-backup.timer"
STATE = "/var/lib/telegram-gateway"
SESSIONS = "/opt/telegram-gateway/.session"
SHELF = "/var/backups/telegram-gateway"
ENVIRONMENT = "/etc/telegram-gateway/telegram-gateway.env"
PASSWORD = "/etc/telegram-gateway/credentials/backup_db_password"


@pytest_asyncio.fixture
async def database() -> AsyncIterator[LocalStack]:
    """A migrated database; the machine is on the same network."""
    async with LocalStack(servers=("postgres",)) as running:
        connection = await asyncpg.connect(running.postgres.dsn, ssl=False)
        await Migrator(connection, load_migrations()).migrate(lambda _: None)
        await connection.close()
        yield running


@pytest_asyncio.fixture
async def state(tmp_path: Path) -> Path:
    """What a stopped gateway leaves: a journal, and a login."""
    async with Journal(tmp_path / "state/journal.db", sinks=("timescaledb",)) as journal:
        await journal.append(Batch("main", [new(1), new(2)]))
    SessionDirectory(tmp_path / "session").store(
        "main", StoredSession(2, "149.154.167.51", 443, bytes(range(256)))
    )
    return tmp_path


@pytest.fixture
def installation(machine: Machine, database: LocalStack, state: Path) -> Iterator[Machine]:
    """The machine, set up as docs/backup.md says."""
    admin = urlsplit(database.postgres.admin_dsn)
    settings = {
        "TELEGRAM_DB_DIRECT_DSN": database.postgres.dsn,
        "TELEGRAM_BACKUP_DB_USER": admin.username,
    }
    machine.write(ENVIRONMENT, "".join(f"{name}={value}\n" for name, value in settings.items()), 0o640)
    machine.write(PASSWORD, f"{admin.password}\n", 0o600)
    for source, place in ((state / "state/journal.db", STATE), (state / "session/main.session", SESSIONS)):
        target = machine.root / place.lstrip("/") / source.name
        target.write_bytes(source.read_bytes())
        target.chmod(0o600)
        machine.run("chown", "telegram-gateway:telegram-gateway", f"{place}/{source.name}")
    yield machine
    print("\n".join(str(entry["MESSAGE"]) for entry in machine.journal(UNIT)))  # shown when the test failed
    machine.systemctl("disable", "--now", TIMER)
    machine.systemctl("reset-failed", check=False)
    machine.run("sh", "-c", f"rm -rf {SHELF}/* {SHELF}/.lock {STATE}/* {SESSIONS}/* {ENVIRONMENT} {PASSWORD}")


def test_the_unit_makes_a_backup_that_counts(installation: Machine) -> None:
    machine = installation
    machine.systemctl("start", UNIT)
    (name,) = machine.run("ls", SHELF).split()
    owners = machine.run("find", SHELF, "-printf", "%m %u %f\n").splitlines()
    assert {line.split()[1] for line in owners} == {"telegram-gateway"}
    assert {line.split()[0] for line in owners} == {"600", "700"}
    stamp = json.loads(machine.run("cat", f"{STATE}/backup.json"))
    assert stamp["path"] == f"{SHELF}/{name}"
    machine.systemctl("enable", "--now", TIMER)
    assert TIMER in machine.systemctl("list-timers")
    said = "".join(str(entry["MESSAGE"]) for entry in machine.journal(UNIT))
    assert "restored on trial" in said

    # Root's own command leaves nothing behind that the gateway's user could not read.
    again = machine.run(
        *("sh", "-c", 'set -a; . "$0"; TELEGRAM_BACKUP_DB_PASSWORD=$(cat "$1") exec "$2" backup create'),
        *(ENVIRONMENT, PASSWORD, COMMAND),
    )
    assert "restored on trial" in again
    owners = machine.run("find", SHELF, STATE, "-printf", "%u\n").splitlines()
    assert set(owners) == {"telegram-gateway"}
