"""One client session: message ids, sequence numbers, containers, and the queue of what goes to the client.

Sits between a connection's packets and the requests in them (`rpc.py`); the Backend sees it as its
ClientSession and pushes updates into it.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import structlog
from telethon.tl import types

from gateway.sandbox.backend import RpcError
from gateway.sandbox.wire import tl
from gateway.sandbox.wire.crypto import AuthKey
from gateway.sandbox.wire.faults import REORDER_HOLD_SECONDS
from gateway.sandbox.wire.rpc import Calls

if TYPE_CHECKING:
    from gateway.sandbox.wire.connection import Connection
    from gateway.sandbox.wire.server import WireServer

log = structlog.get_logger()

CONTAINER_MESSAGES = 100
CONTAINER_BYTES = 200_000
# Beyond either a client that does not read is disconnected; it recovers what it missed by difference.
QUEUE_MESSAGES = 50_000
QUEUE_BYTES = 32 << 20
ACK_DELAY_SECONDS = 1.0

_MESSAGE = struct.Struct("<qii")  # message id, sequence number, length
_CONTAINER = struct.Struct("<Ii")
_ANSWER, _NOTICE = 1, 3  # what a server's message id is modulo 4


def split(message_id: int, sequence: int, body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages in `body`, which may be gzipped, a container, or simply one message.

    Raises RpcError when a gzipped message is damaged, struct.error when a container is.
    """
    kind = int.from_bytes(body[:4], "little")
    if kind == tl.GZIP_PACKED:
        yield from split(message_id, sequence, tl.decompress(body))
    elif kind == tl.MSG_CONTAINER:
        _, count = _CONTAINER.unpack_from(body)
        offset = _CONTAINER.size
        for _ in range(count):
            inner_id, inner_sequence, length = _MESSAGE.unpack_from(body, offset)
            offset += _MESSAGE.size
            if length < 4 or offset + length > len(body):
                raise struct.error("a message in a container is longer than the container")
            yield from split(inner_id, inner_sequence, body[offset : offset + length])
            offset += length
    else:
        yield message_id, sequence, body


