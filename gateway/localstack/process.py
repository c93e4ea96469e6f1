"""One server process: run unprivileged, probed by its own protocol, and never left behind.

Every process is started with a parent-death signal, so that it goes even when we are killed.
"""

import asyncio
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import ClassVar

from gateway.errors import GatewayError
from gateway.localstack.site import Site

READY_LIMIT = 300.0  # seconds; three RabbitMQ nodes at once on a busy machine take most of a minute
STOP_LIMIT = 90.0  # seconds
PROBE_LIMIT = 5.0  # seconds
PROBE_INTERVAL = 0.05  # seconds
_LOG_TAIL_LINES = 12


class ServerFailed(GatewayError):
    """A server of the local stack did not start, or ended when it should not have."""


def environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a server: nothing of ours, so that no PG… variable or secret slips in."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", "HOME": str(home), **extra}


async def run_once(argv: list[str], home: Path, extra: Mapping[str, str]) -> str:
    """Runs a command to its end; returns what it printed. Raises ServerFailed with it when it fails."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=home,
        env=environment(home, extra),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise ServerFailed(
            f"{' '.join(argv)} failed ({process.returncode}):\n{output.decode(errors='replace')}"
        )
    return output.decode(errors="replace")


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, from /proc: PostgreSQL's and Erlang's children leave the process group."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


async def exited(pid: int) -> None:
    """Returns when `pid` has ended, child of ours or not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_reader(descriptor, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def signal_quietly(pid: int, number: int) -> None:
    """Signals a process that may have ended already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


class Server(ABC):
    """A server of the stack. Stopping, killing and starting again keep its port and its data."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    # What the kernel sends it when we die without stopping it.
    orphan_signal: ClassVar[signal.Signals] = signal.SIGKILL
    # What a probe raises while the server is not ready yet; anything else is a defect and surfaces.
    not_ready: ClassVar[tuple[type[Exception], ...]] = (OSError, EOFError)

    def __init__(self, name: str, site: Site) -> None:
        self.name = name
        self.site = site
        self.port = site.ports.take()
        self.directory = site.directory / name
        self.log_path = site.directory / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._prepared = False
        self._guard: subprocess.Popen[bytes] | None = None

    # What each kind of server says for itself.

    async def prepare(self) -> None:  # noqa: B027  not every server has something to prepare
        """Writes files and data before the first start."""

    @abstractmethod
    def command(self) -> list[str | Path]:
        """What starts it, in the foreground."""

    def variables(self) -> dict[str, str]:
        return {}

    @abstractmethod
    async def probe(self) -> None:
        """One request in the server's own protocol; raises one of `not_ready` until it is answered."""

    # What all have in common.

    @property
    def pid(self) -> int | None:
        """The server's main process, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts the server and returns when it answers; does nothing when it runs."""
        if self.pid is not None:
            return
        if not self._prepared:
            self.site.identity.own_directory(self.directory)
            await self.prepare()
            self.site.identity.give(self.directory)
            self._prepared = True
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.site.identity.command(*self.command(), orphan_signal=self.orphan_signal),
                cwd=self.directory,
                env=environment(self.directory, self.variables()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Returns when the server answers. Raises ServerFailed when it ended or READY_LIMIT is over."""
        await self.wait_until(self.probe)

    async def wait_until(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Repeats `probe` until it raises none of `not_ready`, and notices at once when the server ends."""
        last: Exception | None = None
        deadline = asyncio.get_running_loop().time() + READY_LIMIT
        while asyncio.get_running_loop().time() < deadline:
            if self._process is None:
                raise ServerFailed(f"{self.name} is not started")
            try:
                async with asyncio.timeout(PROBE_LIMIT):
                    return await probe()
            except self.not_ready as error:  # a time-out is an OSError
                last = error
            try:
                code = await asyncio.wait_for(self._process.wait(), PROBE_INTERVAL)
            except TimeoutError:
                continue
            raise ServerFailed(f"{self.name} ended with {code}; its last lines:\n{self.log_tail()}")
        raise ServerFailed(
            f"{self.name} was not ready on port {self.port} within {READY_LIMIT:.0f} s ({last!r}); "
            f"its last lines:\n{self.log_tail()}"
        )

    async def stop(self) -> None:
        """Asks the server to end, as its service manager would, and returns when all of it has."""
        await self._end(self.stop_signal)

    async def kill(self) -> None:
        """Ends the server as a crash would: no warning, no clean-up."""
        await self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freezes the server: connections stay open and nothing is answered."""
        if self.pid is None or self._guard is not None:
            return
        # The main process first: once it stands still, it makes no further children.
        os.kill(self.pid, signal.SIGSTOP)
        below = descendants(self.pid)
        for pid in below:
            signal_quietly(pid, signal.SIGSTOP)
        # Frozen children would outlive us, for they cannot see their parent die; the guard wakes them when
        # its standard input, held by us alone, ends.
        self._guard = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", 'cat; kill -CONT "$@" 2>&-', "guard", str(self.pid), *map(str, below)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def resume(self) -> None:
        """Lets a frozen server go on where it stood."""
        if self._guard is not None:
            self._guard.communicate()
            self._guard = None

    async def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        below = descendants(process.pid) if self.pid is not None else []
        if self.pid is not None:
            process.send_signal(number)
        if number == signal.SIGKILL:
            for pid in below:
                signal_quietly(pid, signal.SIGKILL)
        self.resume()
        try:
            async with asyncio.timeout(STOP_LIMIT), asyncio.TaskGroup() as group:
                group.create_task(process.wait())
                for pid in below:
                    group.create_task(exited(pid))
        except TimeoutError:
            if number == signal.SIGKILL:
                raise ServerFailed(f"{self.name} did not end although it was killed") from None
            await self._end(signal.SIGKILL)
        self._process = None

    def log_tail(self) -> str:
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        except FileNotFoundError:
            return "(no log)"
