"""A sequence of updates with its pts and the log that differences are answered from."""

from bisect import bisect_right

from gateway.sandbox.messages import Entry


class UpdateLog:
    """One account's or one channel's pts and its recent entries.

    Every entry adds its `pts_count` to `pts`, so a client that counts along knows when it missed one.
    """

    __slots__ = ("_floor", "entries", "limit", "pts")

    def __init__(self, limit: int, pts: int = 1) -> None:
        self.pts = self._floor = pts
        self.limit = limit
        self.entries: list[Entry] = []

    def advance(self, count: int) -> int:
        """The pts of the next entry."""
        self.pts += count
        return self.pts

    def append(self, entry: Entry) -> None:
        entries = self.entries
        entries.append(entry)
        if len(entries) > 2 * self.limit:
            self._floor = entries[-self.limit - 1].pts
            del entries[: -self.limit]

    def since(self, pts: int) -> list[Entry] | None:
        """What came after `pts`; None when the log no longer reaches back that far, or never saw it."""
        if pts == self.pts:
            return []
        position = bisect_right(self.entries, pts, key=lambda entry: entry.pts)
        if pts < self._floor or pts > self.pts or len(self.entries) - position > self.limit:
            return None
        return self.entries[position:]
