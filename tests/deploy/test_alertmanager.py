"""Alertmanager with the shipped routes: who hears of what, and what is silenced as its cause is known."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio
import yaml
from aiohttp import web

from gateway.localstack.site import FreePorts
from gateway.localstack.stack import CONFIG_DIR
from gateway.sinks.rabbitmq import RabbitMQSink
from gateway.sinks.redis import RedisSink
from gateway.sinks.timescale import TimescaleSink

SHIPPED = CONFIG_DIR / "alertmanager" / "alertmanager.yml"
READY_SECONDS = 120.0
POLL_SECONDS = 0.1


def shipped_alerts() -> dict[str, set[str]]:
    """Every alert of the shipped rules, with the severities it has."""
    alerts: dict[str, set[str]] = {}
    for file in (CONFIG_DIR / "prometheus" / "rules").glob("*.yml"):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    alerts.setdefault(rule["alert"], set()).add(rule["labels"]["severity"])
    return alerts


@dataclass
class Pager:
    """A running Alertmanager, and whatever it sent to each receiver."""

    url: str
    http: aiohttp.ClientSession
    heard: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def raise_alert(self, name: str, **labels: str) -> None:
        annotations = {"summary": f"{name}.", "runbook_url": f"docs/runbooks/{name}.md"}
        body = [{"labels": {"alertname": name, **labels}, "annotations": annotations}]
        async with self.http.post(f"{self.url}/api/v2/alerts", json=body, raise_for_status=True):
            pass

    async def silenced(self) -> set[tuple[str, str]]:
        """Name and severity of every alert that another one silences."""
        async with self.http.get(f"{self.url}/api/v2/alerts", raise_for_status=True) as response:
            alerts = await response.json()
        return {
            (alert["labels"]["alertname"], alert["labels"]["severity"])
            for alert in alerts
            if alert["status"]["inhibitedBy"]
        }

    async def wait_heard(self, receiver: str, title: str) -> dict[str, Any]:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                for body in self.heard.get(receiver, []):
                    if body["attachments"][0]["title"] == title:
                        return body
                await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def alertmanager(directory: Path) -> AsyncIterator[Pager]:
    """Debian's, with the shipped file: only the receivers' files and the times that a group waits differ."""
    ports = FreePorts()
    listening, port = f"127.0.0.1:{ports.take()}", ports.take()
    text = SHIPPED.read_text().replace("/run/secrets", str(directory))
    configuration = directory / "alertmanager.yml"
    configuration.write_text(re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", text))
    async with aiohttp.ClientSession() as http:
        pager = Pager(f"http://{listening}", http)

        async def hear(request: web.Request) -> web.Response:
            pager.heard.setdefault(request.match_info["receiver"], []).append(await request.json())
            return web.Response()

        app = web.Application()
        app.router.add_post("/{receiver}", hear)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        for receiver in ("page", "notify", "watchdog"):
            (directory / f"alertmanager-{receiver}-url").write_text(f"http://127.0.0.1:{port}/{receiver}\n")
        with (directory / "alertmanager.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "SIGKILL", "--", "prometheus-alertmanager"),
                *(f"--config.file={configuration}", f"--storage.path={directory}/data"),
                *(f"--web.listen-address={listening}", "--cluster.listen-address="),
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    try:
                        async with http.get(f"{pager.url}/-/ready", raise_for_status=True):
                            break
                    except aiohttp.ClientError:
                        await asyncio.sleep(POLL_SECONDS)
            yield pager
        finally:
            process.kill()
            await process.wait()
            await runner.cleanup()


@pytest_asyncio.fixture
async def pager(tmp_path: Path) -> AsyncIterator[Pager]:
    async with alertmanager(tmp_path) as running:
        yield running


async def test_amtool_accepts_the_shipped_file() -> None:
    process = await asyncio.create_subprocess_exec(
        "amtool", "check-config", SHIPPED, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def test_the_file_names_only_alerts_objectives_and_sinks_that_exist() -> None:
    matchers = [
        matcher
        for rule in yaml.safe_load(SHIPPED.read_text())["inhibit_rules"]
        for side in ("source_matchers", "target_matchers")
        for matcher in rule[side]
    ]
    named: dict[str, set[str]] = {}
    for matcher in matchers:
        label, values = re.fullmatch(r'(\w+)=~?"(.*)"', matcher).groups()  # type: ignore[union-attr]
        named.setdefault(label, set()).update(values.split("|"))
    assert named["alertname"] <= set(shipped_alerts())
    assert named["severity"] <= set().union(*shipped_alerts().values())
    assert named["sink"] == {TimescaleSink.name, RedisSink.name, RabbitMQSink.name}
    rules = (CONFIG_DIR / "prometheus" / "rules" / "slo.yml").read_text()
    assert all(f"{{slo: {objective}}}" in rules for objective in named["slo"])


def test_a_warning_never_silences_a_page() -> None:
    alerts = shipped_alerts()
    for rule in yaml.safe_load(SHIPPED.read_text())["inhibit_rules"]:
        sources = {
            name
            for name in alerts
            if any(f'"{name}' in one or f"|{name}" in one for one in rule["source_matchers"])
        }
        if not any("warning" in alerts[name] for name in sources):
            continue
        text = " ".join(rule["target_matchers"])
        targets = {name for name in alerts if name in text}
        assert 'severity="warning"' in text or all(alerts[name] == {"warning"} for name in targets), rule


async def test_each_severity_reaches_its_receiver_with_the_runbook(pager: Pager) -> None:
    await pager.raise_alert("TelegramSessionInvalid", severity="page", account="main")
    await pager.raise_alert("BackupStale", severity="warning")
    await pager.raise_alert("Watchdog", severity="none")
    page = await pager.wait_heard("page", "FIRING TelegramSessionInvalid")
    assert page["attachments"][0]["title_link"] == "docs/runbooks/TelegramSessionInvalid.md"
    assert "TelegramSessionInvalid." in page["attachments"][0]["text"]
    await pager.wait_heard("notify", "FIRING BackupStale")
    await pager.wait_heard("watchdog", "FIRING Watchdog")
    assert {name: len(bodies) for name, bodies in pager.heard.items()} == {
        "page": 1,
        "notify": 1,
        "watchdog": 1,
    }


async def test_a_gateway_that_is_down_silences_what_follows_and_nothing_else(pager: Pager) -> None:
    await pager.raise_alert("TelegramGatewayDown", severity="page", instance="127.0.0.1:4006")
    following = [
        ("TelegramDisconnected", {"severity": "page", "account": "main"}),
        ("SinkUndelivered", {"severity": "page", "sink": "redis"}),
        ("HighPollingLag", {"severity": "warning", "consumer": "tp-capital"}),
        ("ErrorBudgetBurn", {"severity": "page", "slo": "capture-completeness"}),
    ]
    others = [
        ("TelegramSessionInvalid", {"severity": "page", "account": "main"}),
        ("DatabaseDown", {"severity": "page"}),
        ("BackupStale", {"severity": "warning"}),
        ("ErrorBudgetBurn", {"severity": "warning", "slo": "api-availability"}),
    ]
    for name, labels in (*following, *others):
        await pager.raise_alert(name, **labels)
    for name in ("TelegramSessionInvalid", "DatabaseDown", "TelegramGatewayDown"):
        await pager.wait_heard("page", f"FIRING {name}")
    assert await pager.silenced() == {(name, labels["severity"]) for name, labels in following}


async def test_a_server_that_is_down_silences_its_own_sink_only(pager: Pager) -> None:
    await pager.raise_alert("RabbitMQDown", severity="page")
    await pager.raise_alert("RedisClusterDown", severity="warning")
    await pager.wait_heard("page", "FIRING RabbitMQDown")
    await pager.wait_heard("notify", "FIRING RedisClusterDown")
    await pager.raise_alert("SinkUndelivered", severity="warning", sink="timescaledb")
    await pager.raise_alert("SinkUndelivered", severity="page", sink="redis")
    await pager.raise_alert("CacheHitRateLow", severity="warning", consumer="tp-capital")
    assert await pager.silenced() == {("CacheHitRateLow", "warning")}
    await pager.raise_alert("SinkUndelivered", severity="page", sink="rabbitmq")
    await pager.raise_alert("ErrorBudgetBurn", severity="page", slo="sink-freshness", sink="rabbitmq")
    assert await pager.silenced() == {
        ("CacheHitRateLow", "warning"),
        ("SinkUndelivered", "page"),
        ("ErrorBudgetBurn", "page"),
    }


async def test_a_page_silences_the_warning_of_the_same_thing(pager: Pager) -> None:
    await pager.raise_alert("SinkUndelivered", severity="page", sink="rabbitmq")
    await pager.raise_alert("SinkUndelivered", severity="warning", sink="rabbitmq")
    await pager.wait_heard("page", "FIRING SinkUndelivered")
    assert await pager.silenced() == {("SinkUndelivered", "warning")}
    await pager.raise_alert("SinkUndelivered", severity="warning", sink="redis")
    await pager.wait_heard("notify", "FIRING SinkUndelivered")
