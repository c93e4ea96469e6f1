"""The journal's asyncio face: appends are group-committed by one writer thread, sinks read behind them."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.journal.records import AccountState, Batch, Record


class Journal:
    """An append-only, durable, ordered list of events with one cursor per sink.

    One process owns it; `async with Journal(path) as journal:` opens it (creating it on first use).
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 20 << 30,
        retention: timedelta = timedelta(days=7),
        sinks: Sequence[str] = (),
    ) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def append(self, batch: Batch) -> int: ...

    async def load_state(self, account: str) -> tuple[AccountState | None, dict[int, int]]: ...

    async def chat_of(self, account_scope: int, message_ids: Sequence[int]) -> dict[int, tuple[str, str]]: ...

    async def read(self, after: int, limit: int) -> Sequence[Record]: ...

    async def wait_beyond(self, after: int) -> None: ...

    def cursor(self, sink: str) -> int: ...

    async def advance(self, sink: str, seq: int) -> None: ...

    async def quarantine(self, sink: str, seq: int, reason: str) -> None: ...

    @property
    def last_seq(self) -> int: ...
