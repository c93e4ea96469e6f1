"""The journal: the only durable commit point between Telegram and the sinks."""

from gateway.journal.journal import Journal
from gateway.journal.reader import Reader, open_reader, read_stats
from gateway.journal.records import AccountState, Batch, JournalStats, Record, SinkStats

__all__ = [
    "AccountState",
    "Batch",
    "Journal",
    "JournalStats",
    "Reader",
    "Record",
    "SinkStats",
    "open_reader",
    "read_stats",
]
