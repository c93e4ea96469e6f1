"""What the dashboards are made of: panels with one look, variables, and the board that numbers them."""

from collections.abc import Mapping, Sequence
from typing import Final

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TAG: Final = "telegram-gateway"
SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

# Which series a panel asks for; the variables are on every board that uses them.
GATEWAY: Final = 'instance=~"$instance"'
ACCOUNT: Final = f'{GATEWAY},account=~"$account"'
SINK: Final = f'{GATEWAY},sink=~"$sink"'
RATE: Final = "[$__rate_interval]"

Query = tuple[str, str]  # expression and legend
Steps = Sequence[tuple[float | None, str]]  # from this value on, this colour

PLAIN: Final[Steps] = ((None, "text"),)
NONE_IS_GOOD: Final[Steps] = ((None, "green"), (1, "red"))
UP: Final[Steps] = ((None, "red"), (1, "green"))
UP_WORDS: Final = {"0": ("down", "red"), "1": ("up", "green")}
DOWN_WORDS: Final = {"0": ("no", "green"), "1": ("yes", "red")}


def share(warn: float, page: float) -> Steps:
    """Of something that may fill up or run out: green, then orange, then red."""
    return ((None, "green"), (warn, "orange"), (page, "red"))


def least(page: float, warn: float) -> Steps:
    """Of something that should be high."""
    return ((None, "red"), (page, "orange"), (warn, "green"))


def graph(
    title: str,
    text: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    steps: Steps | None = None,
    top: float | None = None,
    bottom: float | None = 0,
    stacked: bool = False,
) -> timeseries.Panel:
    """Lines over time. `steps` are lines as well; `top` and `bottom` are what is possible."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            options.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(
            options.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(options.StackingConfig().mode(common.StackingMode.NORMAL))
    if bottom is not None:
        panel.min(bottom)
    if top is not None:
        panel.max(top)
    if steps is not None:
        panel.thresholds(_thresholds(steps))
        panel.thresholds_style(
            options.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    for target in _targets(queries):
        panel.with_target(target)
    return panel


def figure(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    width: int = 4,
    steps: Steps = PLAIN,
    words: Mapping[str, tuple[str, str]] | None = None,
    none: str = "0",
    names: bool = False,
) -> stat.Panel:
    """The newest value of each series, large, or with `names` its legend.

    `words` says values in words, `none` what it means when there is no series.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .no_value(none)
        .thresholds(_thresholds(steps))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.NAME if names else common.BigValueTextMode.AUTO)
        .reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )
    if words is not None:
        panel.mappings(
            [
                dashboard.ValueMap(
                    {
                        value: dashboard.ValueMappingResult(text=word, color=color, index=index)
                        for index, (value, (word, color)) in enumerate(words.items())
                    }
                )
            ]
        )
    for target in _targets(queries):
        panel.with_target(target)
    return panel


def listing(
    title: str, text: str, expression: str, label: str, heading: str, *, unit: str, width: int = 8
) -> table.Panel:
    """The newest value of each series as a table, the greatest first."""
    hidden = {"Time": True}
    return (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .with_target(
            prometheus.Dataquery()
            .expr(expression)
            .instant()
            .format(PromQueryFormat.TABLE)
            .legend_format("")
            .ref_id("A")
        )
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": hidden, "renameByName": {label: label, "Value": heading}},
            )
        )
        .sort_by([options.TableSortByFieldState().display_name(heading).desc(True)])
    )


def percentiles(metric: str, labels: str, by: str = "", legend: str = "") -> tuple[Query, Query]:
    """The median and the 99th percentile of a histogram, by label."""
    grouping = f"le, {by}" if by else "le"
    rates = f"sum by ({grouping}) (rate({metric}_bucket{{{labels}}}{RATE}))"
    prefix = f"{{{{{by}}}}} " if by else legend
    return (
        (f"histogram_quantile(0.5, {rates})", f"{prefix}p50"),
        (f"histogram_quantile(0.99, {rates})", f"{prefix}p99"),
    )


class Board:
    """One dashboard: rows of panels, each row as wide as the page."""

    def __init__(
        self, uid: str, title: str, text: str, *, variables: Sequence[str], span: str = "now-6h"
    ) -> None:
        self._panels = 0
        self._board = (
            build.Dashboard(title)
            .uid(f"telegram-{uid}")
            .description(text)
            .tags([TAG])
            .editable()
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .refresh("30s")
            .time(span, "now")
            .timezone("browser")
            .with_variable(
                build.DatasourceVariable("datasource")
                .label("Data source")
                .type("prometheus")
                .current(dashboard.VariableOption(selected=True, text="Prometheus", value="prometheus"))
            )
            .link(
                build.DashboardLink("Telegram gateway")
                .type(dashboard.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(True)
                .include_vars(True)
                .keep_time(True)
            )
        )
        for name in variables:
            metric, label = VARIABLES[name]
            self._board.with_variable(
                build.QueryVariable(name)
                .label(name.capitalize())
                .datasource(SOURCE)
                .query(f"label_values({metric}, {label})")
                .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
                .multi(True)
                .include_all(True)
                .all_value(".+")
                .current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))
            )

    def row(self, title: str, *panels: timeseries.Panel | stat.Panel | table.Panel) -> "Board":
        """A heading and what is below it; the panels fill whole lines."""
        self._board.with_row(build.Row(title).id(self._number()))
        for panel in panels:
            self._board.with_panel(panel.id(self._number()))
        return self

    def build(self) -> dashboard.Dashboard:
        return self._board.build()

    def _number(self) -> int:
        self._panels += 1
        return self._panels


# Variable -> the series and the label that its values come from.
VARIABLES: Final = {
    "instance": ("telegram_gateway_build_info", "instance"),
    "account": ("telegram_gateway_connection_up", "account"),
    "sink": ("telegram_gateway_sink_up", "sink"),
}


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).range().ref_id(chr(ord("A") + index))
        for index, (expression, legend) in enumerate(queries)
    ]


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=value, color=color) for value, color in steps])
    )
