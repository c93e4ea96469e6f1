"""The objectives of docs/slo.md: met or not, what is left of the error budget, how fast it burns."""

from gateway.dashboards.overview import FRESHNESS
from gateway.dashboards.parts import GATEWAY, RATE, Board, figure, graph, least, percentiles, share

_WHO = "{{slo}} {{sink}}"
_BURN = " / on (slo) group_left () slo:error_budget:ratio"


def board() -> Board:
    return (
        Board(
            "slo",
            "Telegram gateway / SLO",
            "Capture completeness, sink freshness, API availability: met, and how much may still go wrong.",
            variables=("instance", "sink"),
            span="now-7d",
        )
        .row(
            "28 days",
            figure(
                "Met",
                "Share of 28 days, or of as much as Prometheus has seen, in which the objective held.",
                ("1 - slo:error_ratio:28d", _WHO),
                unit="percentunit",
                width=12,
                steps=least(0.999, 0.9995),
                none="no rules",
            ),
            figure(
                "Error budget left",
                "Of the 0.1 % of 28 days, some 40 minutes, that may go wrong. Below 0: no risky changes.",
                ("slo:error_budget_remaining:ratio28d", _WHO),
                unit="percentunit",
                width=12,
                steps=least(0, 0.25),
                none="no rules",
            ),
        )
        .row(
            "Burning",
            graph(
                "Burn rate, one hour",
                "1 uses the budget up in exactly 28 days. At 14.4 for an hour a person is paged.",
                (f"slo:error_ratio:1h{_BURN}", _WHO),
                unit="short",
                width=12,
                steps=share(6, 14.4),
            ),
            graph(
                "Burn rate, three days",
                "The slow leak: above 1 for three days opens a ticket.",
                (f"slo:error_ratio:3d{_BURN}", _WHO),
                unit="short",
                width=12,
                steps=((None, "green"), (1, "orange")),
            ),
            graph(
                "Budget left",
                "Falls while an objective is missed, rises as old misses leave the 28 days.",
                ("slo:error_budget_remaining:ratio28d", _WHO),
                unit="percentunit",
                width=12,
                steps=least(0, 0.25),
                top=1,
                bottom=None,
            ),
            graph(
                "Good now",
                "1 while the objective holds, minute by minute.",
                ("slo:good:bool", _WHO),
                unit="short",
                width=12,
                top=1,
            ),
        )
        .row(
            "What it is measured by",
            graph(
                "Capture: open gaps",
                "Complete is: connected, no gap open, intake not paused.",
                (f"sum by (account) (telegram_gateway_open_gaps{{{GATEWAY}}})", "{{account}}"),
                unit="short",
                width=6,
            ),
            graph(
                "Freshness",
                "Fresh is: nothing has waited for more than 30 s.",
                (FRESHNESS, "{{sink}}"),
                unit="s",
                width=6,
                steps=((None, "green"), (30, "red")),
            ),
            graph(
                "API: failed requests",
                "Requests answered with 5xx.",
                (
                    f'sum(rate(telegram_gateway_api_requests_total{{code=~"5.."}}{RATE})) or vector(0)',
                    "5xx",
                ),
                unit="reqps",
                width=6,
            ),
            graph(
                "API: latency",
                "No objective yet; slow answers are what callers notice first.",
                *percentiles("telegram_gateway_api_request_seconds", "", legend="all routes "),
                unit="s",
                width=6,
            ),
        )
    )
