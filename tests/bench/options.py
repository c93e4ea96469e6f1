"""What a run of the benchmark does: the full form, or the quick one that only shows that it works."""

from dataclasses import dataclass

SCENARIOS = (
    *("sandbox", "throughput", "latency", "outages", "backlog", "backfill", "growth"),
    *("read", "stream", "volume"),
)
# Without Sentinels and replica: they would take a Redis that is down for good.
SERVERS = ("postgres", "pgbouncer", "redis", "rabbitmq")
MOST_MESSAGES = 40_000  # the sandbox disconnects a client that lets more than 50 000 pushes wait


@dataclass(frozen=True)
class Options:
    """Sizes of every scenario; the defaults are the full form."""

    scenarios: frozenset[str] = frozenset(SCENARIOS)
    rates: tuple[int, ...] = (50, 500)  # messages a second
    seconds: float = 30.0  # at each rate
    messages: int = 30_000  # in the burst
    rows: int = 1_000_000  # in the backlog
    outage_rate: int = 200  # messages a second
    before_seconds: float = 15.0
    outage_seconds: float = 20.0
    history: int = 100_000  # messages to backfill
    history_rate: int = 50  # live messages a second meanwhile, and before
    idle_seconds: float = 20.0  # of live messages alone, before
    chats: tuple[int, ...] = (10, 1_000, 10_000)
    journal_chats: int = 1_000  # among which the rows of a full journal are spread
    journal_rows: int = 5_000_000
    growth_rate: int = 300  # messages a second
    growth_seconds: float = 30.0
    read_rows: int = 40_000  # messages stored for reading, and the few that many are compared with
    read_rounds: int = 1_000  # calls of each kind, each beside a bare one
    read_windows: int = 3  # of full load, in turn with as many bare ones
    read_seconds: float = 2.0  # each
    stream_clients: int = 200
    stream_rate: int = 20  # events a second
    stream_seconds: float = 10.0
    volume_rows: int = 5_000_000
    volume_rounds: int = 300
    quick: bool = False


QUICK = Options(
    seconds=0.4,
    messages=100,
    rows=2_000,
    before_seconds=0.5,
    outage_seconds=0.8,
    history=600,
    idle_seconds=0.5,
    chats=(10, 250),
    journal_chats=10,
    journal_rows=3_000,
    growth_seconds=0.5,
    read_rows=2_000,
    read_rounds=5,
    read_windows=1,
    read_seconds=0.1,
    stream_clients=10,
    stream_seconds=0.5,
    volume_rows=20_000,
    volume_rounds=3,
    quick=True,
)
