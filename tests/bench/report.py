"""The table at the end: one line a figure, one column a subject, the target and whether it was met."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.bench.subjects import SANDBOX, SUBJECTS

COLUMNS = (SANDBOX, *SUBJECTS)

Value = float | str | None
_VERDICTS = {None: "", True: "ok", False: "missed"}


@dataclass(frozen=True)
class Row:
    """One figure of all subjects it was measured for. Targets are printed, never asserted."""

    scenario: str
    figure: str
    cells: dict[str, Value]
    target: str | None = None
    met: bool | None = None


@dataclass
class Report:
    """What one run found, on which machine, in which form."""

    machine: dict[str, str]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(
        self,
        scenario: str,
        figure: str,
        cells: dict[str, Value],
        target: str | None = None,
        met: bool | None = None,
    ) -> None:
        self.rows.append(Row(scenario, figure, cells, target, met))

    def fail(self, scenario: str, reason: str) -> None:
        """Notes a scenario that could not be measured to its end."""
        self.failures.append(f"{scenario} failed: {reason}")

    def render(self, console: Console) -> None:
        """The plain text."""
        for name, value in self.machine.items():
            console.print(Text(f"{name}: {value}"))
        console.print(
            Text(f"settings: {', '.join(f'{name} {value}' for name, value in self.settings.items())}")
        )
        compared = [row for row in self.rows if row.cells.keys() <= set(COLUMNS)]
        table = Table(box=None, pad_edge=False, header_style="")
        table.add_column("scenario", no_wrap=True)
        table.add_column("figure", no_wrap=True)
        for name in COLUMNS:
            table.add_column(name, justify="right")
        table.add_column("target", no_wrap=True)
        table.add_column("")
        previous = None
        for row in compared:
            if previous not in (None, row.scenario):
                table.add_row()
            cells = [_shown(row.cells.get(name)) for name in COLUMNS]
            scenario = row.scenario if row.scenario != previous else ""
            table.add_row(*map(Text, (scenario, row.figure, *cells, row.target or "", _VERDICTS[row.met])))
            previous = row.scenario
        if compared:
            console.print(table)
        for scenario in dict.fromkeys(row.scenario for row in self.rows if row not in compared):
            console.print(Text(f"\n{self.markdown(scenario)}"), soft_wrap=True)
        for failure in self.failures:
            console.print(Text(failure))

    def markdown(self, scenario: str) -> str:
        """One scenario as a table in Markdown, with the columns that it has."""
        rows = [row for row in self.rows if row.scenario == scenario]
        columns = list(dict.fromkeys(name for row in rows for name in row.cells))
        lines = [[scenario, *columns, "target", ""], ["---"] * (len(columns) + 3)]
        for row in rows:
            cells = [_shown(row.cells[name]) if name in row.cells else "" for name in columns]
            lines.append([row.figure, *cells, row.target or "", _VERDICTS[row.met]])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def write(self, file: Path) -> None:
        """The same as JSON."""
        file.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n")


def quantile(values: list[float], q: float) -> float | None:
    """The nearest-rank quantile; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def _shown(value: Value) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
