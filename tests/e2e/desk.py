"""What an operator has at hand: a gateway without sinks, a shell, a terminal, and a Telegram to play with."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.demo.process import GatewayProcess
from gateway.sandbox import Sandbox

ANSWER_SECONDS = 120.0
API_HASH = "0123456789abcdef0123456789abcdef"
NO_SINKS = {"TELEGRAM_ENABLE_DB": "false", "TELEGRAM_ENABLE_CACHE": "false", "TELEGRAM_ENABLE_QUEUE": "false"}


@dataclass(frozen=True)
class Answer:
    """What a command said, on both streams together, and its exit code."""

    code: int
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def assert_one_line(self, code: int, *hints: str) -> None:
        """It failed as it should: with that code, and one line with all `hints` in it."""
        assert self.code == code, self.text
        assert len(self.lines) == 1, self.text
        assert "Traceback" not in self.text
        for hint in hints:
            assert hint in self.text


class Desk:
    """One gateway's settings below `directory`; commands run with them as in a shell."""

    def __init__(self, directory: Path, sandbox: Sandbox, settings: Mapping[str, str] = NO_SINKS) -> None:
        self.sandbox = sandbox
        self.settings = {
            "TELEGRAM_API_ID": "1",
            "TELEGRAM_API_HASH": API_HASH,
            "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
            "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
            **settings,
        }
        self.gateway = GatewayProcess(directory, self.settings)
        self._shell = {name: value for name, value in os.environ.items() if not name.startswith("TELEGRAM_")}

    def session_file(self, account: str = "main") -> Path:
        return self.gateway.session_dir / f"{account}.session"

    def environment(
        self, changes: Mapping[str, str] | None = None, without: Iterable[str] = ()
    ) -> dict[str, str]:
        """The settings as environment variables."""
        settings = {
            "TELEGRAM_STATE_DIR": str(self.gateway.state_dir),
            "TELEGRAM_SESSION_DIR": str(self.gateway.session_dir),
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{self.gateway.port}",
            **self.settings,
            **(changes or {}),
        }
        return {**self._shell, **{name: value for name, value in settings.items() if name not in without}}

    async def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, without: Iterable[str] = ()
    ) -> Answer:
        """Runs a command to its end, without a terminal."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            *arguments,
            env=self.environment(environment, without),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Answer(process.returncode, output.decode())

    @asynccontextmanager
    async def terminal(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator["Terminal"]:
        """Runs a command at a terminal until the block ends."""
        terminal = await Terminal.run(arguments, self.environment(environment))
        try:
            yield terminal
        finally:
            await terminal.close()


class Terminal:
    """A command at a pseudo-terminal: what it shows, and a keyboard."""

    def __init__(self, process: asyncio.subprocess.Process, keyboard: int) -> None:
        self._process = process
        self._keyboard = keyboard
        self._changed = asyncio.Event()
        self.shown = ""
        os.set_blocking(keyboard, False)
        asyncio.get_running_loop().add_reader(keyboard, self._read)

    @classmethod
    async def run(cls, arguments: Iterable[str], environment: Mapping[str, str]) -> Self:
        keyboard, screen = pty.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway",
                *arguments,
                env={**environment, "TERM": "xterm", "COLUMNS": "200"},
                stdin=screen,
                stdout=screen,
                stderr=screen,
                preexec_fn=_own_terminal,
            )
        finally:
            os.close(screen)
        return cls(process, keyboard)

    async def until(self, text: str) -> None:
        """Returns once `text` has been shown."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while text not in self.shown:
                assert not self._ended, f"it ended and never showed {text!r}: {self.shown}"
                self._changed.clear()
                await self._changed.wait()

    async def until_more(self) -> None:
        """Returns once something more has been shown."""
        shown = len(self.shown)
        async with asyncio.timeout(ANSWER_SECONDS):
            while len(self.shown) == shown:
                assert not self._ended, f"it ended: {self.shown}"
                self._changed.clear()
                await self._changed.wait()

    def type(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    async def end(self) -> Answer:
        """How the command ended."""
        async with asyncio.timeout(ANSWER_SECONDS):
            code = await self._process.wait()
            while not self._ended:
                self._changed.clear()
                await self._changed.wait()
        return Answer(code, self.shown)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._keyboard)
        os.close(self._keyboard)

    _ended = False

    def _read(self) -> None:
        try:
            data = os.read(self._keyboard, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if not data:
            self._ended = True
            asyncio.get_running_loop().remove_reader(self._keyboard)
        self.shown += data.decode(errors="replace")
        self._changed.set()


def _own_terminal() -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C becomes a signal
