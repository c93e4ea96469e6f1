"""Carries rows from the old table into our database, in the order of their dates: what differs, and only
that.

A batch is one transaction, and what is there already changes nothing: after a kill, the next run
compares again
and goes on with what is left.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from time import monotonic

from gateway.database import refresh_aggregates
from gateway.errors import NeedsOperator
from gateway.event import utc_now
from gateway.migration.compare import EVER, Comparison, compare
from gateway.migration.new import NewDatabase
from gateway.migration.old import OldTable
from gateway.migration.rows import CHANNELS_ABOVE
from gateway.migration.state import Plan, StateFile
from gateway.retention import refuse_beyond_retention
from gateway.settings import Settings
from gateway.tasks import run_together

BATCH_ROWS = 5000
WAITING_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the copy is; `seconds` since it began to carry rows."""

    rows: int
    total: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def left_seconds(self) -> float | None:
        return (self.total - self.rows) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did. `rejected` rows have no usable id or date; they are in the file of that name."""

    rows: int
    days: int
    rejected: int
    seconds: float


def refuse_unfit(found: Comparison, plan: Plan, settings: Settings) -> None:
    """Raises NeedsOperator (ConfigurationError) for rows that cannot be brought over as the plan says."""
    differing = [bucket for bucket in found.different if bucket.old.messages]
    by_account = sum(b.old.messages for b in differing if int(b.channel_id) > -CHANNELS_ABOVE)
    if by_account and plan.user_id is None:
        raise NeedsOperator(
            f"{by_account} messages are of private chats or basic groups, whose ids count per account: "
            "give the "
            "account's user id with --user-id (telegram-gateway session check shows it), or the session with "
            "--volume"
        )
    if differing:
        first_day = min(bucket.day for bucket in differing)
        try:
            # What is dropped is dropped by whole days.
            refuse_beyond_retention(settings, datetime.combine(first_day, time.max, UTC))
        except NeedsOperator as error:
            raise NeedsOperator(f"{error}; to leave what is older in the old database: --since") from None


async def copy(
    old: OldTable, new: NewDatabase, plan: Plan, settings: Settings, state: StateFile,
    report: Callable[[Progress], None], *, dry_run: bool = False,
) -> Copied:  # fmt: skip
    """Brings over what differs. Raises NeedsOperator for what it must not take, GatewayError when a
    server fails."""
    found = await compare(old, new, plan)
    refuse_unfit(found, plan, settings)
    rejected = await _keep_rejected(old, None if dry_run else state)
    started = monotonic()
    if dry_run or not found.different_old:
        return Copied(0 if not dry_run else found.different_old, len(found.different), rejected, 0.0)
    await carry(old, new, plan, found, report)
    seconds = monotonic() - started
    days = [bucket.day for bucket in found.different]
    await refresh_aggregates(
        settings.db_direct_dsn.get_secret_value(),
        datetime.combine(min(days), time.min, UTC),
        utc_now(),
        password=settings.db_password.get_secret_value() if settings.db_password else None,
    )
    return Copied(found.different_old, len(days), rejected, seconds)


async def carry(
    old: OldTable, new: NewDatabase, plan: Plan, found: Comparison, report: Callable[[Progress], None]
) -> None:
    """Brings over the days that were found to differ."""
    batches: asyncio.Queue[list[bytes] | None] = asyncio.Queue(WAITING_BATCHES)
    total = found.different_old
    started = monotonic()

    async def read() -> None:
        lines: list[bytes] = []

        async def take(data: bytes) -> None:
            nonlocal lines
            # One row never spreads over two messages of the protocol, and has no line break inside.
            lines += data.splitlines(keepends=True) if data.count(b"\n") > 1 else [data]
            if len(lines) >= BATCH_ROWS:
                full, lines = lines, []
                await batches.put(full)

        days = [(bucket.channel_id, bucket.day) for bucket in found.different if bucket.old.messages]
        await old.read(plan.user_id or 0, plan.since or EVER, days, take)
        if lines:
            await batches.put(lines)
        await batches.put(None)

    async def write() -> None:
        rows = 0
        while (lines := await batches.get()) is not None:
            await new.take_in(lines, plan.account, plan.consumer, old.carried)
            rows += len(lines)
            report(Progress(rows, total, monotonic() - started))

    await run_together(read(), write())


async def _keep_rejected(old: OldTable, state: StateFile | None) -> int:
    """How many rows have no place here; all of them are written to a file as they are, readable by us
    only."""
    rows = await old.rejected()
    if state is not None and rows:
        state.write(state.rejected.name, "\n".join([*rows, ""]).encode())
    return len(rows)