class Session:
    """A client's session, which may outlive its connections."""

    def __init__(self, server: "WireServer", key: AuthKey, auth_key_id: int, session_id: int) -> None:
        self._server = server
        self.key = key
        self._loop = asyncio.get_running_loop()
        self.auth_key_id = auth_key_id
        self.session_id = session_id
        self.layer = server.layer_of(auth_key_id)
        self.receives_updates = True
        self.connection: Connection | None = None
        self.calls = Calls(server, self)
        self._announced = False
        self._queue: deque[tuple[bytes, int, bool]] = deque()
        self._queued_bytes = 0
        self._flush_due = False
        self._sequence = 0
        self._last_id = 0
        self._unacknowledged: set[int] = set()
        self._ack_timer: asyncio.TimerHandle | None = None
        self._held: bytes | None = None

    # What the Backend uses

    def push(self, updates: bytes) -> None:
        """Queues a serialised Updates object for the client; never blocks, and is lost when the client is."""
        if not self.live:
            return
        updates = self._server.faults.disguise(updates)
        fault = self._server.faults.on_push(self.auth_key_id)
        if fault is not None:
            kind, delay = fault
            if kind == "duplicate":
                self._push(updates)
            elif kind == "delay":
                self._loop.call_later(delay, self._push, updates)
                return
            elif kind == "reorder" and self._held is None:
                self._held = updates
                self._loop.call_later(REORDER_HOLD_SECONDS, self._release, updates)
                return
            elif kind == "swallow":
                return
        self._push(updates)
        if self._held is not None:
            self._release(self._held)

    def renew(self) -> None:
        """Tells the client that a new session began: what was pushed before it may be lost."""
        self._notify_new(self._last_id)

    def close(self) -> None:
        """Drops the connection at once."""
        if self.connection is not None:
            self.connection.abort()

    @property
    def live(self) -> bool:
        """Whether what is sent now has a chance to arrive."""
        return self.connection is not None and not self.connection.closing

    # What the connection uses

    def attach(self, connection: "Connection") -> None:
        """Makes `connection` the one that the client hears from."""
        self.connection = connection

    def detach(self) -> None:
        """The connection is gone, and with it everything that was not written."""
        self.connection = None
        self._queue.clear()
        self._queued_bytes = 0
        self._unacknowledged.clear()
        self._held = None
        if self._announced:
            # Pushes may be lost from here on, so a client that comes back is told of a new session.
            self._announced = False
            self._server.closed(self)

    def receive(self, message_id: int, sequence: int, body: bytes) -> None:
        """Takes one message of the client, or a container of them, that passed the connection's checks."""
        try:
            messages = list(split(message_id, sequence, body))
        except (struct.error, RpcError):
            self.reject(message_id, sequence, 64)
            return
        for inner_id, inner_sequence, inner in messages:
            if not self._announced:
                self._announce(inner_id)
            if inner_sequence & 1:
                self._unacknowledged.add(inner_id)
            self.calls.receive(inner_id, inner)
        if self._unacknowledged and self._ack_timer is None:
            self._ack_timer = self._loop.call_later(ACK_DELAY_SECONDS, self._acknowledge)

    def reject_salt(self, message_id: int, sequence: int) -> None:
        """Tells the client that it used a salt that is no longer valid, and which one is."""
        salt = self._server.salts.current(self.key)
        self.send(types.BadServerSalt(message_id, sequence, 48, salt), content=False)

    def reject(self, message_id: int, sequence: int, code: int) -> None:
        """Tells the client what is wrong with its message."""
        self.send(types.BadMsgNotification(message_id, sequence, code), content=False)

    # What goes to the client

    def send(self, message: Any, *, content: bool, answers: int | None = None) -> None:
        """Queues a service message or an answer; `answers` is the client's message that it acknowledges."""
        if answers is not None:
            self._unacknowledged.discard(answers)
        if self.live:
            self._enqueue(bytes(message), _ANSWER, content)

    def flush(self) -> None:
        """Writes what is queued, in containers, until all is written or the connection takes no more."""
        self._flush_due = False
        while self._queue and self.connection is not None and not self.connection.blocked:
            self._write_next()

    def _push(self, updates: bytes) -> None:
        if self.live:
            self._enqueue(updates, _NOTICE, True)

    def _release(self, held: bytes) -> None:
        if self._held is held:
            self._held = None
            self._push(held)

    def _enqueue(self, body: bytes, residue: int, content: bool) -> None:
        self._queue.append((body, residue, content))
        self._queued_bytes += len(body)
        if self._queued_bytes > QUEUE_BYTES or len(self._queue) > QUEUE_MESSAGES:
            log.warning("sandbox_client_too_slow", auth_key_id=self.auth_key_id, queued=len(self._queue))
            self.close()
        elif not self._flush_due:
            # The next turn of the loop, so that everything pushed in this one shares a container.
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def _write_next(self) -> None:
        queue = self._queue
        parts: list[bytes] = []
        size = 0
        message_id = self._next_id()
        while queue and len(parts) < 2 * CONTAINER_MESSAGES and size < CONTAINER_BYTES:
            body, residue, content = queue.popleft()
            size += len(body)
            message_id += 4
            parts += (_MESSAGE.pack(message_id + residue, self._next_sequence(content), len(body)), body)
        self._queued_bytes -= size
        if len(parts) == 2:
            payload = b"".join(parts)
        else:
            count = len(parts) // 2
            message_id += 4  # a container's id is above those of its messages
            header = _MESSAGE.pack(message_id + _NOTICE, self._sequence * 2, size + 16 * count + 8)
            payload = b"".join((header, _CONTAINER.pack(tl.MSG_CONTAINER, count), *parts))
        self._last_id = message_id
        assert self.connection is not None
        self.connection.send_encrypted(
            self.key, struct.pack("<qq", self._server.salts.current(self.key), self.session_id) + payload
        )

    def _next_id(self) -> int:
        return max(time.time_ns() * (1 << 32) // 1_000_000_000 & ~3, self._last_id)

    def _next_sequence(self, content: bool) -> int:
        if not content:
            return self._sequence * 2
        self._sequence += 1
        return self._sequence * 2 - 1

    def _announce(self, first_message_id: int) -> None:
        self._announced = True
        self._notify_new(first_message_id)
        self._server.opened(self)

    def _notify_new(self, first_message_id: int) -> None:
        salt = self._server.salts.current(self.key)
        self.send(types.NewSessionCreated(first_message_id, time.time_ns(), salt), content=True)

    def _acknowledge(self) -> None:
        self._ack_timer = None
        if self._unacknowledged:
            self.send(types.MsgsAck(sorted(self._unacknowledged)), content=False)
            self._unacknowledged.clear()
