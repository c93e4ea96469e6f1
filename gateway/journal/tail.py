"""The newest records, kept in memory: a sink that keeps up never waits for the disk."""

from bisect import bisect_right
from collections.abc import Sequence

from gateway.journal.records import Record

TAIL_RECORDS = 2048
TAIL_BYTES = 8 << 20
# What an event costs in memory beside its body.
_RECORD_OVERHEAD = 1024


class Tail:
    """Every record with a number above `floor`, bounded by count and bytes."""

    def __init__(self, floor: int, *, records: int = TAIL_RECORDS, size: int = TAIL_BYTES) -> None:
        self.floor = floor
        self._max_records = records
        self._max_bytes = size
        self._bytes = 0
        self._records: list[Record] = []
        self._seqs: list[int] = []

    def extend(self, records: Sequence[Record]) -> None:
        """Adds records with numbers above all others."""
        self._records += records
        self._seqs += [record.seq for record in records]
        self._bytes += sum(_cost(record) for record in records)
        if len(self._records) > self._max_records or self._bytes > self._max_bytes:
            self._trim()

    def _trim(self) -> None:
        # To three quarters at once: cutting the head of a list moves all the rest.
        keep_records, keep_bytes = self._max_records * 3 // 4, self._max_bytes * 3 // 4
        cut = 0
        while len(self._records) - cut > keep_records or self._bytes > keep_bytes:
            self._bytes -= _cost(self._records[cut])
            cut += 1
        self.floor = self._seqs[cut - 1]
        del self._records[:cut], self._seqs[:cut]

    def after(self, seq: int, limit: int) -> list[Record]:
        """Up to `limit` records above `seq`, which must not be below `floor`."""
        start = bisect_right(self._seqs, seq)
        return self._records[start : start + limit]


def _cost(record: Record) -> int:
    return 2 * len(record.body) + _RECORD_OVERHEAD
