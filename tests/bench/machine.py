"""On what it was measured: cores, memory, processor, and the version of every part."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import aiormq
import asyncpg
import psutil

from gateway.localstack import LocalStack

_PACKAGES = ("telethon", "cryptg", "uvloop", "aio-pika", "redis", "asyncpg", "apsw")


async def describe(stack: LocalStack) -> dict[str, str]:
    """The machine and the versions, for the head of the table."""
    database = await asyncpg.connect(stack.postgres.dsn, ssl=False)
    postgres = database.get_settings().server_version
    await database.close()
    pooler = await asyncpg.connect(stack.pgbouncer.dsn("pgbouncer"), ssl=False, statement_cache_size=0)
    pgbouncer = pooler.get_settings().server_version.partition("/")[0]
    await pooler.close()
    broker = await aiormq.connect(stack.rabbitmq.url)
    rabbitmq = broker.server_properties.get("version")
    await broker.close()
    servers = {
        "PostgreSQL": postgres.split()[0],
        "PgBouncer": pgbouncer,
        "Redis": (await stack.redis.ask("INFO", "server"))["redis_version"],
        "RabbitMQ": rabbitmq,
    }
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores of {_processor()}, "
        f"{psutil.virtual_memory().total / (1 << 30):.0f} GB, {platform.platform(terse=True)}; "
        "sandbox, client, consumer and every server share it",
        "servers": ", ".join(f"{name} {number}" for name, number in servers.items()),
        "client": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PACKAGES)]
        ),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
