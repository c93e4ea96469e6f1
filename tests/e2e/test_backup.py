"""A gateway set back to a backup: in the end every message is in the database again, and none twice."""

import shutil
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.e2e.conftest import SINKS, Rig

RATE = 100.0
MESSAGES = 120


async def wipe(rig: Rig) -> None:
    """The host and the database's disk are gone."""
    shutil.rmtree(rig.gateway.state_dir)
    shutil.rmtree(rig.gateway.session_dir)
    connection = await asyncpg.connect(rig.stack.postgres.dsn)
    try:
        await connection.execute("DROP SCHEMA telegram_gateway, tp_capital CASCADE")
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((), id="all of it after everything was lost"),
        pytest.param(("--journal", "--replace"), id="an old journal beside a newer database"),
        pytest.param(("--database", "--replace"), id="an old database beside a newer journal"),
    ],
)
async def test_what_came_after_the_backup_is_there_again_after_a_restore(
    rig: Rig, parts: tuple[str, ...]
) -> None:
    admin = urlsplit(rig.stack.postgres.admin_dsn)
    settings = {
        "TELEGRAM_BACKUP_DIR": str(rig.gateway.directory / "backups"),
        "TELEGRAM_BACKUP_DB_USER": str(admin.username),
        "TELEGRAM_BACKUP_DB_PASSWORD": str(admin.password),
    }
    await rig.traffic(RATE, MESSAGES)
    await rig.gateway.command("backup", "create", environment=settings)
    await rig.traffic(RATE, MESSAGES)
    await rig.gateway.wait_delivered(SINKS)
    await rig.gateway.kill()
    if not parts:
        await wipe(rig)
    await rig.traffic(RATE, MESSAGES)
    await rig.gateway.command("backup", "restore", "latest", *parts, environment=settings)
    await rig.gateway.start()
    await rig.traffic(RATE, MESSAGES)
    await rig.assert_everything_arrived()
