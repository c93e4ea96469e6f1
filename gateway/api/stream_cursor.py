"""Where a listener stands in the stream of events, small enough to be the id of each event.

What one account sees live is received in one order, and so is what its backfill brings; RabbitMQ and the
database both keep that order. So a cursor is a vector: for each such lane the moment of the last event, and
which events of that moment, and behind it, were delivered. Lanes may overtake each other.
"""

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

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
    lanes: list[tuple[str, int, list[tuple[int, bytes]]]]  # the marks' moments from the lane's on


class BadCursor(Exception):
    """The text is no cursor of this API's."""


class _Lane(NamedTuple):
    """Everything before `at` was delivered; behind it, what `marks` name, with their moments."""

    at: int
    marks: dict[bytes, int]


class Progress:
    """What has been delivered, of lanes that are not named all up to `floor`.

    Moments are microseconds since 1970.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._newest = floor
        self._lanes: dict[str, _Lane] = {}

    def copy(self) -> "Progress":
        """The same, to go on by itself."""
        other = Progress(self.floor)
        other._newest = self._newest
        other._lanes = {name: _Lane(lane.at, dict(lane.marks)) for name, lane in self._lanes.items()}
        return other

    @property
    def newest(self) -> int:
        """The moment of the newest event that was delivered."""
        return self._newest

    @property
    def oldest(self) -> int:
        """The moment before which everything was delivered."""
        return min([self.floor, *(lane.at for lane in self._lanes.values())])

    def covers(self, event: Event) -> bool:
        """Whether an event was delivered."""
        at = microseconds(event.received_at)
        lane = self._lanes.get(lane_of(event))
        if at <= self.floor if lane is None else at < lane.at:
            return True
        # Another account may have brought it, and the database may have kept either's.
        mark = _mark(event)
        return any(mark in lane.marks for lane in self._lanes.values())

    def includes(self, other: "Progress") -> bool:
        """Whether everything in `other` was delivered."""
        return other.floor <= self.floor and all(
            self._includes(self._lanes.get(name, _Lane(self.floor + 1, {})), lane)
            for name, lane in other._lanes.items()
        )

    @staticmethod
    def _includes(mine: _Lane, other: _Lane) -> bool:
        return other.at <= mine.at and all(
            at < mine.at or mark in mine.marks for mark, at in other.marks.items()
        )

    def add(self, event: Event, *, in_order: bool = True) -> None:
        """The event was delivered; with `in_order` nothing before it in its lane is still to come."""
        at, name = microseconds(event.received_at), lane_of(event)
        if at <= self.floor:
            return
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(at if in_order else self.floor + 1, {})
        lane.marks[_mark(event)] = at
        if in_order:
            self._advance(name, at)
        self._newest = max(self._newest, at)
        floor = self._newest - LATE_MICROSECONDS
        if floor > self.floor:
            self.floor = floor
            for quiet in [name for name, lane in self._lanes.items() if _newest(lane) <= floor]:
                del self._lanes[quiet]

    def settle(self, name: str) -> None:
        """Nothing in a lane is still to come before what was delivered of it."""
        if (lane := self._lanes.get(name)) is not None:
            self._advance(name, _newest(lane))

    def _advance(self, name: str, at: int) -> None:
        lane = self._lanes[name]
        if at > lane.at:
            marks = {mark: moment for mark, moment in lane.marks.items() if moment >= at}
            self._lanes[name] = _Lane(at, marks)

    def unsettled(self, name: str) -> int:
        """How many marks a lane has."""
        lane = self._lanes.get(name)
        return len(lane.marks) if lane else 0

    def encode(self, hub: str, number: int) -> str:
        """The id of the event that was added last, the `number`th of a hub's."""
        lanes = [
            (name, lane.at, [(at - lane.at, mark) for mark, at in lane.marks.items()])
            for name, lane in self._lanes.items()
        ]
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
        progress = Progress(found.floor)
        for name, at, marks in found.lanes:
            progress._lanes[name] = _Lane(at, {mark: at + delta for delta, mark in marks})
        moments = [
            progress.floor,
            *(at for lane in progress._lanes.values() for at in (lane.at, _newest(lane))),
        ]
        if not all(0 <= moment < _END for moment in moments):
            raise BadCursor
        progress._newest = max(moments)
        return cls(found.hub, found.number, progress)


def lane_of(event: Event) -> str:
    """The name of the lane in which an event comes."""
    return f"{event.account}~" if event.source == "backfill" else event.account


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def moment_of(at: int) -> datetime:
    """The inverse of `microseconds`."""
    return _EPOCH + timedelta(microseconds=at)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = microseconds(datetime(9000, 1, 1, tzinfo=UTC))


def _mark(event: Event) -> bytes:
    return hashlib.blake2b(event.id.encode(), digest_size=_MARK_BYTES).digest()


def _newest(lane: _Lane) -> int:
    return max(lane.marks.values(), default=lane.at)
