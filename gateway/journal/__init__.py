"""The journal: the only durable commit point between Telegram and the sinks."""

from gateway.journal.journal import Journal
from gateway.journal.records import AccountState, Batch, Record

__all__ = ["AccountState", "Batch", "Journal", "Record"]
