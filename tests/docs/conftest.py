"""What the commands of the documentation meet: a running gateway with its API, messages, and every server."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from gateway.demo.process import GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import phone, populate
from tests.api.conftest import Api, migrated

MESSAGES = 40
LIMIT_SECONDS = 800.0
_NEXT = "@@@ "


@dataclass(frozen=True)
class Shell:
    """A reader's shell: its settings, and what stands for the addresses that the pages name."""

    environment: Mapping[str, str]
    places: Mapping[str, str]
    directory: Path

    async def run(self, commands: Sequence[str]) -> None:
        """Runs the commands in order in one shell; fails at the first that does, with what it said."""
        script = ["set -euo pipefail"]
        for command in commands:
            for documented, place in self.places.items():
                command = command.replace(documented, place)
            script += [f"printf '{_NEXT}%s\\n' {_quoted(command)}", command]
        transcript = self.directory / "transcript.txt"
        with transcript.open("wb") as screen:
            process = await asyncio.create_subprocess_exec(
                "bash",
                "-c",
                "\n".join(script),
                env=dict(self.environment),
                cwd=self.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await process.wait()
        except TimeoutError:
            pytest.fail(f"no end after {LIMIT_SECONDS:.0f} s: {_last(transcript)}")
        finally:
            # What a page left running in the background ends with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        assert process.returncode == 0, f"exit {process.returncode} of: {_last(transcript)}"


def _last(transcript: Path) -> str:
    """The last command, and what it said."""
    return transcript.read_text().rpartition(_NEXT)[2]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _plain_environment(directory: Path) -> dict[str, str]:
    ours = ("TELEGRAM_", "TP_CAPITAL_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
    }


async def _stored(stack: LocalStack) -> None:
    """Returns once the database has messages: the gateway may not have been told of any yet."""
    connection = await asyncpg.connect(stack.postgres.dsn)
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not await connection.fetchval("SELECT count(*) FROM telegram_gateway.messages"):
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


@pytest_asyncio.fixture(scope="session")
async def stack() -> AsyncIterator[LocalStack]:
    """The servers of these tests, with the newest schema."""
    async with migrated(("postgres", "pgbouncer", "redis", "rabbitmq")) as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def shell(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shell]:
    """A shell beside a logged-in, running gateway that has some messages, and its API."""
    directory = tmp_path_factory.mktemp("docs")
    async with Sandbox(state_dir=directory / "sandbox") as sandbox:
        populate(sandbox.world)
        telegram = {
            "TELEGRAM_API_ID": "1",
            "TELEGRAM_API_HASH": "sandbox",
            "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
            "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
            "TELEGRAM_MEDIA_DIR": str(directory / "media"),
        }
        gateway = GatewayProcess(directory, {**stack.environment, **telegram})
        own = {
            "TELEGRAM_STATE_DIR": str(gateway.state_dir),
            "TELEGRAM_SESSION_DIR": str(gateway.session_dir),
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{gateway.port}",
        }
        api = Api(stack, directory, {**telegram, **own})
        try:
            await gateway.login(phone(0))
            await gateway.start()
            await api.start()
            await sandbox.traffic.run(200, count=MESSAGES)
            await _stored(stack)
            await gateway.wait_delivered(3)
            worker = stack.postgres.site.ports.take()
            ports = {4006: gateway.port, 4010: api.port, 4011: worker}
            yield Shell(
                {
                    **_plain_environment(directory),
                    **stack.environment,
                    **telegram,
                    **own,
                    "TELEGRAM_API_ADDR": f"127.0.0.1:{api.port}",
                    "TP_CAPITAL_METRICS_ADDR": f"127.0.0.1:{worker}",
                },
                {f"127.0.0.1:{documented}": f"127.0.0.1:{port}" for documented, port in ports.items()},
                directory,
            )
        finally:
            await api.close()
            await gateway.close()


@pytest_asyncio.fixture
async def bare_shell(stack: LocalStack) -> AsyncIterator[Shell]:
    """A shell of somebody who has nothing yet. Its directory is open to the servers, which run as others."""
    directory = Path(tempfile.mkdtemp(prefix="telegram-docs-"))
    directory.chmod(0o755)
    take = stack.postgres.site.ports.take
    environment = {
        **_plain_environment(directory),
        "TMPDIR": str(directory),
        "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{take()}",
        "TELEGRAM_API_ADDR": f"127.0.0.1:{take()}",
    }
    try:
        yield Shell(
            environment, {"-port 4430": f"-port {take()}", "-port 4431": f"-port {take()}"}, directory
        )
    finally:
        process = await asyncio.create_subprocess_exec("telegram-gateway", "stack", "down", env=environment)
        await process.wait()
        shutil.rmtree(directory)
