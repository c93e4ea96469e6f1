"""Cursors: where a page ended, as text that only we need to understand.

A cursor belongs to the question that it came from and says so; it holds nothing secret, and one that somebody
made up leads to another place of the same list at most.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from gateway.read.records import Position

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FINGERPRINT_BYTES = 8
_LONGEST = 512
_INT64 = range(-(1 << 63), 1 << 63)


class InvalidCursor(ValueError):
    """This is no cursor, or another question's."""


class _Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    question: bytes
    date: int  # microseconds
    chat: str
    scope: int
    message: int


class _Arrival(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    question: bytes
    arrival: int


def encode_position(position: Position, question: Sequence[Any]) -> str:
    """The cursor of a page that ended at `position`; `question` is all that decides which messages come."""
    date = (position.telegram_date - _EPOCH) // timedelta(microseconds=1)
    return _encode(
        _Place(_fingerprint(question), date, position.channel_id, position.scope, position.message_id)
    )


def decode_position(cursor: str, question: Sequence[Any]) -> Position:
    """The position that `encode_position` was given for the same question. Raises InvalidCursor."""
    place: _Place = _decode(cursor, _Place)
    try:
        date = _EPOCH + timedelta(microseconds=place.date)
    except OverflowError:
        raise InvalidCursor from None
    if (
        place.question != _fingerprint(question)
        or place.scope not in _INT64
        or place.message not in _INT64
        or "\0" in place.chat
    ):
        raise InvalidCursor
    return Position(date, place.chat, place.scope, place.message)


def encode_arrival(arrival: int, question: Sequence[Any]) -> str:
    """The cursor of a page of unprocessed messages."""
    return _encode(_Arrival(_fingerprint(question), arrival))


def decode_arrival(cursor: str, question: Sequence[Any]) -> int:
    """The arrival that `encode_arrival` was given for the same question. Raises InvalidCursor."""
    place: _Arrival = _decode(cursor, _Arrival)
    if place.question != _fingerprint(question) or place.arrival not in _INT64:
        raise InvalidCursor
    return place.arrival


def _fingerprint(question: Sequence[Any]) -> bytes:
    return hashlib.blake2b(repr(tuple(question)).encode(), digest_size=_FINGERPRINT_BYTES).digest()


def _encode(place: _Place | _Arrival) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).rstrip(b"=").decode()


def _decode(cursor: str, kind: type[Any]) -> Any:
    if len(cursor) > _LONGEST or not cursor.isascii():
        raise InvalidCursor
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(packed, type=kind)
    except (binascii.Error, msgspec.MsgspecError):
        raise InvalidCursor from None
