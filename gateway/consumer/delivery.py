"""One event on its way to the handler, wherever it came from."""

from typing import Protocol

from gateway.event import Event


class Delivery(Protocol):
    """An event that was taken from the queue or found by a poll."""

    source: str  # queue, cache or database

    @property
    def chat(self) -> str:
        """The key of its chat, within which order matters."""
        ...

    @property
    def key(self) -> str:
        """Its event's id; empty when there is no event."""
        ...

    @property
    def event(self) -> Event | None:
        """The event; None when what came can never be read as one."""
        ...

    @property
    def problem(self) -> str:
        """Why there is no event."""
        ...

    @property
    def reopened(self) -> bool:
        """Whether somebody wants the event tried again after it was given up."""
        ...

    @property
    def stale(self) -> bool:
        """Whether it will come again anyway, so that there is no use in beginning with this one."""
        ...

    @property
    def traceparent(self) -> str | None:
        """The W3C header of the trace that it belongs to; None outside traces."""
        ...

    async def park(self, reason: str, attempts: int) -> None:
        """Puts it among the dead letters, for good. Raises SinkUnavailable."""
        ...

    async def done(self) -> None:
        """Lets go of it."""
        ...
