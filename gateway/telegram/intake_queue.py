"""The bounded queue between Telegram's socket and the intake.

Telethon reads the socket whatever happens behind it. What does not fit is set aside by name only: the
chats it spoke of are fetched as a difference once the intake has caught up, so memory stays bounded and
nothing is lost.
"""

import asyncio
from typing import Any

from gateway import metrics
from gateway.telegram.message_box import Resync, channels_in

MAX_WAITING = 4_000  # pushed containers, 2–10 kB each once decoded


class IntakeQueue(asyncio.Queue[Any]):
    """Update containers as Telethon queues them, at most `limit` of them."""

    def __init__(self, account: str, limit: int = MAX_WAITING) -> None:
        super().__init__()
        self._limit = limit
        self._overflow: Resync | None = None
        self._overflowed = metrics.UPDATES_OVERFLOWED.labels(account)

    def put_nowait(self, item: Any) -> None:
        """Queues a container, or notes which differences must be fetched in its stead; never blocks."""
        if isinstance(item, Resync) or self.qsize() < self._limit:
            super().put_nowait(item)
            return
        self._overflowed.inc()
        if self._overflow is None:
            self._overflow = Resync()
            super().put_nowait(self._overflow)
        self._overflow.channels |= channels_in(item)

    def get_nowait(self) -> Any:
        item = super().get_nowait()
        if item is self._overflow:
            self._overflow = None
        return item
