"""An event of the live stream as it is sent, and who is told of it."""

from dataclasses import dataclass
from typing import Protocol

from gateway.api.events import camel_json
from gateway.event import Event

_KINDS = {"message.new": "new", "message.edited": "edited", "message.deleted": "deleted"}


@dataclass(frozen=True, slots=True)
class Frame:
    """An event ready to be sent; `number` counts the hub's."""

    number: int
    event: Event
    kind: str
    chat_key: str
    data: bytes  # without the id
    cursor: str
    in_order: bool = True  # whether nothing before it in its lane is still to come

    @property
    def encoded(self) -> bytes:
        return b"id: %b\n%b" % (self.cursor.encode(), self.data)


def frame_of(event: Event, number: int, cursor: str, *, in_order: bool = True) -> Frame:
    """The frame of one event."""
    kind = _KINDS[event.kind]
    data = b"event: %b\ndata: %b\n\n" % (kind.encode(), camel_json(event))
    return Frame(number, event, kind, event.chat_key, data, cursor, in_order)


class Follower(Protocol):
    """Who is told of each frame; must not wait."""

    def put(self, frame: Frame, encoded: bytes) -> None: ...

    def stop(self) -> None:
        """The server stops."""

    def tick(self) -> None:
        """A second has passed."""
