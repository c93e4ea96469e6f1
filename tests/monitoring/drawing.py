"""Draws a dashboard's panels, as Grafana would lay them out, into one HTML page from Prometheus's answers."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Points = list[tuple[float, float]]

_CELL = 36  # pixels of one line of Grafana's grid, the gap included
_COLUMN = 54
_GAP = 8
_STEPS = (1, 1.5, 2, 3, 4, 5, 8, 10)
_COLORS = (
    "#73bf69",
    "#f2cc0c",
    "#5794f2",
    "#ff9830",
    "#f2495c",
    "#b877d9",
    "#37872d",
    "#8ab8ff",
    "#fade2a",
    "#c4162a",
)
_NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "text": "#d8d9da"}
_UNFILLED = re.compile(r"\{\{[^}]*\}\}")
_CAPTION = (
    "The panels of the dashboard, drawn from Prometheus's answers, not a screenshot of Grafana; "
    "a real run against the sandbox with mishaps"
)
_STYLE = f"""
body {{ margin: 0; background: #111217; color: #d8d9da; font: 12px/1.4 Inter, "DejaVu Sans", sans-serif; }}
header {{ padding: 14px 16px 4px; }} h1 {{ font-size: 18px; font-weight: 500; margin: 0; }}
header p {{ margin: 2px 0 0; color: #8e9097; }}
main {{ position: relative; width: {24 * _COLUMN}px; margin: 8px 12px 16px; }}
section {{ position: absolute; box-sizing: border-box; background: #181b1f; border: 1px solid #25282e;
  border-radius: 2px; padding: 6px 8px; overflow: hidden; }}
section h2 {{ font-size: 12px; font-weight: 500; margin: 0 0 2px; white-space: nowrap; }}
section.row {{ background: none; border: none; padding: 8px 4px; }} section.row h2 {{ font-size: 14px; }}
.tiles {{ display: flex; justify-content: space-around; align-items: center; height: 76%; gap: 8px; }}
.tile {{ text-align: center; white-space: nowrap; }}
.tile b {{ display: block; font-size: 24px; font-weight: 500; }}
.tile.many b {{ font-size: 17px; }} .tile span, .legend {{ color: #9fa1a8; font-size: 11px; }}
.legend {{ position: absolute; bottom: 4px; left: 8px; right: 8px; max-height: 28px; line-height: 14px;
  overflow: hidden; }}
.legend i {{ display: inline-block; width: 12px; height: 3px; margin: 0 4px 2px 8px; }}
svg text {{ fill: #9fa1a8; font-size: 10px; }}
td {{ padding: 1px 6px; border-bottom: 1px solid #25282e; white-space: nowrap; font-size: 11px; }}
table {{ table-layout: fixed; width: 100%; border-spacing: 0; }}
td {{ overflow: hidden; text-overflow: ellipsis; }} td:last-child {{ text-align: right; width: 60px; }}
"""


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    name: str
    points: Points

    @property
    def last(self) -> float:
        return next((value for _, value in reversed(self.points) if math.isfinite(value)), math.nan)


def legend(template: str, labels: Mapping[str, str]) -> str:
    """A series' name, as the panel wants it written; without a wish, its labels."""
    template = template or " ".join(f"{{{{{label}}}}}" for label in labels if label != "__name__")
    for label, value in labels.items():
        template = template.replace("{{" + label + "}}", value)
    return _UNFILLED.sub("", template).strip()


def page(board: Mapping[str, Any], data: Mapping[int, Sequence[Series]], start: float, end: float) -> str:
    """The whole dashboard; `data` has each panel's series by the panel's id."""
    drawn = "".join(_panel(panel, data.get(panel["id"], ()), start, end) for panel in board["panels"])
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) * _CELL
    seen = f"{datetime.fromtimestamp(start, UTC):%H:%M:%S} to {datetime.fromtimestamp(end, UTC):%H:%M:%S} UTC"
    return (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(board["title"])}</title>'
        f"<style>{_STYLE}</style><header><h1>{html.escape(board['title'])}</h1><p>{_CAPTION}, "
        f'{seen}.</p></header><main style="height:{bottom}px">{drawn}</main>'
    )


def _panel(panel: Mapping[str, Any], series: Sequence[Series], start: float, end: float) -> str:
    at = panel["gridPos"]
    width, height = at["w"] * _COLUMN - _GAP, at["h"] * _CELL - _GAP
    place = f"left:{at['x'] * _COLUMN}px;top:{at['y'] * _CELL}px;width:{width}px;height:{height}px"
    kind = panel["type"]
    if kind == "row":
        inside = ""
    elif kind == "stat":
        inside = _tiles(panel, series)
    elif kind == "table":
        inside = _table(panel, series)
    else:
        inside = _graph(panel, series, width - 18, height - 60, start, end)
    return f'<section class="{kind}" style="{place}"><h2>{html.escape(panel["title"])}</h2>{inside}</section>'


def _tiles(panel: Mapping[str, Any], series: Sequence[Series]) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    shown = [one for one in series if math.isfinite(one.last)]
    many = " many" if len(shown) > 2 else ""
    if panel["options"]["textMode"] == "name":
        return f'<div class="tiles"><div class="tile"><b>{html.escape(shown[0].name)}</b></div></div>'
    tiles = "".join(
        f'<div class="tile{many}"><b style="color:{color}">{html.escape(text)}</b>'
        f"<span>{html.escape(one.name)}</span></div>"
        for one in shown
        for text, color in [_worded(defaults, one)]
    )
    return f'<div class="tiles">{tiles or _none(defaults)}</div>'


def _none(defaults: Mapping[str, Any]) -> str:
    return f'<div class="tile"><b>{html.escape(defaults["noValue"])}</b></div>'


def _worded(defaults: Mapping[str, Any], one: Series) -> tuple[str, str]:
    for mapping in defaults.get("mappings") or ():
        if found := mapping["options"].get(f"{one.last:g}"):
            return found["text"], _NAMED[found["color"]]
    color = "text"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or one.last >= step["value"]:
            color = step["color"]
    return written(one.last, defaults["unit"]), _NAMED[color]


def _table(panel: Mapping[str, Any], series: Sequence[Series]) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    rows = "".join(
        f"<tr><td>{html.escape(one.name[:52])}</td><td>{written(one.last, unit)}</td></tr>"
        for one in sorted(series, key=lambda one: -one.last)
    )
    return f"<table>{rows}</table>"


def _graph(
    panel: Mapping[str, Any], series: Sequence[Series], width: int, height: int, start: float, end: float
) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    lines = [Series(one.name, [point for point in one.points if math.isfinite(point[1])]) for one in series]
    if stacked := custom.get("stacking", {}).get("mode") == "normal":
        lines = _stacked(lines)
    values = [value for one in lines for _, value in one.points]
    top = defaults.get("max") or _rounded(max(values, default=1))
    low = -_rounded(-lowest) if (lowest := min(values, default=0)) < 0 else 0
    left, bottom = 56, height - 14

    def x(moment: float) -> float:
        return left + (moment - start) / (end - start) * (width - left)

    def y(value: float) -> float:
        return bottom - min(max((value - low) / (top - low), 0), 1) * (bottom - 8)

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        level = y(low + share * (top - low))
        label = written(low + share * (top - low), defaults["unit"])
        parts.append(f'<path d="M{left} {level:.1f}H{width}" stroke="#25282e"/>')
        parts.append(f'<text x="{left - 4}" y="{level + 3:.1f}" text-anchor="end">{label}</text>')
    for share in (0.1, 0.5, 0.9):
        moment = start + share * (end - start)
        said = f"{datetime.fromtimestamp(moment, UTC):%H:%M:%S}"
        parts.append(f'<text x="{x(moment):.1f}" y="{height}" text-anchor="middle">{said}</text>')
    if custom.get("thresholdsStyle", {}).get("mode") == "dashed":
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is not None and low < step["value"] <= top:
                parts.append(
                    f'<path d="M{left} {y(step["value"]):.1f}H{width}" stroke="{_NAMED[step["color"]]}" '
                    'stroke-dasharray="6 4" opacity="0.7"/>'
                )
    # The last line of a stack is its outline, so it is drawn first.
    for index, one in sorted(enumerate(lines), reverse=stacked):
        if one.points:
            color = _COLORS[index % len(_COLORS)]
            steps = "L".join(f"{x(moment):.1f} {y(value):.1f}" for moment, value in one.points)
            ground = f"L{x(one.points[-1][0]):.1f} {bottom}L{x(one.points[0][0]):.1f} {bottom}Z"
            opacity = 0.55 if stacked else custom["fillOpacity"] / 100
            parts.append(f'<path d="M{steps}{ground}" fill="{color}" opacity="{opacity}"/>')
            parts.append(f'<path d="M{steps}" fill="none" stroke="{color}" stroke-width="1.2"/>')
    names = "".join(
        f'<i style="background:{_COLORS[index % len(_COLORS)]}"></i>{html.escape(one.name)}'
        for index, one in enumerate(lines)
    )
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg><div class="legend">{names}</div>'


def _stacked(lines: Sequence[Series]) -> list[Series]:
    below: dict[float, float] = {}
    stack = []
    for one in lines:
        points = []
        for moment, value in one.points:
            below[moment] = below.get(moment, 0) + value
            points.append((moment, below[moment]))
        stack.append(Series(one.name, points))
    return stack


def _rounded(value: float) -> float:
    """The next number above that looks good on an axis."""
    if value <= 0:
        return 1
    size = 10 ** math.floor(math.log10(value))
    return float(next(step * size for step in _STEPS if step * size >= value * 1.02 or step == 10))


def written(value: float, unit: str) -> str:
    """A value with its unit, short."""
    if unit == "percentunit":
        return f"{value * 100:.3g}%" if abs(value) < 0.9995 or value == 1 else f"{value * 100:.1f}%"
    if unit == "bytes":
        for name in ("B", "KiB", "MiB", "GiB"):
            if abs(value) < 1024 or name == "GiB":
                return f"{value:.3g} {name}"
            value /= 1024
    if unit == "s":
        for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    suffix = {"cps": " c/s", "reqps": " req/s"}.get(unit, "")
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g} K{suffix}"
    return f"{value:.4g}{suffix}"
