"""The MTProto server: listens, knows every connection and session, and hands requests to the Backend.

The composition root of the wire; the sandbox's world starts it and pushes updates into its sessions.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from telethon.tl.alltlobjects import LAYER

from gateway.errors import ConfigurationError
from gateway.sandbox.backend import Backend, ClientSession, RpcError
from gateway.sandbox.wire.connection import Connection
from gateway.sandbox.wire.crypto import AuthKey, Salts
from gateway.sandbox.wire.faults import Faults
from gateway.sandbox.wire.keys import AuthKeys, ServerKey
from gateway.sandbox.wire.session import Session

log = structlog.get_logger()

IDLE_SESSIONS = 64  # sessions without a connection that are remembered, with their answers


class WireServer:
    """A Telegram data center's front door, on one TCP port.

    Use as an async context manager. `state_dir` keeps the server's key and every client's, so that logins
    survive a restart.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        state_dir: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
    ) -> None:
        self.backend = backend
        self.host = host
        self.port = port
        self.faults = faults if faults is not None else Faults()
        self.server_key = ServerKey(state_dir)
        self.auth_keys = AuthKeys(state_dir / "auth_keys")
        self.salts = Salts()
        self.connections: set[Connection] = set()
        self._sessions: OrderedDict[tuple[int, int], Session] = OrderedDict()
        self._layers: dict[int, int] = {}
        self._permanent: dict[int, int] = {}  # temporary key's id → the key it stands for
        self._calls: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._all_lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: Connection(self), self.host, self.port)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {self.host}:{self.port} ({error.strerror}); choose another port"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self.faults.observe_stalls(self._apply_stalls)
        log.info("sandbox_listening", host=self.host, port=self.port, public_key=str(self.public_key_path))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self.faults.forget_observer(self._apply_stalls)
        self._server.close()
        # The backend is to have heard of every session's end before this returns.
        while self.drop_connections():
            self._all_lost.clear()
            await self._all_lost.wait()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def public_key_path(self) -> Path:
        """The PEM file that clients need to know this server."""
        return self.server_key.public_path

    @property
    def public_key_pem(self) -> str:
        return self.server_key.public_pem

    @property
    def sessions(self) -> Collection[ClientSession]:
        """The client sessions that have a connection now."""
        return [session for session in self._sessions.values() if session.live]

    def drop_connections(self, auth_key_id: int | None = None) -> int:
        """Resets every connection, or one client's; returns how many."""
        dropped = [c for c in self.connections if auth_key_id in (None, c.auth_key_id)]
        for connection in dropped:
            connection.abort()
        return len(dropped)

    def destroy_auth_key(self, auth_key_id: int) -> None:
        """Forgets a client's key and resets its connections; when it comes back it gets error -404."""
        for temporary in [key for key, permanent in self._permanent.items() if permanent == auth_key_id]:
            self.auth_keys.remove(temporary)
            del self._permanent[temporary]
        self.auth_keys.remove(auth_key_id)
        self._layers.pop(auth_key_id, None)
        for connection in [c for c in self.connections if c.auth_key_id == auth_key_id]:
            connection.close()

    def renew_sessions(self) -> None:
        """Tells every connected client of a new session, as after a loss of the server's own memory."""
        for session in self._sessions.values():
            if session.live:
                session.renew()

    def rotate_salts(self) -> None:
        """Invalidates every client's server salt: the next message of each is answered bad_server_salt."""
        self.salts.rotate()

    # What connections, sessions and calls use

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_lost.set()

    def session(self, key: AuthKey, session_id: int) -> Session:
        """The session with this id under this key, made when it is not known."""
        found = self._sessions.get((key.id, session_id))
        if found is None:
            auth_key_id = self._permanent.get(key.id, key.id)
            found = self._sessions[key.id, session_id] = Session(self, key, auth_key_id, session_id)
            self._forget_idle()
        return found

    def forget_session(self, asking: Session, session_id: int) -> bool:
        """destroy_session: drops another session of the same key; False when there is none."""
        for name, session in self._sessions.items():
            if session is not asking and name == (asking.key.id, session_id):
                session.close()
                del self._sessions[name]
                return True
        return False

    def opened(self, session: Session) -> None:
        self.backend.opened(session)

    def closed(self, session: Session) -> None:
        self.backend.closed(session)

    def layer_of(self, auth_key_id: int) -> int:
        """The layer that this client last announced: it does so once, not in each session."""
        return self._layers.get(auth_key_id, int(LAYER))

    def remember_layer(self, auth_key_id: int, layer: int) -> None:
        self._layers[auth_key_id] = layer

    def future_salts(self, session: Session, count: int) -> list[tuple[datetime, datetime, int]]:
        return self.salts.future(session.key, min(max(count, 1), 64))

    def bind(self, session: Session, permanent_key_id: int) -> bool:
        """auth.bindTempAuthKey: from now on the session's key stands for the permanent one."""
        permanent = permanent_key_id & (1 << 64) - 1
        if permanent not in self.auth_keys:
            raise RpcError(400, "ENCRYPTED_MESSAGE_INVALID")
        self._permanent[session.key.id] = permanent
        self.closed(session)
        session.auth_key_id = permanent
        self.opened(session)
        return True

    def watch(self, call: asyncio.Task[None]) -> None:
        """Keeps a running call from being collected, and ends it with the server."""
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def _forget_idle(self) -> None:
        idle = [name for name, session in self._sessions.items() if session.connection is None]
        for name in idle[: max(0, len(idle) - IDLE_SESSIONS)]:
            del self._sessions[name]

    def _apply_stalls(self) -> None:
        for connection in list(self.connections):
            connection.apply_stall()
