"""A gateway set back to a backup: in the end every message is in the database again, and none twice."""

import asyncio
import shutil
import time
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.demo.comparison import compare_cache, compare_database, compare_queue
from tests.e2e.conftest import SINKS, Rig

RATE = 100.0
MESSAGES = 120
ATTEMPTS = 60  # a second apart


async def wipe(rig: Rig) -> None:
    """The host and the database's disk are gone."""
    shutil.rmtree(rig.gateway.state_dir)
    shutil.rmtree(rig.gateway.session_dir)
    connection = await asyncpg.connect(rig.stack.postgres.dsn)
    try:
        await connection.execute("DROP SCHEMA telegram_gateway, tp_capital CASCADE")
    finally:
        await connection.close()


async def forget_other_tests(rig: Rig) -> None:
    """Their gateways are gone, but seconds ago they held leases in the database that all share."""
    connection = await asyncpg.connect(rig.stack.postgres.dsn)
    try:
        if await connection.fetchval("SELECT to_regclass('telegram_gateway.account_leases')"):
            await connection.execute(
                "DELETE FROM telegram_gateway.account_leases WHERE position($1 IN holder) = 0",
                str(rig.gateway.state_dir),
            )
    finally:
        await connection.close()


async def metric(rig: Rig, name: str) -> float:
    """What Prometheus would read at this moment."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{rig.gateway.port}/metrics") as answer,
    ):
        families = text_string_to_metric_families(await answer.text())
    return float(
        next(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"telegram_gateway_{name}"
        )
    )


async def assert_complete(rig: Rig, *, everywhere: bool) -> None:
    """In the end the database has every message in its newest words and, if `everywhere`, its readers too.

    Who saw a message before all was lost is not told what became of its words before the restore.
    """
    environment = rig.stack.environment
    problems: list[str] = []
    for _ in range(ATTEMPTS):
        await rig.gateway.wait_delivered(SINKS)
        truth = rig.sandbox.truth(rig.scene.accounts[0], rig.since)
        results = [await compare_database(environment["TELEGRAM_DB_DIRECT_DSN"], truth)]
        if everywhere:
            results += [
                compare_queue(rig.consumer, truth),
                await compare_cache(environment["TELEGRAM_REDIS_URL"], truth),
            ]
        problems = [f"{result.sink}: {problem}" for result in results for problem in result.problems]
        if not problems:
            return
        await asyncio.sleep(1)
    raise AssertionError(f"{len(problems)} problems, the first: " + "; ".join(problems[:10]))


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
    assert await metric(rig, "backup_last_success_timestamp_seconds") == 0
    await rig.gateway.command("backup", "create", environment=settings)
    assert time.time() - await metric(rig, "backup_last_success_timestamp_seconds") < 60
    assert await metric(rig, "backup_size_bytes") > 10_000
    await rig.traffic(RATE, MESSAGES)
    await rig.gateway.wait_delivered(SINKS)
    if parts:
        # Not killed: RabbitMQ would be ahead of the database by a moment, and nobody knows what it had.
        assert await rig.gateway.stop() == 0
    else:
        await rig.gateway.kill()
        await wipe(rig)
    await rig.traffic(RATE, MESSAGES)
    await forget_other_tests(rig)
    await rig.gateway.command("backup", "restore", "latest", *parts, environment=settings)
    await rig.gateway.start()
    await rig.traffic(RATE, MESSAGES)
    await assert_complete(rig, everywhere=bool(parts))
