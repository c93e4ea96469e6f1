"""The containers' services start as the compose files say, within their limits, and find each other."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.container_secrets import write_container_secrets
from tests.deploy.compose import MONITORING, STORES, service, services
from tests.deploy.containers import BRIDGE, Host, private_host

DATABASE = "/telegram_gateway"
PATIENCE_SECONDS = 180.0
# Not Debian's, so not started here: what the pooler's exporter is given is tried with psql.
ABSENT = {"grafana", "pgbouncer-exporter"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("containers")
    write_container_secrets(directory / "credentials", directory / "secrets")
    return directory / "secrets"


@pytest_asyncio.fixture(scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> AsyncIterator[Host]:
    """Every service of both files that Debian has a program for, healthy by its own check."""
    async with private_host(tmp_path_factory.mktemp("host"), secrets) as running:
        order = ["timescaledb", "redis-master", "redis-replica", "rabbitmq"]
        stores = sorted(services(STORES), key=lambda one: (one.name not in order, one.name))
        for one in stores[: len(order)]:
            await running.start(one)
        for one in stores[: len(order)]:
            await running.wait_healthy(one)
        for one in [*stores[len(order) :], *services(MONITORING)]:
            if one.name not in ABSENT:
                await running.start(one)
        for one in stores[len(order) :]:
            await running.wait_healthy(one)
        yield running


def password(secrets: Path, name: str) -> str:
    return (secrets / name).read_text().strip()


def psql(host: Host, secrets: Path, address: str, query: str) -> str:
    return host.run(
        *("psql", "-XAt", "-c", query, f"postgresql://telegram@{address}{DATABASE}"),
        environment={"PGPASSWORD": password(secrets, "timescaledb-gateway-password")},
    ).strip()


def redis(host: Host, secrets: Path, port: int, *command: str) -> str:
    file = "sentinel-passwords" if port > 20_000 else "redis-passwords"
    match = re.search(r"^requirepass (\w+)$", password(secrets, file), re.MULTILINE)
    assert match
    environment = {"REDISCLI_AUTH": match[1]}
    return host.run("redis-cli", "-p", str(port), *command, environment=environment).strip()


async def test_the_gateway_reaches_the_database_through_the_pooler_and_past_it(
    host: Host, secrets: Path
) -> None:
    for address in ("127.0.0.1:5434", "127.0.0.1:6434", f"{BRIDGE}:6434"):
        assert psql(host, secrets, address, "SELECT current_user") == "telegram"
    # The pooler came over the bridge, and is known by its password alone.
    clients = "SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE client_addr <> '127.0.0.1'"
    assert psql(host, secrets, "127.0.0.1:5434", clients) == BRIDGE


async def test_the_database_runs_the_shipped_settings(host: Host, secrets: Path) -> None:
    names = ("shared_buffers", "max_connections", "fsync", "statement_timeout", "listen_addresses")
    query = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"
    assert psql(host, secrets, "127.0.0.1:5434", query) == "512MB|50|on|30s|*"
    statements = "SELECT count(*) > 0 FROM pg_stat_statements"
    assert psql(host, secrets, "127.0.0.1:5434", statements) == "t"


async def test_nobody_comes_in_from_the_bridge_without_the_password(host: Host) -> None:
    for address in ("127.0.0.1:5434", f"{BRIDGE}:5434", f"{BRIDGE}:6434"):
        with pytest.raises(AssertionError, match=r"(password|SASL) authentication failed"):
            host.run("psql", "-Xc", "SELECT 1", f"postgresql://telegram:wrong@{address}{DATABASE}")
    # The superuser has no way in over the bridge at all.
    with pytest.raises(AssertionError, match=r"no pg_hba\.conf entry"):
        host.run("psql", "-Xc", "SELECT 1", f"postgresql://postgres:wrong@{BRIDGE}:5434/postgres")


async def test_the_pooler_keeps_its_limits_and_the_exporter_may_look(host: Host, secrets: Path) -> None:
    exporter = service("pgbouncer-exporter")
    (dsn,) = [word.partition("=")[2] for word in exporter.argv if "connectionString" in word]
    shown = host.run(
        *("psql", "-XAt", "-F=", "-c", "SHOW CONFIG", dsn),
        environment={"PGPASSFILE": str(secrets / "pgbouncer-exporter-pgpass")},
    )
    settings = dict(line.split("=")[:2] for line in shown.splitlines())
    expected = {"pool_mode": "transaction", "max_db_connections": "20", "max_client_conn": "100"}
    assert {name: settings[name] for name in expected} == expected


async def test_the_broker_takes_its_limits_from_the_definitions(host: Host) -> None:
    figures = host.get("http://127.0.0.1:15692/metrics")
    assert re.search(r"^rabbitmq_resident_memory_limit_bytes 768000000$", figures, re.MULTILINE)
    assert "guest" not in host.log("rabbitmq").read_text()
    queues = host.get("http://127.0.0.1:15692/metrics/detailed?vhost=telegram&family=queue_coarse_metrics")
    assert 'queue="telegram.messages.dlq"' in queues


async def test_prometheus_finds_every_server_and_every_exporter(host: Host) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    # The gateway's own are natively run, and the pooler's exporter is not Debian's.
    absent = {"telegram-gateway", "telegram-gateway-api", "tp-capital", "pgbouncer"}
    while True:
        answer = host.get("http://127.0.0.1:9090/api/v1/targets?state=active")
        targets = json.loads(answer)["data"]["activeTargets"]
        health = {(target["labels"]["job"], target["labels"]["instance"]): target for target in targets}
        silent = {job for (job, _), target in health.items() if target["health"] == "down"}
        # Whoever was not up yet when it was asked first is asked again.
        if health and silent == absent and all(target["health"] != "unknown" for target in targets):
            break
        assert time.monotonic() < deadline, {job: health[job]["lastError"] for job in health}
        await asyncio.sleep(0.5)
    for exported in ("pg_up", "redis_up"):
        values = None
        while values != {"1"}:
            found = host.get(f"http://127.0.0.1:9090/api/v1/query?query={exported}")
            values = {sample["value"][1] for sample in json.loads(found)["data"]["result"]}
            assert values == {"1"} or time.monotonic() < deadline, exported
            await asyncio.sleep(0.1)


async def test_new_passwords_hold_once_the_servers_have_been_told(host: Host, secrets: Path) -> None:
    old = password(secrets, "timescaledb-gateway-password")
    for file in (secrets.parent / "credentials").iterdir():
        file.unlink()
    write_container_secrets(secrets.parent / "credentials", secrets)
    new = password(secrets, "timescaledb-gateway-password")
    assert new != old
    await host.execute(
        service("timescaledb"),
        *("psql", "-U", "postgres", "-f", "/docker-entrypoint-initdb.d/900-bootstrap.sql"),
    )
    told = (
        "pgbouncer",
        "redis-master",
        "redis-replica",
        "sentinel-1",
        "sentinel-2",
        "sentinel-3",
        "rabbitmq",
    )
    for name in told:
        await host.kill(name)
    for name in told:
        await host.start(service(name))
    for name in told:
        await host.wait_healthy(service(name))
    for address in ("127.0.0.1:5434", "127.0.0.1:6434"):
        assert psql(host, secrets, address, "SELECT current_user") == "telegram"
        with pytest.raises(AssertionError, match=r"(password|SASL) authentication failed"):
            host.run("psql", "-Xc", "SELECT 1", f"postgresql://telegram:{old}@{address}{DATABASE}")
    assert redis(host, secrets, 6379, "PING") == redis(host, secrets, 26379, "PING") == "PONG"
    await host.execute(
        service("rabbitmq"),
        *("rabbitmqctl", "--quiet", "authenticate_user", "telegram"),
        password(secrets.parent / "credentials", "rabbitmq_password"),
    )


async def test_a_killed_master_is_replaced_and_a_restarted_container_stays_what_it_became(
    host: Host, secrets: Path
) -> None:
    began = time.monotonic()
    await host.kill("redis-master")
    # How soon is for test_localstack to say, where asking takes no time.
    while not redis(host, secrets, 26379, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "telegram").endswith("6380"):
        assert time.monotonic() - began < PATIENCE_SECONDS
        await asyncio.sleep(0.1)
    # What Sentinel wrote is in the volume, not in the shipped file: it survives the container.
    await host.restart(service("redis-replica"))
    assert redis(host, secrets, 6380, "ROLE").splitlines()[0] == "master"
    assert redis(host, secrets, 6380, "CONFIG", "GET", "maxmemory-policy").split() == [
        "maxmemory-policy",
        "allkeys-lru",
    ]


async def test_no_secret_reaches_a_command_line_or_a_log(host: Host, secrets: Path) -> None:
    values = [
        value for file in secrets.iterdir() for value in re.findall(r"\b[0-9a-f]{48}\b", file.read_text())
    ]
    assert len(set(values)) > 5
    logs = [file.read_text(errors="replace") for file in host.directory.glob("*.log")]
    assert not [value for value in values for text in logs if value in text]
