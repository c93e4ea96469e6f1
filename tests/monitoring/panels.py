"""Panels and their queries, read from the checked-in dashboards as Grafana reads them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.dashboards import DIRECTORY

# What stands in a query without being a metric: keywords, and whatever is in braces, brackets or quotes.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_ASIDE = re.compile(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass(frozen=True)
class Query:
    """One line of a panel; `expression` as it is checked in, variables and all."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel, a row's heading included."""

    dashboard: str
    body: dict[str, Any]

    @property
    def title(self) -> str:
        return str(self.body["title"])

    @property
    def kind(self) -> str:
        return str(self.body["type"])

    @property
    def queries(self) -> list[Query]:
        return [Query(one["expr"], one.get("legendFormat", "")) for one in self.body.get("targets", ())]


def dashboards(directory: Path = DIRECTORY) -> dict[str, dict[str, Any]]:
    """Each checked-in dashboard, by the name of its file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(directory.glob("*.json"))}


def panels() -> Iterator[Panel]:
    """Every panel with queries."""
    for name, board in dashboards().items():
        for body in board["panels"]:
            if body["type"] != "row":
                yield Panel(name, body)


def filled(expression: str, *, rate: str, window: str) -> str:
    """A query as Grafana sends it with all variables at All."""
    text = expression.replace("$__rate_interval", rate).replace("$__range", window)
    text = re.sub(r"\$(instance|account|sink)\b", ".+", text)
    assert "$" not in text, expression
    return text


def metric_names(expression: str) -> set[str]:
    """Every metric that a PromQL expression asks for by name."""
    bare = _ASIDE.sub(" ", _QUOTED.sub(" ", expression))
    return {name for name in _NAME.findall(bare) if name.lower() not in _KEYWORDS}
