"""Delays that grow, with jitter and a limit: between attempts, and between connections."""

import random
from datetime import timedelta

GROWTH = 4.0
JITTER = 0.25  # a delay is this much shorter or longer, by chance


def delay_after(attempt: int, first: timedelta, longest: timedelta) -> float:
    """Seconds to wait after failed attempt number `attempt`, counted from 1."""
    # GROWTH is more than jitter can take back: each delay is longer than the one before, up to the limit.
    exact = first.total_seconds() * GROWTH ** min(attempt - 1, 30)
    return min(exact, longest.total_seconds()) * random.uniform(1 - JITTER, 1 + JITTER)


class Backoff:
    """Delays between tries at something that should work: `first` seconds, then double, up to `longest`."""

    def __init__(self, first: float = 0.1, longest: float = 5.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """It worked."""
        self._next = self._first

    def next(self) -> float:
        """Seconds to wait now."""
        exact, self._next = self._next, min(self._longest, self._next * 2)
        return exact * random.uniform(1 - JITTER, 1 + JITTER)
