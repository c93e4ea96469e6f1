"""The real servers, one set per test session, started from the configuration that is shipped."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from gateway.localstack import LocalStack

# They begin first: one of them alone at the end would keep a single core busy.
LONGEST = (
    "systemd/test_rehearsal.py",
    "integration/test_bench.py",
    "e2e/test_delivery.py",
    "chaos/test_chaos.py",
    "e2e/test_failover.py",
    "e2e/test_limits.py",
    "monitoring/test_dashboards.py",
    "integration/test_migration_phases.py",
    "integration/test_migration_live.py",
    "e2e/test_sessions.py",
    "e2e/test_tp_capital.py",
    "e2e/test_operator.py",
    "api/test_schema.py",
    "unit/test_journal_model.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; pytest-xdist gives out files in this order."""
    directory = Path(__file__).parent
    place = {directory / file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


# A busy machine is neither a slow example nor a slow strategy.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


@pytest_asyncio.fixture(scope="session")
async def stack() -> AsyncIterator[LocalStack]:
    """PostgreSQL, PgBouncer, Redis with replica and Sentinels, RabbitMQ.

    Shared by all tests of a session: a test that stops a server starts it again. Without the servers it
    fails, naming what to install; nothing is skipped.
    """
    async with LocalStack() as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def postgres_dsn(stack: LocalStack) -> str:
    """The gateway's database, directly: migrations, leases."""
    return stack.postgres.dsn


@pytest_asyncio.fixture(scope="session")
async def pgbouncer_dsn(stack: LocalStack) -> str:
    """The gateway's database through the transaction pooler."""
    return stack.pgbouncer.dsn()


@pytest_asyncio.fixture(scope="session")
async def redis_url(stack: LocalStack) -> str:
    return stack.environment["TELEGRAM_REDIS_URL"]


@pytest_asyncio.fixture(scope="session")
async def rabbitmq_url(stack: LocalStack) -> str:
    return stack.environment["TELEGRAM_RABBITMQ_URL"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how long each phase took that a test has recorded, also of one that ran in another process."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            phases = [(name, took) for name, took in report.user_properties if name.startswith("phase: ")]
            if phases:
                terminalreporter.section(report.nodeid)
            for name, took in phases:
                terminalreporter.write_line(f"{name.removeprefix('phase: '):40} {took}")
