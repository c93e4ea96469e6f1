"""Debian's Prometheus with the shipped configuration and rules, its targets moved to a test's ports.

What is loaded is a rewritten copy: targets, scrape and evaluation intervals, and the rules' `for:` divided by
`hurry`. Expressions, ranges, labels and annotations stay as they are shipped.
"""

import asyncio
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from gateway.localstack.site import FreePorts
from gateway.localstack.stack import CONFIG_DIR

SHIPPED = CONFIG_DIR / "prometheus"
PATIENCE_SECONDS = 180.0
POLL_SECONDS = 0.1  # between questions to a server that has no way to call back
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True)
class Sample:
    """One series' value in the answer to a query."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Alert:
    """One alert that is not inactive; `state` is pending or firing."""

    name: str
    state: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class Prometheus:
    """A running server, asked over its HTTP API."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.port = port
        self._http = http

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def query(self, expression: str) -> list[Sample]:
        """An instant query, now; AssertionError with Prometheus's own words when it is refused."""
        found = await self._ask("query", query=expression)
        if found["resultType"] == "scalar":
            return [Sample({}, float(found["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in found["result"]]

    async def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """Each series' labels and its (Unix second, value) points from `start` to `end`."""
        found = await self._ask("query_range", query=expression, start=start, end=end, step=step)
        return [
            (one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in found["result"]
        ]

    async def alerts(self) -> list[Alert]:
        """Every alert that is pending or firing."""
        return [
            Alert(one["labels"]["alertname"], one["state"], one["labels"], one["annotations"])
            for one in (await self._ask("alerts"))["alerts"]
        ]

    async def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health and last error, as `/api/v1/rules` has them, once all were evaluated."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                rules = [rule for group in (await self._ask("rules"))["groups"] for rule in group["rules"]]
                if all(rule["health"] != "unknown" for rule in rules):
                    return rules
                await asyncio.sleep(POLL_SECONDS)

    async def metric_names(self) -> set[str]:
        """Every name that has been scraped or recorded."""
        return set(await self._ask("label/__name__/values"))

    async def wait_query(
        self,
        expression: str,
        *,
        until: Callable[[list[Sample]], bool] = bool,
        within: float = PATIENCE_SECONDS,
    ) -> list[Sample]:
        """The first answer that satisfies `until`: by default, one with any series at all."""
        found: list[Sample] = []
        try:
            async with asyncio.timeout(within):
                while not until(found := await self.query(expression)):
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(f"{expression} still is {found} after {within:.0f} s") from None
        return found

    async def wait_alert(
        self, name: str, state: str = "firing", *, within: float = PATIENCE_SECONDS, **labels: str
    ) -> float:
        """Returns once an alert with these labels is in `state` (pending is over when it fires).

        Returns the seconds that took; AssertionError with what is pending or firing when time runs out.
        """
        begun = time.monotonic()
        wanted = ("pending", "firing") if state == "pending" else (state,)
        seen: list[Alert] = []
        try:
            async with asyncio.timeout(within):
                while True:
                    seen = await self.alerts()
                    for alert in seen:
                        if (
                            alert.name == name
                            and alert.state in wanted
                            and labels.items() <= alert.labels.items()
                        ):
                            return time.monotonic() - begun
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(
                f"{name} {labels} is not {state} after {within:.0f} s; there are {seen}"
            ) from None

    async def wait_resolved(self, name: str, *, within: float = PATIENCE_SECONDS, **labels: str) -> None:
        """Returns once no alert of this name and these labels is pending or firing."""
        try:
            async with asyncio.timeout(within):
                while any(
                    alert.name == name and labels.items() <= alert.labels.items()
                    for alert in await self.alerts()
                ):
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(f"{name} {labels} has not gone after {within:.0f} s") from None

    async def _ask(self, what: str, **parameters: str | float) -> Any:
        async with self._http.get(f"{self.url}/api/v1/{what}", params=parameters) as answer:
            body = await answer.json()
        assert body["status"] == "success", f"{what} {parameters}: {body.get('error')}"
        return body["data"]


@asynccontextmanager
async def running_prometheus(
    targets: Mapping[str, Sequence[str]],
    *,
    redis_exporter: str | None = None,
    alertmanager: str | None = None,
    interval: str = "1s",
    hurry: float = 1.0,
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes `targets` (by job name) until the block ends.

    A job that is not in `targets` is left out; Prometheus always scrapes itself. The job `redis` has
    redis:// addresses, which `redis_exporter` (host:port) is asked for. `interval` replaces the shipped
    intervals of scraping and evaluation, and every `for:` is divided by `hurry`.
    """
    ports = FreePorts()
    port = ports.take()
    moved = {"prometheus": [f"127.0.0.1:{port}"], **targets}
    with tempfile.TemporaryDirectory(prefix="telegram-prometheus-") as name:
        directory = Path(name)
        config = _moved_config(moved, redis_exporter, alertmanager, interval)
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        (directory / "rules").mkdir()
        for file in sorted((SHIPPED / "rules").glob("*.yml")):
            (directory / "rules" / file.name).write_text(yaml.safe_dump(hurried_rules(file, interval, hurry)))
        log_file = directory / "prometheus.log"
        with log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "SIGKILL", "--"),
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            async with aiohttp.ClientSession() as http:
                await _wait_ready(http, port, process, log_file)
                yield Prometheus(port, http)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _wait_ready(
    http: aiohttp.ClientSession, port: int, process: asyncio.subprocess.Process, log_file: Path
) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            assert process.returncode is None, f"Prometheus ended: {log_file.read_text()}"
            try:
                async with http.get(f"http://127.0.0.1:{port}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_SECONDS)


def _moved_config(
    targets: Mapping[str, Sequence[str]], redis_exporter: str | None, alertmanager: str | None, interval: str
) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {
        **config["global"],
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "evaluation_interval": interval,
    }
    if alertmanager is None:
        del config["alerting"]
    else:
        config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}]
    shipped = {job["job_name"]: job for job in config["scrape_configs"]}
    if unknown := targets.keys() - shipped.keys():
        raise AssertionError(f"prometheus.yml has no job named {', '.join(sorted(unknown))}")
    config["scrape_configs"] = [job for name, job in shipped.items() if name in targets]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        for step in job.get("relabel_configs", ()):
            if step.get("target_label") == "__address__":
                assert redis_exporter, "the job redis needs its exporter's address"
                step["replacement"] = redis_exporter
    return config


def hurried_rules(file: Path, interval: str, hurry: float) -> dict[str, Any]:
    """A shipped file of rules, evaluated every `interval`, each `for:` divided by `hurry`."""
    rules: dict[str, Any] = yaml.safe_load(file.read_text())
    for group in rules["groups"]:
        if "interval" in group:
            group["interval"] = interval
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = f"{round(seconds_of(rule['for']) / hurry * 1000)}ms"
    return rules


def seconds_of(duration: str) -> float:
    """A duration in Prometheus's notation, such as 1h30m."""
    parts = re.findall(r"(\d+)(ms|[smhdw])", duration)
    assert parts, f"{duration!r} is not a duration"
    return sum(int(number) * _UNITS[unit] for number, unit in parts)
