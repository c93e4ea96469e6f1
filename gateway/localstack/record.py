"""What a running stack leaves in its directory for others: the settings to source, and whom to stop."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Self

import msgspec

from gateway.errors import ConfigurationError
from gateway.localstack.process import ServerFailed, exited, signal_quietly
from gateway.localstack.stack import LocalStack
from gateway.server_secrets import write_private

STOP_LIMIT = 60.0  # seconds
_FILE = "stack.json"
_ENVIRONMENT_FILE = "stack.env"


class Process(msgspec.Struct, frozen=True):
    """A process by number and start time, because numbers are used again."""

    pid: int
    started: int
    port: int = 0

    @classmethod
    def of(cls, pid: int, port: int = 0) -> Self:
        return cls(pid, _start_time(pid) or 0, port)

    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


class Record(msgspec.Struct, frozen=True):
    """The process that keeps a stack up, and the servers it keeps."""

    keeper: Process
    servers: dict[str, Process] = {}

    @classmethod
    def of(cls, stack: LocalStack) -> Self:
        """This process as keeper of the servers of `stack` that run now."""
        servers = {
            server.name: Process.of(server.pid, server.port) for server in stack.all_servers if server.pid
        }
        return cls(Process.of(os.getpid()), servers)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The record in `directory`; None without one. Raises ConfigurationError for somebody else's."""
        try:
            with (directory / _FILE).open("rb") as stream:
                if os.fstat(stream.fileno()).st_uid != os.geteuid():
                    raise ConfigurationError(f"{directory} is another user's; name a directory of your own")
                return msgspec.json.decode(stream.read(), type=cls)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, directory: Path) -> None:
        write_private(directory / _FILE, msgspec.json.encode(self).decode())

    async def stop(self) -> None:
        """Ends the keeper, and with it its servers; returns when all have gone."""
        if self.keeper.alive():
            signal_quietly(self.keeper.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_LIMIT):
                    await exited(self.keeper.pid)
            except TimeoutError:
                raise ServerFailed(
                    f"the stack's process {self.keeper.pid} did not end within {STOP_LIMIT:.0f} s; "
                    f"kill -KILL {self.keeper.pid} ends it and its servers"
                ) from None
        # A keeper that was killed has taken its servers with it; this waits until they are gone.
        for server in self.servers.values():
            if server.alive():
                signal_quietly(server.pid, signal.SIGKILL)
                await exited(server.pid)


def environment_file(directory: Path) -> Path:
    """The file to source, readable by its owner only."""
    return directory / _ENVIRONMENT_FILE


def write_environment(stack: LocalStack) -> Path:
    file = environment_file(stack.directory)
    write_private(file, "".join(f"export {name}='{value}'\n" for name, value in stack.environment.items()))
    return file


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None for one that is gone or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
