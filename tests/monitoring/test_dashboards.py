"""The dashboards are what the code builds, and show data of everything they ask for; so do the rules."""

import asyncio
import math
import subprocess
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
import yaml

from gateway.dashboards import DIRECTORY, build
from gateway.localstack.stack import CONFIG_DIR
from tests.monitoring.panels import dashboards, filled, metric_names, panels
from tests.monitoring.scene import Scene, running_scene

BOARDS = {"overview", "database", "redis", "rabbitmq", "mtproto", "slo"}
RATE, WINDOW = "20s", "60s"  # what Grafana would put for the variables of these names
AT_ONCE = 4


def test_the_checked_in_dashboards_are_what_the_code_builds() -> None:
    checked_in = {file.name: file.read_text() for file in DIRECTORY.iterdir()}
    assert {name.removesuffix(".json") for name in checked_in} == BOARDS
    assert build() == checked_in, "run: make dashboards"


def test_every_panel_says_what_it_means_and_has_its_place() -> None:
    uids = [board["uid"] for board in dashboards().values()]
    assert len(set(uids)) == len(BOARDS)
    for name, board in dashboards().items():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), name
        cells = [
            (x, y)
            for panel in board["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(set(cells)) == len(cells), f"panels of {name} overlap"
        assert {x for x, _ in cells} == set(range(24)), f"panels of {name} leave the page or do not fill it"
    for one in panels():
        where = f"{one.dashboard}: {one.title}"
        assert len(one.body["description"]) > 10, where
        assert one.body["fieldConfig"]["defaults"]["unit"], where
        assert one.queries, where


def test_grafana_is_told_where_prometheus_and_the_dashboards_are() -> None:
    provisioning = CONFIG_DIR / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://127.0.0.1:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "telegram-gateway.yaml").read_text())[
        "providers"
    ]
    grafana = yaml.safe_load((CONFIG_DIR / "compose.monitoring.yaml").read_text())["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in grafana["volumes"]
    for name, board in dashboards().items():
        chosen = board["templating"]["list"][0]
        assert (chosen["query"], chosen["current"]["value"]) == (source["type"], source["uid"]), name
    for panel in panels():
        assert panel.body["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (
            'sum by (a, le) (rate(x_total{b=~"c|d"}[5m])) / on (slo) group_left () y:z:ratio > bool 0',
            "x_total y:z:ratio",
        ),
        ('count(ALERTS{alertstate="firing"}) or vector(0)', "ALERTS"),
        ("1 - avg_over_time(a[1h]) and b offset 15m unless 14.4 * c > 1e6", "a b c"),
    ],
)
def test_a_query_is_read_for_the_metrics_it_names(expression: str, names: str) -> None:
    assert metric_names(expression) == set(names.split())


@pytest.mark.parametrize(
    "program", ["prometheus", "prometheus-postgres-exporter", "prometheus-redis-exporter"]
)
def test_the_guides_options_are_those_of_debians_packages(program: str) -> None:
    guide = (CONFIG_DIR.parent / "docs" / "monitor.md").read_text()
    arguments = guide.partition(f"`/etc/default/{program}`")[2].partition('ARGS="')[2].partition('"')[0]
    options = [argument.partition("=")[0] for argument in arguments.split()]
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert options
    assert not [option for option in options if f" {option}" not in known.stdout + known.stderr]


@pytest_asyncio.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with running_scene(tmp_path_factory.mktemp("scene")) as running:
        await running.live(rounds=4)
        yield running


async def exported(scene: Scene) -> set[str]:
    """Every name that some target exports, with or without a series at the moment."""
    names = await scene.prometheus.metric_names()
    async with aiohttp.ClientSession() as http, http.get(f"{scene.prometheus.url}/api/v1/metadata") as answer:
        for name in (await answer.json())["data"]:
            names |= {name, f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return names


async def test_every_query_of_every_panel_shows_data(scene: Scene) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def shows(expression: str) -> bool:
        async with turns:
            series = await scene.prometheus.query_range(expression, scene.since, time.time(), 2)
        return any(math.isfinite(value) for _, points in series for _, value in points)

    asked = {
        (panel.dashboard, panel.title, query.expression): filled(query.expression, rate=RATE, window=WINDOW)
        for panel in panels()
        for query in panel.queries
    }
    answers = await asyncio.gather(*map(shows, asked.values()))
    assert len(asked) > 100
    assert not [where for where, has_data in zip(asked, answers, strict=True) if not has_data]


async def test_every_choice_of_a_variable_comes_from_a_label_that_is_there(scene: Scene) -> None:
    for name, board in dashboards().items():
        known = {variable["name"]: variable for variable in board["templating"]["list"]}
        for variable in known.values():
            if variable["type"] == "query":
                metric, label = variable["query"].removeprefix("label_values(").removesuffix(")").split(", ")
                found = await scene.prometheus.query(f"last_over_time({metric}[{WINDOW}])")
                assert any(sample.labels.get(label) for sample in found), (name, variable["name"])
        used = {
            one
            for one in ("instance", "account", "sink")
            if any(
                f'"${one}"' in query.expression
                for panel in panels()
                if panel.dashboard == name
                for query in panel.queries
            )
        }
        assert used == known.keys() - {"datasource"}, name


async def test_every_rule_stands_on_metrics_that_somebody_exports_and_every_recorded_one_has_data(
    scene: Scene,
) -> None:
    rules = await scene.prometheus.rules()
    assert len(rules) > 10
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    for name in recorded:
        await scene.prometheus.wait_query(f"last_over_time({name}[{WINDOW}])")
    names = await exported(scene)
    rules = await scene.prometheus.rules()
    assert not [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"]
    unknown = {rule["name"]: missing for rule in rules if (missing := metric_names(rule["query"]) - names)}
    assert not unknown


async def test_the_poolers_exporter_shows_its_limits_and_says_when_the_pooler_is_gone(scene: Scene) -> None:
    """The last test: it stops the pooler."""
    wait = scene.prometheus.wait_query
    (limit,) = await wait('pgbouncer_databases_max_connections{name="telegram_gateway"}')
    (clients,) = await wait("pgbouncer_config_max_client_connections")
    assert (limit.value, clients.value) == (20, 100)
    (served,) = await wait('pgbouncer_stats_queries_pooled_total{database="telegram_gateway"}')
    assert served.value > 100
    await scene.stack.pgbouncer.kill()
    await wait("pgbouncer_up", until=lambda found: [one.value for one in found] == [0])
