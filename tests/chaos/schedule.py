"""What goes wrong, and when: a seed becomes a list of timed actions, always the same one."""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.wal import TEARS

DIFFERENCES: Final = ("GetDifferenceRequest", "GetChannelDifferenceRequest")
READS: Final = (
    *DIFFERENCES,
    "GetDialogsRequest",
    "GetHistoryRequest",
    "GetMessagesRequest",
    "GetStateRequest",
)
PROXIES: Final = ("pgbouncer", "postgres", "redis", "redis_replica", "rabbitmq")
ACCOUNTS: Final = ("0", "1")


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One misfortune, `at` seconds from the start; the kind says what the other numbers mean."""

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0
    times: int = 0

    def __str__(self) -> str:
        parts = [f"{self.at:8.2f}  {self.kind}"]
        if self.target:
            parts.append(self.target)
        if self.seconds:
            parts.append(f"for {self.seconds:.1f} s")
        if self.times:
            parts.append(f"{self.times} ×")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Kind:
    """How often a kind of action comes, and between which bounds its numbers are drawn."""

    name: str
    a_minute: float
    targets: Sequence[str] = ("",)
    seconds: tuple[float, float] = (0.0, 0.0)
    times: tuple[int, int] = (0, 0)


KINDS: Final = (
    # The gateway itself. One that is frozen for longer is ended by the watchdog: systemd's business.
    Kind("freeze", 0.8, seconds=(0.5, 5.0)),
    Kind("restart", 0.8),
    Kind("disk full", 0.25, seconds=(2.0, 8.0)),
    # The Telegram wire.
    Kind("cut", 1.2, (*ACCOUNTS, "all")),
    Kind("stall", 0.6, (*ACCOUNTS, "all"), seconds=(1.0, 9.0)),
    Kind("refuse", 0.5, seconds=(0.5, 6.0)),
    Kind("Telegram restarts", 0.3, seconds=(0.1, 3.0)),
    Kind("swallow", 1.2, times=(1, 40)),
    Kind("duplicate", 0.8, times=(1, 80)),
    Kind("reorder", 0.8, times=(1, 80)),
    Kind("delay", 0.8, seconds=(0.1, 2.0), times=(1, 40)),
    Kind("account too long", 0.3, ACCOUNTS, times=(1, 1)),
    Kind("channel too long", 0.8, times=(1, 2)),
    Kind("flood wait", 1.0, READS, seconds=(1.0, 6.0), times=(1, 2)),
    Kind("error 500", 0.8, READS, times=(1, 4)),
    Kind("undecodable", 0.4, READS, times=(1, 2)),
    Kind("lost answer", 0.4, READS, times=(1, 1)),
    # The servers, and the lines to them.
    Kind("PostgreSQL", 0.25, ("stop", "kill"), seconds=(0.5, 8.0)),
    Kind("PgBouncer", 0.35, ("stop", "kill"), seconds=(0.2, 6.0)),
    Kind("RabbitMQ", 0.2, ("stop", "kill"), seconds=(0.2, 6.0)),
    # Down for less than the Sentinels wait, the master comes back empty; for longer, the replica is promoted.
    Kind("Redis master", 0.35, ("stop", "kill", "freeze"), seconds=(0.5, 14.0)),
    Kind("Redis failover", 0.2, ("kill",), seconds=(9.0, 14.0)),
    Kind("Sentinel", 0.2, ("sentinel1", "sentinel2", "sentinel3"), seconds=(1.0, 8.0)),
    Kind("slow line", 0.8, PROXIES, seconds=(2.0, 8.0), times=(10, 200)),  # times: milliseconds
    Kind("line cut", 1.0, PROXIES),
    Kind("line stall", 0.6, PROXIES, seconds=(1.0, 8.0)),
    Kind("answers stall", 0.5, PROXIES, seconds=(1.0, 8.0)),
    # What people do meanwhile.
    Kind("join", 0.6, ACCOUNTS),
    Kind("join while down", 0.3, ACCOUNTS, seconds=(0.5, 3.0)),
    Kind("leave", 0.5, ACCOUNTS),
    Kind("title", 0.4),
    Kind("pin", 0.4),
)
NAMES: Final = ("kill", "torn tail", "migration", *(kind.name for kind in KINDS))


def plan(
    seed: int, *, seconds: float, kills: int, without: Collection[str] = (), often: float = 1.0
) -> list[Action]:
    """The schedule of `seed`: exactly `kills` times `kill -9`, and every other kind at least once.

    `often` multiplies how often the others come. Kinds named in `without` are left out, which changes nothing
    of the rest. Raises ValueError for a kind there is none of.
    """
    if unknown := set(without) - set(NAMES):
        raise ValueError(f"no action is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    actions = list(_kills(random.Random(f"{seed} kill"), seconds, kills, torn="torn tail" not in without))
    for kind in KINDS:
        actions.extend(_some(random.Random(f"{seed} {kind.name}"), kind, seconds, often))
    actions.append(Action(seconds * random.Random(f"{seed} migration").uniform(0.2, 0.8), "migration"))
    return sorted(action for action in actions if action.kind not in without)


def _kills(chance: random.Random, seconds: float, count: int, *, torn: bool) -> Iterator[Action]:
    """Spread over the whole time; every fourth tears the journal's tail, some leave it down a while."""
    for number in range(count):
        at = seconds * (number + chance.random()) / count
        tear = chance.choice(TEARS)
        down = chance.choice((0.0, 0.0, chance.uniform(0.1, 1.0), chance.uniform(1.0, 5.0)))
        yield Action(at, "kill", tear if torn and number % 4 == 1 else "", down)


def _some(chance: random.Random, kind: Kind, seconds: float, often: float) -> Iterator[Action]:
    for _ in range(max(1, round(kind.a_minute * often * seconds / 60.0))):
        yield Action(
            chance.uniform(0.0, seconds),
            kind.name,
            chance.choice(kind.targets),
            chance.uniform(*kind.seconds),
            chance.randint(*kind.times),
        )


def counts(actions: Sequence[Action]) -> Counter[str]:
    """How often each kind is in a schedule."""
    return Counter(action.kind for action in actions)
