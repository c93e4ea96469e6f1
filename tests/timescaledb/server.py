"""A real TimescaleDB without a container: PostgreSQL 17 and the extension, in WebAssembly, on loopback.

It has one backend (one connection at a time, whose session outlives it) and no background workers.
"""

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

_DIRECTORY = Path(__file__).parent


@asynccontextmanager
async def timescaledb_server() -> AsyncIterator[str]:
    """The DSN of an empty database with the extension, as `deploy/timescaledb/bootstrap.sql` leaves it."""
    if not shutil.which("npm"):
        raise RuntimeError("the TimescaleDB of the tests needs node and npm: apt-get install nodejs npm")
    with (_DIRECTORY / "package.json").open() as turn:
        # Of several test processes one installs: it begins by removing what is there.
        await asyncio.to_thread(fcntl.flock, turn, fcntl.LOCK_EX)
        if not (_DIRECTORY / "node_modules" / ".package-lock.json").exists():
            await _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    node = await asyncio.create_subprocess_exec(
        "node", "server.mjs", cwd=_DIRECTORY, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert node.stdin is not None
    assert node.stdout is not None
    try:
        async with asyncio.timeout(180):
            port = (await node.stdout.readline()).decode().strip()
        if not port:
            raise RuntimeError("TimescaleDB did not start; its error is above")
        dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        connection = await asyncpg.connect(dsn, ssl=False, statement_cache_size=0)
        await connection.execute("CREATE EXTENSION timescaledb")
        connection.terminate()  # a polite close is never answered
        yield dsn
    finally:
        node.stdin.close()
        try:
            async with asyncio.timeout(5):
                await node.wait()
        except TimeoutError:
            node.kill()
            await node.wait()


async def _run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=_DIRECTORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{output.decode(errors='replace')}")
