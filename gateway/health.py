"""What the daemon says of itself, in one value: for `/health`, `/status`, `status --json` and systemd."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Self

from gateway.journal import Gap
from gateway.telegram.account import AccountHealth


@dataclass(frozen=True)
class SinkStatus:
    """A sink's place in the journal. Times are Unix seconds; null when nothing waits."""

    name: str
    up: bool
    reason: str | None
    cursor: int
    lag_events: int
    oldest_undelivered: float | None
    quarantined: int


@dataclass(frozen=True)
class JournalStatus:
    """The journal's extent."""

    rows: int
    bytes: int
    limit_bytes: int
    last_seq: int
    full: bool


@dataclass(frozen=True)
class OpenGap:
    """Ids of a chat that are still to fetch; `channel_id` is null where ids count per account."""

    account: str
    channel_id: str | None
    first_id: int
    last_id: int
    source: str
    reread: bool
    since: datetime

    @classmethod
    def of(cls, gap: Gap) -> Self:
        """The journal's gap as others see it."""
        chat = str(gap.chat) if gap.chat else None
        return cls(gap.account, chat, gap.first, gap.last, gap.source, gap.reread, gap.opened_at)


@dataclass(frozen=True)
class OpenGaps:
    """The newest open gaps, and how many there are in all."""

    total: int
    gaps: list[OpenGap]


@dataclass(frozen=True)
class Status:
    """The whole daemon at one moment."""

    version: str
    ready: bool
    accounts: list[AccountHealth]
    journal: JournalStatus
    sinks: list[SinkStatus]
    problems: list[str] = field(default_factory=list)

    @property
    def health(self) -> Literal["healthy", "degraded", "down"]:
        """`down` when no account is connected, `degraded` when anything else is wrong."""
        if not any(account.state == "connected" for account in self.accounts):
            return "down"
        return "degraded" if self.problems else "healthy"

    @property
    def summary(self) -> str:
        """One line for `systemctl status`."""
        connected = sum(account.state == "connected" for account in self.accounts)
        waiting = max((sink.lag_events for sink in self.sinks), default=0)
        line = f"{connected}/{len(self.accounts)} accounts connected, {waiting} events waiting"
        return f"{line}; {'; '.join(self.problems)}" if self.problems else line


def problems_of(accounts: list[AccountHealth], journal: JournalStatus, sinks: list[SinkStatus]) -> list[str]:
    """What an operator should look at, a line each."""
    found = [
        f"account {account.account} is {account.state}" + (f" ({account.reason})" if account.reason else "")
        for account in accounts
        if account.state != "connected"
    ]
    if journal.full:
        found.append("the journal is at its byte limit, or its disk is full: intake is paused")
    found += [
        f"sink {sink.name} is down ({sink.reason or 'connecting'}), {sink.lag_events} events wait"
        for sink in sinks
        if not sink.up
    ]
    found += [
        f"sink {sink.name} refused {sink.quarantined} events for good: see telegram-gateway quarantine list"
        for sink in sinks
        if sink.quarantined
    ]
    return found
