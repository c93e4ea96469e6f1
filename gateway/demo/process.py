"""The gateway as a child process, as systemd would run it: for the demo, the benchmarks and the tests."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from gateway.errors import GatewayError
from gateway.localstack.site import FreePorts

READY_SECONDS = 120.0
STOP_SECONDS = 60.0
ANSWER_SECONDS = 30.0  # to a request over HTTP
POLL_SECONDS = 0.02  # between looks at a process that has no way to call back


class ProcessError(GatewayError):
    """The child process did not do what was asked of it."""


class GatewayProcess:
    """`telegram-gateway run` with its own state and session directory below `directory`.

    `environment` holds the TELEGRAM_ settings of the servers; nothing else of the caller's is passed on.
    Logs go to `directory`/gateway.log.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.journal_path = self.state_dir / "journal.db"
        self.session_dir = directory / "session"
        self.log_file = directory / "gateway.log"
        self._ports = FreePorts()  # kept: the port is this process's also while it is down
        self.port = self._ports.take()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TELEGRAM_")},
            "TELEGRAM_STATE_DIR": str(self.state_dir),
            "TELEGRAM_SESSION_DIR": str(self.session_dir),
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{self.port}",
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The running process. Raises ProcessError when there is none."""
        return self._running().pid

    async def login(self, phone: str, code: str = "12345", *, account: str = "main") -> None:
        """Logs an account in. Raises ProcessError with what the command said."""
        await self.command("login", "--account", account, "--phone", phone, "--code", code)

    async def command(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Runs another `telegram-gateway` command with the same settings; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            env={**self._environment, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise ProcessError(f"{arguments[0]} exited {process.returncode}: {output.decode().strip()}")
        return output.decode()

    async def start(self, *, wait: bool = True) -> None:
        """Starts the daemon and, with `wait`, returns once it is ready."""
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway",
                "run",
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            await self.wait_ready()

    async def wait_ready(self, within: float = READY_SECONDS) -> None:
        """Returns once `/ready` says so. Raises ProcessError when the process ends first or time runs out."""
        await self._wait(lambda answer: bool(answer.get("ready")), within)

    async def wait_answering(self, within: float = READY_SECONDS) -> None:
        """As `wait_ready`, but content when the process answers at all: it may not be connected yet."""
        await self._wait(lambda answer: True, within)

    async def _wait(self, wanted: Callable[[dict[str, Any]], bool], within: float) -> None:
        try:
            async with asyncio.timeout(within):
                while (answer := await self._get("/ready")) is None or not wanted(answer):
                    if self._running().returncode is not None:
                        raise ProcessError(
                            f"the gateway exited {self._running().returncode}; see {self.log_file}"
                        )
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise ProcessError(
                f"the gateway was not ready within {within:.0f} s; see {self.log_file}"
            ) from None

    async def status(self) -> dict[str, Any] | None:
        """What `/status` says; None while nothing answers."""
        return await self._get("/status")

    async def wait_delivered(self, sinks: int, *, within: float = 120.0) -> None:
        """Returns once `sinks` sinks have all of the journal. Raises ProcessError when time runs out."""
        status = None
        try:
            async with asyncio.timeout(within):
                while True:
                    status = await self.status()
                    if (
                        status
                        and len(status["sinks"]) == sinks
                        and not any(sink["lag_events"] for sink in status["sinks"])
                    ):
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise ProcessError(f"not everything was delivered in {within:.0f} s: {status}") from None

    async def stop(self) -> int:
        """A clean stop; returns the exit code."""
        process = self._running()
        process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            return await process.wait()

    async def kill(self) -> None:
        """`kill -9`, and waits for the end."""
        process = self._running()
        process.kill()
        await process.wait()

    async def wait_exit(self, within: float = STOP_SECONDS) -> int:
        """The exit code of a process that ends by itself."""
        async with asyncio.timeout(within):
            return await self._running().wait()

    async def close(self) -> None:
        """Ends the process if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            await self.kill()

    def log(self) -> str:
        """Everything the daemon has logged."""
        return self.log_file.read_text()

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ProcessError("the gateway has not been started")
        return self._process

    async def _get(self, path: str) -> dict[str, Any] | None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                body: dict[str, Any] = msgspec.json.decode(await answer.read())
                return body
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):  # the last: it is about to crash
            return None
