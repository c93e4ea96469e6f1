"""The read side: what the API and the consumer library ask of the database and of Redis.

`MessageReader` knows everything and keeps each consumer's state; `HotMessages` knows the last hour, and when
it does not know.
"""

from gateway.read.database import MessageReader
from gateway.read.hot import HotMessages, Newest
from gateway.read.processing import ProcessingState
from gateway.read.records import (
    ChatRef,
    HotPage,
    Marked,
    MessageFilter,
    MessageRef,
    Outcome,
    Page,
    Position,
    Processing,
    StoredMessage,
    UnprocessedPage,
)

__all__ = [
    "ChatRef",
    "HotMessages",
    "HotPage",
    "Marked",
    "MessageFilter",
    "MessageReader",
    "MessageRef",
    "Newest",
    "Outcome",
    "Page",
    "Position",
    "Processing",
    "ProcessingState",
    "StoredMessage",
    "UnprocessedPage",
]
