"""What a sink is: one method that takes a batch, and returns when the server has acknowledged all of it.

Cursor, batching, retries and metrics are the runner's (`gateway.sinks.runner`), once for all sinks.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gateway.journal import Record


class ReplayedRecord(Record):
    """A record that is delivered apart from the journal's order, because someone asked for it.

    A sink whose readers may care (RabbitMQ) says so with the message; `seq` need not be the journal's.
    """


class Sink(Protocol):
    """A place that every record must reach.

    Delivery is at least once: `deliver` may be given records it has already stored (after a crash, or
    after an earlier `SinkUnavailable`) and must then leave the same result as after the first time.
    """

    name: str

    async def open(self) -> None:
        """Connects. Called before the first delivery and again after each `SinkUnavailable`.

        Raises SinkUnavailable when the server cannot be reached, NeedsOperator when it never will.
        """

    async def deliver(self, records: Sequence[Record]) -> None:
        """Writes `records`, which are in journal order, and returns once the server has acknowledged all.

        No records at all is the runner's question, while there is nothing to do, whether the server still
        answers; a sink that cannot tell cheaply just returns.

        Raises SinkUnavailable when any may be missing (all are offered again), RecordsRefused when some
        can never be stored and all others have been.
        """

    async def close(self) -> None:
        """Disconnects; never raises for a server that is gone."""


@runtime_checkable
class Obstructable(Protocol):
    """A sink whose server can make it wait for an unlimited time although nothing is broken."""

    @property
    def obstacle(self) -> str | None:
        """What the server waits for, in words for the operator, or None."""
