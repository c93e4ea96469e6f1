"""What goes into the journal and what comes out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from gateway.event import Event, decode


@dataclass(frozen=True, slots=True)
class AccountState:
    """Where an account stands in Telegram's update sequences (https://core.telegram.org/api/updates).

    `channels` maps channel ids (unmarked) to pts. In a `Batch` it holds the channels that moved since the
    last one; a pts of 0 forgets the channel. As read back from the journal it holds all of them.
    """

    pts: int
    qts: int
    date: datetime
    seq: int
    channels: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction holds: an account's events and the update state that follows from them.

    `access_hashes` maps channel ids (unmarked) to the access hash this account needs to ask for them.
    """

    account: str
    events: Sequence[Event] = ()
    state: AccountState | None = None
    access_hashes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One event at its place in the journal. `body` is the event's JSON."""

    seq: int
    body: bytes

    @cached_property
    def event(self) -> Event:
        """The event, decoded on first use when it was read from disk."""
        return decode(self.body)


@dataclass(frozen=True, slots=True)
class SinkStats:
    """How far one sink has come. `oldest_undelivered` is when its next event was received."""

    cursor: int
    lag: int
    oldest_undelivered: datetime | None


@dataclass(frozen=True, slots=True)
class JournalStats:
    """How much the journal holds. `bytes` is the size of its files, free pages included."""

    rows: int
    bytes: int
    first_seq: int
    last_seq: int
    oldest_received: datetime | None
    sinks: Mapping[str, SinkStats]
