"""What a run shows for itself: a table in Markdown, fit for the README."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.demo.comparison import Comparison, Flaw

_FLAWS: tuple[Flaw, ...] = ("lost", "twice", "disorder", "wrong", "extra", "gap")
_STRUCK = {
    "swallow": "swallow",
    "duplicate": "duplicate",
    "reorder": "reorder",
    "delay": "delay",
    "refuse": "refuse",
    "stall": "stall",
    "flood wait, error 500": "rpc_error",
    "undecodable": "garbled_answer",
    "lost answer": "lose_answer",
    "account and channel too long": "too_long",
}


@dataclass(frozen=True)
class Report:
    """One run: what was done to it, what came of it."""

    seed: int
    machine: str
    seconds: float
    settled_seconds: float
    messages: int
    changes: int
    kills: int
    torn: int
    restarted: int
    late_leaves: int
    actions: Mapping[str, int]
    struck: Mapping[str, int]
    logged: Mapping[str, int]
    recoveries: Mapping[str, Sequence[float]]
    results: Sequence[Comparison]
    left_out: Sequence[str] = ()
    problems: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """The tables."""
        lines = [
            f"Seed {self.seed}; {self.machine}; {self.seconds / 60:.1f} minutes of it, all settled "
            f"{self.settled_seconds:.0f} s after the last. "
            f"{self.messages:,} messages ({self.changes:,} changes), "
            f"{self.kills} × kill -9 ({self.torn} with a torn journal tail)."
        ]
        if self.left_out:
            lines.append(f"Left out: {', '.join(self.left_out)}.")
        lines += [
            "",
            "| compared | expected | there | lost | twice | out of order | other content | "
            "never posted | unexplained gaps |",
            "|---|" + "---:|" * 8,
        ]
        for result in self.results:
            flaws = " | ".join(str(result.flaws.get(flaw, 0)) for flaw in _FLAWS)
            note = f" ({result.absent:,} forgotten)" if result.absent else ""
            lines.append(f"| {result.sink} | {result.expected:,} | {result.delivered:,}{note} | {flaws} |")
        lines += ["", "| action | times |", "|---|---:|"]
        lines += [f"| {kind} | {count} |" for kind, count in sorted(self.actions.items())]
        lines += ["", "| what it met | times |", "|---|---:|"]
        met = {what: self.struck.get(key, 0) for what, key in _STRUCK.items()}
        met |= {what.replace("_", " "): count for what, count in self.logged.items()}
        met["restarts by the service manager"] = self.restarted
        met["leaves given up, because not all had come"] = self.late_leaves
        lines += [f"| {what} | {count} |" for what, count in met.items()]
        lines += ["", "| recovery | times | p50 | max |", "|---|---:|---:|---:|"]
        for what, seconds in sorted(self.recoveries.items()):
            middle = statistics.median(seconds)
            lines.append(f"| {what} | {len(seconds)} | {middle:.1f} s | {max(seconds):.1f} s |")
        return "\n".join(lines)
