"""The journal: the only durable commit point between Telegram and the sinks."""

from gateway.journal.journal import Journal
from gateway.journal.position import ChatPosition, OpenGap, Position
from gateway.journal.quarantine import Quarantined
from gateway.journal.reader import Reader, open_reader, read_stats
from gateway.journal.records import (
    AccountState,
    Batch,
    ChatLedger,
    Gap,
    GapSource,
    JournalStats,
    LedgerChanges,
    Missing,
    Record,
    Settled,
    SinkStats,
)
from gateway.journal.switches import ChatId

__all__ = [
    "AccountState",
    "Batch",
    "ChatId",
    "ChatLedger",
    "ChatPosition",
    "Gap",
    "GapSource",
    "Journal",
    "JournalStats",
    "LedgerChanges",
    "Missing",
    "OpenGap",
    "Position",
    "Quarantined",
    "Reader",
    "Record",
    "Settled",
    "SinkStats",
    "open_reader",
    "read_stats",
]
