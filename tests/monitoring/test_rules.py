"""The shipped rules, judged by promtool: each alert fires when it should, keeps quiet otherwise, and helps.

That every metric they name is exported by somebody is shown in test_dashboards, with all of it running.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.prometheus import SHIPPED, seconds_of

ROOT = Path(__file__).parents[2]
CASES = sorted((Path(__file__).parent / "rules").glob("*.yml"))
SEVERITIES = {"page", "warning", "none"}
PROMISED = {
    "TelegramGatewayDown",
    "TelegramDisconnected",
    "TelegramSessionInvalid",
    "HighPollingLag",
    "SinkUndelivered",
    "LedgerGapOpen",
    "JournalDiskFilling",
    "RedisClusterDown",
    "CacheHitRateLow",
    "DatabaseConnectionPoolExhausted",
    "DeadLetterQueueBuilding",
    "RabbitMQBlocked",
    "FloodWaitLong",
    "BackupStale",
    "ErrorBudgetBurn",
    "Watchdog",
}
HEADINGS = ["What it means", "Confirm", "Do", "Escalate"]
_RUNBOOK = re.compile(
    r"\{\{ with \$externalLabels\.docs_url \}\}\{\{ \. \}\}/\{\{ end \}\}(docs/runbooks/\w+\.md)"
)


def groups() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted((SHIPPED / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield file, group


ALERTS = [rule for _, group in groups() for rule in group["rules"] if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def cases(alert: str) -> list[list[dict[str, Any]]]:
    """What each case expects of this alert at each moment it looks."""
    return [
        check.get("exp_alerts") or []
        for file in CASES
        for test in yaml.safe_load(file.read_text())["tests"]
        for check in test["alert_rule_test"]
        if check["alertname"] == alert
    ]


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", SHIPPED / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", *sorted((SHIPPED / "rules").glob("*.yml")))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_alerts_fire_and_keep_quiet_as_the_cases_say(file: Path) -> None:
    promtool("test", "rules", file)


def test_every_promised_alert_is_there() -> None:
    assert set(NAMES) >= PROMISED


@pytest.mark.parametrize("alert", NAMES)
def test_an_alert_has_cases_in_which_it_fires_with_each_severity_and_in_which_it_does_not(alert: str) -> None:
    expected = cases(alert)
    marks = [
        {name: rule["labels"][name] for name in ("severity", "window") if name in rule["labels"]}
        for rule in ALERTS
        if rule["alert"] == alert
    ]
    for mark in marks:
        fired = any(mark.items() <= one["exp_labels"].items() for check in expected for one in check)
        assert fired, f"no case in which {alert} {mark} fires"
    quiet = [] in expected
    assert quiet or alert == "Watchdog", f"no case in which {alert} does not fire"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_how_bad_it_is_what_happened_and_where_its_runbook_is(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    link = _RUNBOOK.fullmatch(rule["annotations"]["runbook_url"])
    assert link, "the link begins with the external label docs_url, if there is one"
    page = ROOT / link[1]
    assert page.stem == rule["alert"]
    assert [
        line.removeprefix("## ") for line in page.read_text().splitlines() if line.startswith("## ")
    ] == HEADINGS


def test_every_runbook_belongs_to_an_alert() -> None:
    assert sorted(page.stem for page in (ROOT / "docs/runbooks").glob("*.md")) == NAMES


def test_what_is_recorded_stays_fresh_between_two_evaluations() -> None:
    for file, group in groups():
        assert seconds_of(group.get("interval", "15s")) <= 60, f"{file.name}: {group['name']}"


def test_the_burn_rates_are_of_one_budget_for_each_objective() -> None:
    burning = {
        (rule["labels"]["window"], rule["labels"]["severity"]): rule["expr"]
        for rule in ALERTS
        if rule["alert"] == "ErrorBudgetBurn"
    }
    for (long, severity), (short, factor) in {
        ("1h", "page"): ("5m", "14.4"),
        ("6h", "page"): ("30m", "6"),
        ("1d", "warning"): ("2h", "3"),
        ("3d", "warning"): ("6h", "1"),
    }.items():
        expression = burning.pop((long, severity))
        for window in (long, short):
            assert (
                f"slo:error_ratio:{window} > on (slo) group_left () ({factor} * slo:error_budget:ratio)"
                in expression
            )
    assert not burning
