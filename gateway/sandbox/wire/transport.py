"""TCP framings: how MTProto packets are cut out of a byte stream, and which framing a client chose.

The lowest layer of the wire: between the socket (`connection.py`) and encrypted packets.
"""

import secrets
import struct
import zlib
from collections.abc import Iterator
from typing import Protocol

MAX_PACKET_BYTES = 4 << 20  # a client's largest container is 1 MB; more than this is not MTProto

_ABRIDGED_TAG = b"\xef"
_INTERMEDIATE_TAG = b"\xee" * 4
_PADDED_TAG = b"\xdd" * 4
_QUICK_ACK = 0x80000000

_INT = struct.Struct("<i")
_UINT = struct.Struct("<I")
_FULL_HEADER = struct.Struct("<ii")


class FramingError(Exception):
    """The bytes are not MTProto in this framing; the connection cannot be used any more."""


class Framing(Protocol):
    """One of MTProto's TCP transports, for one connection."""

    def encode(self, payload: bytes) -> bytes:
        """`payload` as one packet of this framing."""

    def error(self, code: int) -> bytes:
        """A transport error, such as -429, as Telegram's servers were seen to send it."""

    def packets(self, buffer: bytearray) -> Iterator[bytes]:
        """Takes each whole packet off the front of `buffer`. Raises FramingError."""


class Full:
    """Length, sequence number and CRC32 round each packet; the only framing without a tag."""

    def __init__(self) -> None:
        self._sent = 0
        self._received = 0

    def encode(self, payload: bytes) -> bytes:
        packet = _FULL_HEADER.pack(len(payload) + 12, self._sent) + payload
        self._sent += 1
        return packet + _UINT.pack(zlib.crc32(packet))

    def error(self, code: int) -> bytes:
        return 3 * _INT.pack(code)  # in the place of length, number and content, without a checksum

    def packets(self, buffer: bytearray) -> Iterator[bytes]:
        while len(buffer) >= 8:
            length, sequence = _FULL_HEADER.unpack_from(buffer)
            if not 12 < length <= MAX_PACKET_BYTES or sequence != self._received:
                raise FramingError(f"length {length} or packet number {sequence} is not valid here")
            if len(buffer) < length:
                return
            packet = bytes(buffer[: length - 4])
            (checksum,) = _UINT.unpack_from(buffer, length - 4)
            if zlib.crc32(packet) != checksum:
                raise FramingError("a packet's checksum does not match")
            del buffer[:length]
            self._received += 1
            yield packet[8:]


class Abridged:
    """A length of one or four bytes, in words."""

    def encode(self, payload: bytes) -> bytes:
        words = len(payload) >> 2
        header = bytes((words,)) if words < 0x7F else b"\x7f" + words.to_bytes(3, "little")
        return header + payload

    def error(self, code: int) -> bytes:
        return self.encode(_INT.pack(code))

    def packets(self, buffer: bytearray) -> Iterator[bytes]:
        while buffer:
            words, start = buffer[0] & 0x7F, 1  # the high bit asks for a quick ack, which is optional
            if words == 0x7F:
                if len(buffer) < 4:
                    return
                words, start = int.from_bytes(buffer[1:4], "little"), 4
            end = start + (words << 2)
            if not words or end > MAX_PACKET_BYTES:
                raise FramingError(f"a packet of {words} words is not valid")
            if len(buffer) < end:
                return
            packet = bytes(buffer[start:end])
            del buffer[:end]
            yield packet


class Intermediate:
    """A length of four bytes; the padded variant hides the true length behind up to 15 random bytes."""

    def __init__(self, *, padded: bool = False) -> None:
        self._padded = padded

    def encode(self, payload: bytes) -> bytes:
        if self._padded:
            # Whole packets are recovered by alignment, so the padding must stay below one word.
            payload += secrets.token_bytes(secrets.randbelow(4))
        return _INT.pack(len(payload)) + payload

    def error(self, code: int) -> bytes:
        return self.encode(_INT.pack(code))

    def packets(self, buffer: bytearray) -> Iterator[bytes]:
        while len(buffer) >= 4:
            length = _UINT.unpack_from(buffer)[0] & ~_QUICK_ACK
            if not 4 <= length <= MAX_PACKET_BYTES:
                raise FramingError(f"a packet of {length} bytes is not valid")
            if len(buffer) < 4 + length:
                return
            packet = bytes(buffer[4 : 4 + length])
            del buffer[: 4 + length]
            yield packet


def detect(buffer: bytearray) -> Framing | None:
    """The framing that a connection's first bytes announce, its tag taken off; None while too few came."""
    if buffer[:1] == _ABRIDGED_TAG:
        del buffer[:1]
        return Abridged()
    if len(buffer) < 4:
        return None
    tag = bytes(buffer[:4])
    if tag in (_INTERMEDIATE_TAG, _PADDED_TAG):
        del buffer[:4]
        return Intermediate(padded=tag == _PADDED_TAG)
    return Full()
