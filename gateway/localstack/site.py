"""What all servers of one local stack share: its directory, its passwords, its ports, and who they run as."""

import os
import pwd
import random
import signal
import socket
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from gateway.errors import ConfigurationError
from gateway.server_secrets import Passwords

# Below the kernel's range for outgoing connections, so that nobody is given a stopped server's port.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Identity:
    """Who the servers run as: ourselves; `nobody` when we are root, which PostgreSQL and PgBouncer refuse."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def current(cls) -> Self:
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid, switch=True)

    def command(self, *argv: str | Path, orphan_signal: signal.Signals = signal.SIGKILL) -> list[str]:
        """The command line that runs `argv` as this user, and signals it when we are gone."""
        become = ["--reuid", str(self.uid), "--regid", str(self.gid), "--clear-groups"] if self.switch else []
        return ["setpriv", *become, "--pdeathsig", orphan_signal.name, "--", *map(str, argv)]

    def give(self, path: Path) -> None:
        """Makes `path`, and all in it, the servers' own."""
        if self.switch:
            for item in (path, *path.rglob("*")):
                os.chown(item, self.uid, self.gid, follow_symlinks=False)

    def own_directory(self, path: Path) -> Path:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.give(path)
        return path


class FreePorts:
    """Hands out loopback ports that nothing listens on now, no two the same on this machine while it lives.

    A server binds its port only some time after it was given it, and not at all while it is stopped.
    Meanwhile an abstract Unix socket with the port's name keeps it from other stacks; the kernel takes that
    back with the process, however it ends.
    """

    def __init__(self) -> None:
        self._reservations: list[socket.socket] = []
        weakref.finalize(self, _close, self._reservations)

    def take(self) -> int:
        for port in random.sample(_PORTS, k=len(_PORTS)):
            reservation = socket.socket(socket.AF_UNIX)
            try:
                reservation.bind(f"\0telegram-gateway-port-{port}")
                with socket.socket() as candidate:
                    candidate.bind(("127.0.0.1", port))
            except OSError:
                reservation.close()
                continue
            self._reservations.append(reservation)
            return port
        raise ConfigurationError(f"every port from {_PORTS.start} to {_PORTS.stop} is in use")


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


@dataclass(frozen=True)
class Site:
    """One stack's place on this machine."""

    directory: Path
    config_dir: Path
    passwords: Passwords
    identity: Identity
    ports: FreePorts = field(default_factory=FreePorts)

    @property
    def secrets(self) -> Path:
        """Password files, and the files derived from them."""
        return self.directory / "secrets"
