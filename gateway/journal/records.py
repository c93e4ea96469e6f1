"""What goes into the journal and what comes out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

from gateway.event import Event, decode

# What opens gaps: docs/decisions/0008-ledger.md.
GapSource = Literal[
    "hole",
    "channel_too_long",
    "too_long",
    "joined",
    "reconciliation",
    "unseen_changes",
    "history",
    "hand",
    "switched_on",
    "restore",
]


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
class Missing:
    """Ids `first` to `last` of a chat that have to be fetched, as far as the ledger does not know them.

    Without `first`: from behind the newest known id. With `known_too`: also what counts as accounted for.
    """

    chat: int
    last: int
    source: GapSource
    first: int | None = None
    known_too: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """Ids `first` to `last` of a chat that have been asked for: what is still open of them is absent.

    With `reread`, the number of a gap, they have been looked at for changes; nothing about them was missing.
    """

    chat: int
    first: int
    last: int
    why: str
    reread: int | None = None


@dataclass(frozen=True, slots=True)
class LedgerChanges:
    """What a batch says of the ledger beside its events. Chats are marked ids; 0 stands for the account-wide
    ids of private chats and basic groups.

    `tracked` maps chats that the dialogs have shown to their newest id: if new, what came before is history.
    `reread` names chats whose known messages may have changed unseen, `reopened` those to be read again.
    `fetched` is the chat whose gap the events answer: those that it misses no more are dropped.
    """

    tracked: Mapping[int, int] = field(default_factory=dict)
    missing: Sequence[Missing] = ()
    reread: Sequence[int] = ()
    settled: Sequence[Settled] = ()
    reopened: Sequence[int] = ()
    fetched: int | None = None

    def __bool__(self) -> bool:
        return bool(self.tracked or self.missing or self.reread or self.settled or self.reopened)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction holds: an account's events and the update state and ledger that follow from them.

    `access_hashes` maps channel ids (unmarked) to the access hash this account needs to ask for them.
    """

    account: str
    events: Sequence[Event] = ()
    state: AccountState | None = None
    access_hashes: Mapping[int, int] = field(default_factory=dict)
    ledger: LedgerChanges = field(default_factory=LedgerChanges)


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids `first` to `last` of a chat as one account sees it: open, or closed as captured or absent.

    `source` tells what opened it and `why` what closed it. With `reread` nothing is missing, but what is
    known may have changed.
    """

    id: int
    account: str
    chat: int
    first: int
    last: int
    source: str
    reread: bool
    state: str
    why: str | None
    opened_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ChatLedger:
    """What the ledger knows of a chat: every id above `base` up to `top` is captured, absent, or in a gap.

    `mark` is the highest id below which nothing is missing. `compared` tells that the chat has been seen
    among the dialogs, `no_access` that gaps were given up because it could not be read.
    """

    base: int
    top: int
    mark: int
    since: datetime
    compared: bool
    no_access: bool


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
