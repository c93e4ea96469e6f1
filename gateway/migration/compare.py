"""Compares the two databases per chat and day: how many messages, and the sums of their fingerprints."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from gateway.errors import NeedsOperator
from gateway.migration.new import NewDatabase
from gateway.migration.old import OldTable
from gateway.migration.state import Plan

EVER = datetime(1, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Sums:
    """What one side has of a chat's day."""

    messages: int = 0
    content: Decimal = Decimal(0)
    state: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A chat's day on both sides."""

    channel_id: str
    day: date
    old: Sums
    new: Sums

    @property
    def what(self) -> str:
        """In what they differ."""
        if self.old.messages != self.new.messages:
            return "number of messages"
        return "content" if self.old.content != self.new.content else "status"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All days of all chats, counted, and those that differ."""

    buckets: int
    old_messages: int
    new_messages: int
    different: Sequence[Bucket]

    @property
    def different_old(self) -> int:
        return sum(bucket.old.messages for bucket in self.different)

    @property
    def different_new(self) -> int:
        return sum(bucket.new.messages for bucket in self.different)


async def compare(old: OldTable, new: NewDatabase, plan: Plan) -> Comparison:
    """Reads both sides once, at the same time."""
    user, since = plan.user_id or 0, plan.since or EVER
    old_rows, new_rows = await asyncio.gather(
        old.buckets(user, since), new.buckets(user, since, plan.consumer, old.carried)
    )
    olds, news = (
        {(r["channel_id"], r["day"]): Sums(r["messages"], r["content"], r["state"]) for r in rows}
        for rows in (old_rows, new_rows)
    )
    keys = sorted(olds.keys() | news.keys(), key=lambda key: (key[1], key[0]))
    different = [
        Bucket(*key, olds.get(key, Sums()), news.get(key, Sums()))
        for key in keys
        if olds.get(key) != news.get(key)
    ]
    return Comparison(
        len(keys),
        sum(sums.messages for sums in olds.values()),
        sum(sums.messages for sums in news.values()),
        different,
    )


def refuse_different(comparison: Comparison, advice: str) -> None:
    """Raises NeedsOperator, with the first of them, when days differ."""
    if comparison.different:
        first = comparison.different[0]
        raise NeedsOperator(
            f"{len(comparison.different)} of {comparison.buckets} days of chats differ, the first: chat "
            f"{first.channel_id} on {first.day} in its {first.what} "
            f"({first.old.messages} messages there, {first.new.messages} here); {advice}"
        )
