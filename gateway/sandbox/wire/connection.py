"""One TCP connection of a client: packets in and out, the key exchange, and the checks of each message.

Between the event loop's transport and the session (`session.py`) that the client speaks in.
"""

import asyncio
import struct
import time
from typing import TYPE_CHECKING, cast

import structlog

from gateway.sandbox.wire import crypto, transport
from gateway.sandbox.wire.handshake import Handshake, HandshakeError

if TYPE_CHECKING:
    from gateway.sandbox.wire.server import WireServer
    from gateway.sandbox.wire.session import Session

log = structlog.get_logger()

WRITE_BUFFER_BYTES = 256 << 10
OLDEST_MESSAGE_SECONDS = 300
NEWEST_MESSAGE_SECONDS = 30

_AUTH_KEY_NOT_FOUND = struct.pack("<i", -404)
_PLAIN_HEADER = struct.Struct("<qqi")
_INNER_HEADER = struct.Struct("<qqqii")  # salt, session id, message id, sequence number, length


class Connection(asyncio.Protocol):
    """Reads and writes packets; knows its session once the first encrypted message came."""

    def __init__(self, server: "WireServer") -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._framing: transport.Framing | None = None
        self._handshake = Handshake(server.server_key, server.auth_keys)
        self._paused = False
        self._stalled = False
        self._disconnect_timer: asyncio.TimerHandle | None = None
        self.session: Session | None = None

    @property
    def auth_key_id(self) -> int | None:
        return self.session.auth_key_id if self.session is not None else None

    @property
    def blocked(self) -> bool:
        """Whether writing has to wait: the client does not read, or a stall is on."""
        return self._paused or self._stalled

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    def abort(self) -> None:
        """Resets the connection; what was not sent yet is lost."""
        self._transport.abort()

    def close(self) -> None:
        """Closes the connection once everything written has been sent."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if self._server.faults.refuses_connection():
            self._transport.abort()
            return
        self._server.connections.add(self)
        self.apply_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._disconnect_timer is not None:
            self._disconnect_timer.cancel()
        try:
            if self.session is not None and self.session.connection is self:
                self.session.detach()
        finally:
            self._server.lost(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def apply_stall(self) -> None:
        """Stops or goes on, as the server's faults now say."""
        stalled = self._server.faults.stalls(self.auth_key_id)
        if stalled == self._stalled or self.closing:
            return
        self._stalled = stalled
        if stalled:
            self._transport.pause_reading()
            return
        self._transport.resume_reading()
        self._read()
        self._flush()

    def disconnect_after(self, seconds: float) -> None:
        """Closes the connection unless the client asks again in time (ping_delay_disconnect)."""
        if self._disconnect_timer is not None:
            self._disconnect_timer.cancel()
        self._disconnect_timer = asyncio.get_running_loop().call_later(seconds, self._transport.close)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._read()

    def send_encrypted(self, key: crypto.AuthKey, plaintext: bytes) -> None:
        self._send(crypto.encrypt(key, plaintext))

    def _read(self) -> None:
        try:
            if self._framing is None:
                self._framing = transport.detect(self._buffer)
            if self._framing is None or self._stalled:
                return
            for packet in self._framing.packets(self._buffer):
                self._receive(packet)
                if self._stalled or self.closing:
                    return
        except (transport.FramingError, crypto.DecryptionError) as error:
            log.info("sandbox_connection_refused", reason=str(error))
            self.abort()
        except HandshakeError as error:
            log.info("sandbox_handshake_failed", reason=str(error))
            self._not_found()

    def _send(self, payload: bytes) -> None:
        assert self._framing is not None
        if not self.closing:
            self._transport.write(self._framing.encode(payload))

    def _receive(self, packet: bytes) -> None:
        if len(packet) < _PLAIN_HEADER.size:
            raise transport.FramingError("a packet is shorter than any message")
        key_id = int.from_bytes(packet[:8], "little")
        if key_id == 0:
            self._receive_plain(packet)
            return
        key = self._server.auth_keys.get(key_id)
        refused = self._server.faults.on_packet(key_id)
        if refused is not None:
            assert self._framing is not None
            self._transport.write(self._framing.error(refused))
            self._transport.close()
        elif key is None:
            self._not_found()
        else:
            self._receive_encrypted(key, packet)

    def _receive_plain(self, packet: bytes) -> None:
        _, message_id, length = _PLAIN_HEADER.unpack_from(packet)
        answer = self._handshake.answer(packet[_PLAIN_HEADER.size : _PLAIN_HEADER.size + length])
        if answer:
            answer_id = max(message_id, int(time.time()) << 32) & ~3 | 1
            self._send(_PLAIN_HEADER.pack(0, answer_id, len(answer)) + answer)

    def _receive_encrypted(self, key: crypto.AuthKey, packet: bytes) -> None:
        plaintext = crypto.decrypt(key, packet)
        salt, session_id, message_id, sequence, length = _INNER_HEADER.unpack_from(plaintext)
        if not 4 <= length <= len(plaintext) - _INNER_HEADER.size - 12 or length % 4:
            raise crypto.DecryptionError(f"a message of {length} bytes does not fit its packet")
        session = self._server.session(key, session_id)
        if session.connection is not self:
            self._take(session)
        age = time.time() - message_id / (1 << 32)
        if message_id & 3:
            session.reject(message_id, sequence, 18)
        elif age > OLDEST_MESSAGE_SECONDS:
            session.reject(message_id, sequence, 16)
        elif age < -NEWEST_MESSAGE_SECONDS:
            session.reject(message_id, sequence, 17)
        elif not self._server.salts.accepts(key, salt):
            session.reject_salt(message_id, sequence)
        else:
            session.receive(message_id, sequence, plaintext[_INNER_HEADER.size : _INNER_HEADER.size + length])

    def _take(self, session: "Session") -> None:
        """The client speaks in `session` from this connection now, whichever it used before."""
        if self.session is not None and self.session.connection is self:
            self.session.detach()
        self.session = session
        session.attach(self)
        self.apply_stall()

    def _not_found(self) -> None:
        self._send(_AUTH_KEY_NOT_FOUND)
        self._transport.close()

    def _flush(self) -> None:
        if self.session is not None and self.session.connection is self:
            self.session.flush()
