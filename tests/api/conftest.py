"""The API as a child process, as systemd would run it, in front of the real servers."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from gateway.database import Migrator, connect_direct, load_migrations
from gateway.localstack import LocalStack
from gateway.tokens import create_token

READY_SECONDS = 120.0
STOP_SECONDS = 60.0
ANSWER_SECONDS = 60.0
POLL_SECONDS = 0.05
_numbers = itertools.count(1)


class Api:
    """`telegram-gateway api` on a free port. `environment` has further TELEGRAM_ settings."""

    def __init__(
        self, stack: LocalStack, directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.stack = stack
        self.port = stack.postgres.site.ports.take()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = directory / f"api-{self.port}.log"
        # Nothing answers there until a test starts it.
        self.daemon_port = stack.postgres.site.ports.take()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TELEGRAM_")},
            **stack.environment,
            "TELEGRAM_API_ADDR": f"127.0.0.1:{self.port}",
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{self.daemon_port}",
            "TELEGRAM_API_RATE_LIMIT": "0",
            "TELEGRAM_API_FAILED_LIMIT": "1000000",
            **(environment or {}),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._clients: list[httpx.AsyncClient] = []

    async def start(self) -> None:
        """Returns once it answers."""
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "api", env=self.environment, stdout=log, stderr=log
            )
        async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient(base_url=self.url) as client:
            while True:
                try:
                    await client.get("/openapi.json")
                except httpx.TransportError:
                    assert self._process.returncode is None, self.log
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    return

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it, and returns its exit code."""
        for client in self._clients:
            await client.aclose()
        self._clients.clear()
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.send_signal(number)
        async with asyncio.timeout(STOP_SECONDS):
            return await process.wait()

    async def close(self) -> None:
        """Ends it if it runs, whatever it takes."""
        if self._process is not None:
            try:
                await self.stop()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
                raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text()

    async def token(
        self,
        scopes: Collection[str] = ("read",),
        chats: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """A new token."""
        connection = await asyncpg.connect(self.stack.postgres.dsn)
        try:
            name = f"test {os.getpid()} {next(_numbers)}"
            secret, _ = await create_token(
                connection, name, scopes, list(chats) if chats is not None else None, expires_at
            )
        finally:
            await connection.close()
        return secret

    def client(
        self, scopes: Collection[str] = ("read",), chats: Collection[str] | None = None
    ) -> httpx.AsyncClient:
        """A client with a token that is made with its first request; closed when the API stops."""
        return self._client(auth=_NewToken(self, scopes, chats))

    def client_with(self, token: str | None) -> httpx.AsyncClient:
        """A client with this token, or none."""
        return self._client(headers={"Authorization": f"Bearer {token}"} if token else {})

    def _client(self, **options: Any) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=self.url, timeout=ANSWER_SECONDS, **options)
        self._clients.append(client)
        return client


class _NewToken(httpx.Auth):
    """Makes a token when it is first needed."""

    def __init__(self, api: Api, scopes: Collection[str], chats: Collection[str] | None) -> None:
        self._api = api
        self._wanted = (scopes, chats)
        self._token: str | None = None

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if self._token is None:
            self._token = await self._api.token(*self._wanted)
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


@pytest_asyncio.fixture(scope="session")
async def stack() -> AsyncIterator[LocalStack]:
    """The servers of these tests, without Sentinels: they would take a Redis that is down for good."""
    async with migrated(("postgres", "pgbouncer", "redis", "rabbitmq")) as running:
        yield running


@asynccontextmanager
async def migrated(servers: Collection[str]) -> AsyncIterator[LocalStack]:
    """Servers with the newest schema."""
    async with LocalStack(servers=servers) as running:
        connection = await connect_direct(running.postgres.dsn)
        await Migrator(connection, load_migrations()).migrate(lambda _: None)
        connection.terminate()
        yield running


async def telegram_gateway(environment: Mapping[str, str], *arguments: str, code: int = 0) -> str:
    """What the command printed, once it has ended with `code`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == code, printed.decode()
    return printed.decode()


@asynccontextmanager
async def running_api(
    stack: LocalStack, directory: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Api]:
    """An API of a test's own, with settings of its own."""
    api = Api(stack, directory, environment)
    try:
        await api.start()
        yield api
    finally:
        await api.close()


@pytest_asyncio.fixture(scope="session")
async def api(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """The API that all tests share, without rate limits; whoever stops a server starts it again."""
    async with running_api(stack, tmp_path_factory.mktemp("api")) as running:
        yield running
