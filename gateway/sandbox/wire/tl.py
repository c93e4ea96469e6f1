"""Telegram's objects to and from bytes, with errors that tell a client's mistake from ours."""

import gzip
import struct
import zlib
from typing import Any

from telethon.errors import TypeNotFoundError
from telethon.extensions import BinaryReader
from telethon.tl import TLObject

from gateway.sandbox.backend import RpcError

GZIP_PACKED = 0x3072CFA1
MSG_CONTAINER = 0x73F1F8DC
RPC_RESULT = 0xF35C6D01

_VECTOR = (0x1CB5C415).to_bytes(4, "little")
_TRUE = (0x997275B5).to_bytes(4, "little")
_FALSE = (0xBC799737).to_bytes(4, "little")
_GZIP_PACKED = GZIP_PACKED.to_bytes(4, "little")
_GZIP_FROM_BYTES = 512
_UNPACKED_LIMIT_BYTES = 16 << 20


def read(data: bytes) -> Any:
    """The object at the start of `data`. Raises the RpcError that a client is to get when there is none."""
    try:
        return BinaryReader(data).tgread_object()
    except TypeNotFoundError as error:
        raise RpcError(400, f"INPUT_METHOD_INVALID_{error.invalid_constructor_id:08x}") from None
    except (struct.error, BufferError, RuntimeError, ValueError, TypeError, IndexError, OverflowError):
        # What Telethon's generated readers raise on truncated or mistyped fields.
        raise RpcError(400, "INPUT_FETCH_ERROR") from None


def serialise(answer: Any) -> bytes:
    """An answer as the client reads it: an object, a list of objects, a bool, or bytes already serialised."""
    if isinstance(answer, bytes):
        return answer
    if isinstance(answer, bool):
        return _TRUE if answer else _FALSE
    if isinstance(answer, list):
        return _VECTOR + struct.pack("<i", len(answer)) + b"".join(serialise(item) for item in answer)
    return bytes(answer)


def compress(data: bytes) -> bytes:
    """`data` as gzip_packed where that makes it shorter, else as it is."""
    if len(data) <= _GZIP_FROM_BYTES:
        return data
    packed: bytes = _GZIP_PACKED + TLObject.serialize_bytes(gzip.compress(data, 4, mtime=0))
    return packed if len(packed) < len(data) else data


def decompress(body: bytes) -> bytes:
    """The object inside a gzip_packed `body`. Raises RpcError when it is damaged or far too large."""
    try:
        packed = BinaryReader(body[4:]).tgread_bytes()
        data = zlib.decompressobj(wbits=31).decompress(packed, _UNPACKED_LIMIT_BYTES + 1)
    except (zlib.error, BufferError, struct.error):
        raise RpcError(400, "INPUT_FETCH_ERROR") from None
    if len(data) > _UNPACKED_LIMIT_BYTES:
        raise RpcError(400, "INPUT_REQUEST_TOO_LONG")
    return data
