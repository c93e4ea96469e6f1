"""What may leave the journal, and how fast: old rows behind every enabled sink, a few at a time."""

from collections.abc import Sequence
from datetime import datetime

from gateway.journal.store import Store

# Rows deleted in one transaction: commits of new events wait this long at most, a few milliseconds.
CHUNK_ROWS = 500


def prune_chunk(store: Store, sinks: Sequence[str], before: datetime | None) -> int:
    """Deletes one chunk of rows that every one of `sinks` has and that were received before `before`.

    `before` None means whatever their age: the journal is at its byte limit. Rows that no sink has taken
    are never deleted to make room, so without sinks nothing is.
    """
    if not sinks and before is None:
        return 0
    end = store.first_seq + CHUNK_ROWS
    if sinks:
        end = min(end, 1 + min(store.cursors[sink] for sink in sinks))
    return store.prune(end, before)
