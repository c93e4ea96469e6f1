"""The records that a sink can never accept: durable copies beside the journal, until someone decides."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import apsw

from gateway.event import Event, decode
from gateway.journal.moments import moment

_COUNT = "SELECT sink, count(*) FROM quarantine GROUP BY sink"
_NEXT = """
SELECT sink, seq, reason, at, body FROM quarantine
WHERE (sink, seq) > (?, ?) ORDER BY sink, seq LIMIT 1
"""
_REMOVE = "DELETE FROM quarantine WHERE sink = ? AND seq = ?"
_SET_REASON = "UPDATE quarantine SET reason = ? WHERE sink = ? AND seq = ?"


@dataclass(frozen=True)
class Quarantined:
    """One record that `sink` refused, why, and since when. It may be gone from the journal itself."""

    sink: str
    seq: int
    reason: str
    at: datetime
    body: bytes

    @cached_property
    def event(self) -> Event:
        """The event, decoded on first use."""
        return decode(self.body)


def count_quarantined(connection: apsw.Connection) -> dict[str, int]:
    """How many records each sink has in quarantine; sinks without any are left out."""
    rows: list[Any] = connection.execute(_COUNT).fetchall()
    return dict(rows)


def next_quarantined(connection: apsw.Connection, after: tuple[str, int]) -> Quarantined | None:
    """The first record behind (sink, seq); begin with ("", 0)."""
    row: Any = connection.execute(_NEXT, after).fetchone()
    if row is None:
        return None
    sink, seq, reason, at, body = row
    return Quarantined(sink, seq, reason, moment(at), body)


def remove_quarantined(connection: apsw.Connection, sink: str, seq: int) -> bool:
    """Forgets the record; returns whether it was there."""
    connection.execute(_REMOVE, (sink, seq)).fetchall()
    return connection.changes() > 0


def set_quarantine_reason(connection: apsw.Connection, sink: str, seq: int, reason: str) -> None:
    """Notes why the sink refused the record this time; since when it is there stays."""
    connection.execute(_SET_REASON, (reason, sink, seq)).fetchall()
