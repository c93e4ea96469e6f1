"""A process of the benchmark and its parent talk in lines of JSON: one command in, one answer out."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

LINE_LIMIT = 256 << 20  # an answer may hold the arrival of every message, a command every request
STOP_SECONDS = 10.0

Handler = Callable[..., Awaitable[dict[str, Any]]]


class ChildFailed(Exception):
    """A process of the benchmark ended when it should not have."""


class Child:
    """The parent's side: `python -m MODULE ARGUMENTS`, its standard error in `log`."""

    def __init__(
        self, module: str, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = (sys.executable, "-m", module, *arguments)
        self._log = log
        self._environment = environment or {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> dict[str, Any]:
        """Starts it and returns its greeting."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE_LIMIT,
                env={**os.environ, **self._environment},
            )
        return await self._answer()

    async def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer; one at a time."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        return await self._answer()

    async def stop(self) -> None:
        """Ends it: it stops when its standard input does."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._command[2]} ended; its last words: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])


def run(main: Coroutine[Any, Any, None], runner: Callable[..., None] = asyncio.run) -> None:
    """The child's whole life. Whatever it prints besides its answers, such as log lines, is no answer."""
    with redirect_stdout(sys.stderr):
        runner(main)


async def serve(greeting: Mapping[str, Any], handlers: Mapping[str, Handler]) -> None:
    """The child's side: greets, then answers until its standard input ends."""
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print(json.dumps(greeting), file=sys.__stdout__, flush=True)
    while line := await reader.readline():
        command = json.loads(line)
        answer = await handlers[command.pop("do")](**command)
        print(json.dumps(answer), file=sys.__stdout__, flush=True)
