"""The bounded queue between Telegram's socket and the intake.

Telethon reads the socket whatever happens behind it. What does not fit is set aside by name only: the
chats it spoke of are fetched as a difference once the intake has caught up, so memory stays bounded and
nothing is lost.
"""

import asyncio
from typing import Any

from gateway import metrics
from gateway.telegram.message_box import Resync, channels_in

MAX_WAITING = 4_000  # updates, 2–10 kB each once decoded
CROWDED = 64  # containers, beyond which the socket's reader gives way to the intake after each


class IntakeQueue(asyncio.Queue[Any]):
    """Update containers as Telethon queues them, at most `limit` updates in all."""

    def __init__(self, account: str, limit: int = MAX_WAITING) -> None:
        super().__init__()
        self._limit = limit
        self._waiting = 0
        self._overflow: Resync | None = None
        self._overflowed = metrics.UPDATES_OVERFLOWED.labels(account)

    def put_nowait(self, item: Any) -> None:
        """Queues a container, or notes which differences must be fetched in its stead; never blocks."""
        if isinstance(item, Resync) or self._waiting < self._limit:
            self._waiting += _size(item)
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
        else:
            self._waiting -= _size(item)
        return item

    async def give_way(self) -> None:
        """Lets the intake run when much is waiting: a reader that is never short of data would starve it."""
        if self.qsize() > CROWDED:
            await asyncio.sleep(0)


def _size(container: Any) -> int:
    return len(getattr(container, "updates", None) or (container,))
