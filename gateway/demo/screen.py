"""The demo's one live screen, and its plain form: rates, sinks, connection, the last messages."""

import time
from collections import deque
from typing import Any

from rich.console import Console, Group
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway.cli.tail import render
from gateway.demo.comparison import Comparison
from gateway.event import Event

LAST_MESSAGES = 100  # kept; as many as fit are shown
HEAD_LINES, SINK_LINES, FRAME_LINES = 4, 7, 2
RATE_SECONDS = 2.0  # rates are averages over about this long


class Meter:
    """A rate out of a count that only grows."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, count: int) -> float:
        """Takes the present count; returns its growth a second over the last moments."""
        now = time.monotonic()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        (then, before), span = self._seen[0], now - self._seen[0][0]
        return max(0.0, (count - before) / span) if span > 0 and then < now else 0.0


class Screen:
    """Keeps what is shown. `status` is what the gateway says of itself, None while it does not answer."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}
        self._last: deque[Event] = deque(maxlen=LAST_MESSAGES)
        self._started = time.monotonic()

    def arrived(self, event: Event) -> None:
        """An event has reached the consumer."""
        self._last.append(event)

    def draw(self, status: dict[str, Any] | None, posted: int, act: str, height: int) -> Layout:
        """The whole screen at this moment, `height` lines of it."""
        layout = Layout()
        layout.split_column(
            Layout(name="head", size=HEAD_LINES), Layout(name="sinks", size=SINK_LINES), Layout(name="tail")
        )
        layout["head"].update(Panel(self._head(status, posted, act), title="Telegram gateway"))
        layout["sinks"].update(Panel(self._sinks(status), title="Sinks"))
        room = max(1, height - HEAD_LINES - SINK_LINES - FRAME_LINES)
        lines = [render(event) for event in list(self._last)[-room:]]
        for line in lines:
            line.no_wrap = True
            line.overflow = "ellipsis"
        layout["tail"].update(Panel(Group(*lines), title="What the consumer got last"))
        return layout

    def line(self, status: dict[str, Any] | None, posted: int, act: str) -> str:
        """The same in one line, for a log."""
        elapsed = time.monotonic() - self._started
        if status is None:
            return f"{elapsed:5.0f} s  the gateway does not answer  ({act})"
        waiting = ", ".join(f"{sink['name']} {sink['lag_events']}" for sink in status["sinks"]) or "no sinks"
        connection = status["accounts"][0]["state"]
        counts = f"{posted} changes, journal {status['journal']['last_seq']}"
        return f"{elapsed:5.0f} s  {connection}, {counts}, waiting: {waiting}  ({act})"

    def _rate(self, name: str, count: int) -> float:
        return self._meters.setdefault(name, Meter()).update(count)

    def _head(self, status: dict[str, Any] | None, posted: int, act: str) -> Text:
        text = Text()
        text.append(f"posted {posted} ", "bold")
        text.append(f"({self._rate('posted', posted):.0f}/s)  ")
        if status is None:
            text.append("the gateway does not answer", "red")
        else:
            state = status["accounts"][0]["state"]
            text.append(state, "green" if state == "connected" else "red")
            journal = status["journal"]
            text.append(f"  journal {journal['last_seq']} events, {journal['bytes'] / 1e6:.1f} MB")
        text.append(f"\n{act}", "yellow" if act != "trading as usual" else "dim")
        return text

    def _sinks(self, status: dict[str, Any] | None) -> Table:
        table = Table("sink", "state", "delivered", "rate", "waiting", "oldest waits", box=None, expand=True)
        for sink in (status or {}).get("sinks", []):
            state = Text("up", "green") if sink["up"] else Text(f"down: {sink['reason']}", "red")
            state.truncate(48, overflow="ellipsis")
            oldest = sink["oldest_undelivered"]
            table.add_row(
                sink["name"],
                state,
                str(sink["cursor"]),
                f"{self._rate(sink['name'], sink['cursor']):.0f}/s",
                str(sink["lag_events"]),
                f"{time.time() - oldest:.1f} s" if oldest else "–",
            )
        return table


def print_result(console: Console, results: list[Comparison]) -> None:
    """The table of expected against delivered, and the first differences if there are any."""
    table = Table("sink", "expected messages", "delivered", "result", title="Expected against delivered")
    for result in results:
        verdict = f"{len(result.problems)} differences" if result.problems else "complete"
        table.add_row(
            result.sink,
            str(result.expected),
            str(result.delivered),
            Text(verdict, "red" if result.problems else "green"),
        )
    console.print(table)
    for result in results:
        for problem in result.problems[:5]:
            console.print(f"{result.sink}: {problem}", style="red")
