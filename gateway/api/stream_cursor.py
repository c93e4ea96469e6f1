"""Where a listener stands in the stream of events, small enough to be the id of each event.

What one account sees live is received in one order, and so is what its backfill brings; RabbitMQ and the
database both keep that order. So a cursor is a vector: for each such lane the moment of the last event, and
which events of that moment were delivered. Two lanes may overtake each other; nothing is lost or repeated.
"""

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec

from gateway.event import Event

# Of lanes that have been silent for longer than this, counted from the newest event, a cursor says no more
# than that everything up to then was delivered.
LATE_MICROSECONDS = 300 * 1_000_000
_MARK_BYTES = 6
LONGEST_CURSOR = 100_000


class _Encoded(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    hub: str
    number: int
    floor: int
    lanes: list[tuple[str, int, bytes]]


class BadCursor(Exception):
    """The text is no cursor of this API's."""


class Progress:
    """What has been delivered. Moments are microseconds since 1970."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._lanes: dict[str, tuple[int, bytes]] = {}

    def copy(self) -> "Progress":
        """The same, to go on by itself."""
        other = Progress(self.floor)
        other._lanes = dict(self._lanes)
        return other

    @property
    def newest(self) -> int:
        """The moment of the newest event that was delivered."""
        return max([self.floor, *(at for at, _ in self._lanes.values())])

    @property
    def oldest(self) -> int:
        """The moment before which everything was delivered."""
        return min([self.floor, *(at for at, _ in self._lanes.values())])

    def covers(self, event: Event) -> bool:
        """Whether an event was delivered."""
        at = microseconds(event.received_at)
        known = self._lanes.get(_lane(event))
        if known is None:
            return at <= self.floor
        return at < known[0] or (at == known[0] and _contains(known[1], _mark(event)))

    def add(self, event: Event) -> None:
        """The event was delivered."""
        at, lane = microseconds(event.received_at), _lane(event)
        if at <= self.floor:
            return
        newest, marks = self._lanes.get(lane, (-1, b""))
        if at > newest:
            self._lanes[lane] = (at, _mark(event))
        elif at == newest:
            self._lanes[lane] = (at, marks + _mark(event))
        floor = self.newest - LATE_MICROSECONDS
        if floor > self.floor:
            self.floor = floor
            for quiet in [name for name, (at, _) in self._lanes.items() if at <= floor]:
                del self._lanes[quiet]

    def encode(self, hub: str, number: int) -> str:
        """The id of the event that was added last, the `number`th of a hub's."""
        lanes = [(name, at, marks) for name, (at, marks) in self._lanes.items()]
        packed = msgspec.msgpack.encode(_Encoded(hub, number, self.floor, lanes))
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")


class Cursor:
    """A decoded id: what was delivered, and the number of the last event at the hub that delivered it."""

    def __init__(self, hub: str, number: int, progress: Progress) -> None:
        self.hub = hub
        self.number = number
        self.progress = progress

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises BadCursor."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            found = msgspec.msgpack.decode(packed, type=_Encoded)
        except (ValueError, binascii.Error, msgspec.DecodeError):
            raise BadCursor from None
        moments = [found.floor, *(at for _, at, _ in found.lanes)]
        if not all(0 <= moment < _END for moment in moments):
            raise BadCursor
        progress = Progress(found.floor)
        progress._lanes = {name: (at, marks) for name, at, marks in found.lanes}
        return cls(found.hub, found.number, progress)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def moment_of(at: int) -> datetime:
    """The inverse of `microseconds`."""
    return _EPOCH + timedelta(microseconds=at)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = microseconds(datetime(9000, 1, 1, tzinfo=UTC))


def _lane(event: Event) -> str:
    return f"{event.account}~" if event.source == "backfill" else event.account


def _mark(event: Event) -> bytes:
    return hashlib.blake2b(event.id.encode(), digest_size=_MARK_BYTES).digest()


def _contains(marks: bytes, mark: bytes) -> bool:
    return any(marks[i : i + _MARK_BYTES] == mark for i in range(0, len(marks), _MARK_BYTES))
