"""An old stack and ours, side by side: what the tests of the migration have in common."""

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from gateway.localstack import LocalStack
from tests import old_stack

TABLES = (
    *("messages", "message_revisions", "channels", "message_arrivals", "message_processing"),
    *("revision_processing", "consumer_marks", "hidden_messages"),
)


@dataclass
class Move:
    """Settings of ours below `directory`, and the command line that moves; `old` is a DSN."""

    directory: Path
    stack: LocalStack
    old: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    def variables(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("TELEGRAM_")},
            **self.stack.environment,
            "TELEGRAM_OLD_DB_DSN": self.old,
            "TELEGRAM_STATE_DIR": str(self.state_dir),
            "TELEGRAM_SESSION_DIR": str(self.directory / "session"),
            **self.environment,
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Begins `telegram-gateway ARGUMENTS`."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            env=self.variables(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Runs `telegram-gateway migrate ARGUMENTS`, which is to end with `code`; returns what it said."""
        process = await self.start("migrate", *arguments)
        output, _ = await process.communicate()
        text = output.decode()
        assert process.returncode == code, text
        assert "Traceback" not in text, text
        return text

    async def ask_old(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        return await ask(self.old, query, *arguments)

    async def ask_new(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        return await ask(self.stack.postgres.dsn, query, *arguments)


async def ask(dsn: str, query: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


@asynccontextmanager
async def moving(stack: LocalStack, directory: Path) -> AsyncIterator[Move]:
    """Our schema, empty, and an empty database for the old stack."""
    move = Move(directory, stack, await old_stack.create_database(stack.postgres.admin_dsn))
    process = await move.start("db", "migrate")
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    await ask(stack.postgres.dsn, f"TRUNCATE {', '.join(f'telegram_gateway.{table}' for table in TABLES)}")
    yield move


def in_background(command: list[str], log: Path, pid_file: Path) -> str:
    """A shell's command line that starts a program and goes on."""
    return f": > {log}; {shlex.join(command)} >> {log} 2>&1 & echo $! > {pid_file}"


def ended(pid_file: Path) -> str:
    """A shell's command line that ends it and waits until it is gone."""
    return f"kill $(cat {pid_file}) && while kill -0 $(cat {pid_file}) 2>/dev/null; do sleep 0.1; done"
