"""The sandbox as one thing: world, wire and faults together, started and stopped as a context manager."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.sandbox.accounts import Accounts
from gateway.sandbox.control import ControlServer
from gateway.sandbox.delivery import Delivery
from gateway.sandbox.faults import SandboxFaults
from gateway.sandbox.rpc.api import Api
from gateway.sandbox.rpc.call import Services
from gateway.sandbox.traffic import Traffic
from gateway.sandbox.truth import TruthEvent, truth_of
from gateway.sandbox.users import User
from gateway.sandbox.wire.server import WireServer
from gateway.sandbox.world import World


class Sandbox:
    """A loopback Telegram.

    `state_dir` keeps the keys and logins of its clients; the world lives as long as this object, and the
    next one in the same directory is a new world with new chats.
    `control_port` opens the HTTP control interface (0: any free port). `clock` is the world's time.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        control_port: int | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.world = World(seed=seed, clock=clock, generation=_next_generation(state_dir))
        self.delivery = Delivery(self.world)
        self.accounts = Accounts(self.world, self.delivery, state_dir)
        self.faults = SandboxFaults(self.delivery, self.accounts, seed)
        self.traffic = Traffic(self.world, seed=seed)
        self._state_dir = state_dir
        self._services = Services(
            self.world, self.delivery, self.accounts, self.faults, lambda: (self.host, self.port), {}, {}
        )
        self.wire = self._new_wire(host, port)
        self._control = ControlServer(self, control_port) if control_port is not None else None

    async def __aenter__(self) -> Self:
        await self.wire.__aenter__()
        if self._control is not None:
            try:
                await self._control.start()
            except BaseException:
                await self.wire.__aexit__(None, None, None)
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.traffic.stop()
        if self._control is not None:
            await self._control.stop()
        await self.wire.__aexit__(kind, error, trace)

    @property
    def host(self) -> str:
        return self.wire.host

    @property
    def port(self) -> int:
        return self.wire.port

    @property
    def public_key_path(self) -> Path:
        return self.wire.public_key_path

    @property
    def control_url(self) -> str:
        """Where the control interface listens. Raises RuntimeError when it was not asked for."""
        if self._control is None:
            raise RuntimeError("this sandbox has no control interface; give it a control_port")
        return self._control.url

    def truth(self, user: User, since: int = 0) -> list[TruthEvent]:
        """What the user's account could see, in order; `since` is a `World.position` to start behind."""
        return truth_of(user, since)

    def drop_connections(self, user: User | None = None) -> int:
        """Resets every connection, or one user's; returns how many."""
        if user is None:
            return self.wire.drop_connections()
        return sum(self.wire.drop_connections(key) for key in self.accounts.keys_of(user))

    async def restart(self, down_seconds: float = 0.0) -> None:
        """Stops the server, and starts it on the same port after `down_seconds`. The world goes on."""
        host, port = self.host, self.port
        await self.wire.__aexit__(None, None, None)
        self.accounts.disconnect_all()
        await asyncio.sleep(down_seconds)
        self.wire = await self._new_wire(host, port).__aenter__()

    def _new_wire(self, host: str, port: int) -> WireServer:
        return WireServer(
            Api(self._services), state_dir=self._state_dir, host=host, port=port, faults=self.faults
        )


def _next_generation(state_dir: Path) -> int:
    """How many worlds this directory has seen before."""
    file = state_dir / "generation"
    generation = int(file.read_text()) if file.exists() else 0
    file.write_text(str(generation + 1))
    return generation
