"""The exporters beside the local stack's servers, on free ports, and where Prometheus finds them.

Debian's for PostgreSQL and Redis, our own for PgBouncer; RabbitMQ exports for itself.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.localstack import LocalStack
from gateway.localstack.postgres import DATABASE, ROLE
from gateway.localstack.stack import CONFIG_DIR

READY_SECONDS = 120.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Exporters:
    """Where they listen, as host:port."""

    stack: LocalStack
    postgres: str
    redis: str
    pgbouncer: str

    def targets(self) -> dict[str, Sequence[str]]:
        """Prometheus's targets by job name; with `running_prometheus`, `redis_exporter` is `redis`."""
        servers = (self.stack.redis, self.stack.redis_replica)
        broker = f"127.0.0.1:{self.stack.rabbitmq.prometheus_port}"
        return {
            "postgres": [self.postgres],
            "pgbouncer": [self.pgbouncer],
            "redis": [f"redis://127.0.0.1:{server.port}" for server in servers if server.pid is not None],
            "rabbitmq": [broker],
            "rabbitmq-detailed": [broker],
        }


@asynccontextmanager
async def running_exporters(stack: LocalStack, directory: Path) -> AsyncIterator[Exporters]:
    """Runs all three, set up as docs/monitor.md says, until the block ends; `directory` has their logs."""
    ports = stack.postgres.site.ports
    ends = Exporters(stack, *(f"127.0.0.1:{ports.take()}" for _ in range(3)))
    # By server, and not one for all: a Sentinel has another one.
    passwords = directory / "redis-passwords.json"
    passwords.touch(mode=0o600)
    passwords.write_text(
        json.dumps(
            {
                f"redis://127.0.0.1:{server.port}": server.password
                for server in (stack.redis, stack.redis_replica)
            }
        )
    )
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
        ends.postgres: (
            (
                "prometheus-postgres-exporter",
                f"--web.listen-address={ends.postgres}",
                f"--extend.query-path={CONFIG_DIR / 'exporters' / 'postgres-queries.yaml'}",
            ),
            {
                "DATA_SOURCE_URI": f"127.0.0.1:{stack.postgres.port}/{DATABASE}?sslmode=disable",
                "DATA_SOURCE_USER": ROLE,
                "DATA_SOURCE_PASS_FILE": str(stack.postgres.site.secrets / "telegram_db_password"),
            },
        ),
        ends.redis: (
            (
                "prometheus-redis-exporter",
                f"-web.listen-address={ends.redis}",
                f"-redis.addr=redis://127.0.0.1:{stack.redis.port}",
            ),
            {"REDIS_PASSWORD_FILE": str(passwords)},
        ),
        ends.pgbouncer: (
            (sys.executable, "-m", "gateway", "pgbouncer-exporter", "--listen", ends.pgbouncer),
            {**stack.environment, "TELEGRAM_API_ID": "1", "TELEGRAM_API_HASH": "0" * 32},
        ),
    }
    running: list[asyncio.subprocess.Process] = []
    try:
        for number, (argv, environment) in enumerate(commands.values()):
            with (directory / f"exporter-{number}.log").open("ab") as log:
                running.append(
                    await asyncio.create_subprocess_exec(
                        *("setpriv", "--pdeathsig", "SIGKILL", "--", *argv),
                        env={"PATH": os.environ["PATH"], **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
        async with aiohttp.ClientSession() as http:
            for address, process in zip(commands, running, strict=True):
                await wait_answering(http, address, process, directory)
        yield ends
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def wait_answering(
    http: aiohttp.ClientSession, address: str, process: asyncio.subprocess.Process, directory: Path
) -> None:
    """Returns once `process` shows metrics at `address`; `directory` has its log."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            assert process.returncode is None, f"{address} has ended; see {directory}"
            try:
                async with http.get(f"http://{address}/metrics") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_SECONDS)
