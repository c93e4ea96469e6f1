"""The compose files are what is said of them: pinned, limited, watched, on loopback, without a password."""

import ipaddress
import re
import shlex
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from gateway.container_secrets import container_secrets
from gateway.localstack import LocalStack
from gateway.localstack.stack import CONFIG_DIR
from gateway.server_secrets import Passwords
from tests.deploy.compose import FILES, MONITORING, STORES, Service, document, secret_files, service, services

ALL = pytest.mark.parametrize("one", services(), ids=lambda one: one.name)
# CONTRACT's ports, and those of the management pages and of RabbitMQ's figures.
PUBLISHED = {"timescaledb": {5434}, "pgbouncer": {6434}, "rabbitmq": {5672, 15672, 15692}}
LISTENING = {
    "redis-master": 6379,
    "redis-replica": 6380,
    "sentinel-1": 26379,
    "sentinel-2": 26380,
    "sentinel-3": 26381,
    "prometheus": 9090,
    "alertmanager": 9093,
    "grafana": 3100,
    "postgres-exporter": 9187,
    "redis-exporter": 9121,
    "pgbouncer-exporter": 9127,
}
# Scraped on this host and run by systemd, not by these files.
NATIVE = {"telegram-gateway": 4006, "telegram-gateway-api": 4010, "tp-capital": 4011}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_docker_compose_accepts_the_file(file: Path) -> None:
    done = subprocess.run(
        ["docker-compose", "--file", file, "config", "--quiet"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_file_is_of_no_version_as_todays_specification_has_it(file: Path) -> None:
    top = {key for key in document(file) if not key.startswith("x-")}
    assert top <= {"services", "networks", "volumes", "secrets"}
    # Networks and volumes by a name of their own: a forgotten --project-name must not find empty ones.
    volumes = document(file)["volumes"]
    assert {name: raw["name"] for name, raw in volumes.items()} == {
        name: f"telegram-gateway-{name}" for name in volumes
    }


def test_every_server_is_there() -> None:
    assert {one.name for one in services(STORES)} == {
        *("timescaledb", "pgbouncer", "rabbitmq"),
        *("redis-master", "redis-replica", "sentinel-1", "sentinel-2", "sentinel-3"),
    }
    assert {one.name for one in services(MONITORING)} == {
        *("prometheus", "alertmanager", "grafana"),
        *("postgres-exporter", "redis-exporter", "pgbouncer-exporter"),
    }
    assert (service("timescaledb").raw["cpus"], service("timescaledb").raw["mem_limit"]) == (2, "2g")


@ALL
def test_the_image_is_pinned_to_one_release(one: Service) -> None:
    assert re.fullmatch(r"[a-z0-9_/-]+:v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", one.raw["image"])


@ALL
def test_it_is_watched_limited_restarted_and_has_no_privilege(one: Service) -> None:
    assert one.raw["restart"] == "unless-stopped"
    assert one.raw["cpus"] > 0
    assert re.fullmatch(r"\d+[mg]", one.raw["mem_limit"])
    assert one.raw["pids_limit"] > 0
    health = one.raw["healthcheck"]
    assert health["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= set(health)
    assert one.uid > 0
    assert one.raw["cap_drop"] == ["ALL"]
    assert one.raw["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in one.raw


@ALL
def test_it_is_reached_on_loopback_only(one: Service) -> None:
    published = [entry.rpartition(":") for entry in one.raw.get("ports", [])]
    assert {int(inside) for _, _, inside in published} == PUBLISHED.get(one.name, set())
    for outside, _, inside in published:
        address, _, port = outside.rpartition(":")
        assert ipaddress.ip_address(address).is_loopback
        assert port == inside
    # Whoever shares the host's network binds loopback by its own configuration.
    if one.raw.get("network_mode") == "host":
        assert "ports" not in one.raw
        told = " ".join([*one.argv, *(f"{name}={value}" for name, value in one.environment.items())])
        if "redis" in one.raw["image"] and "exporter" not in one.name:
            (file,) = [word for word in one.argv if word.endswith(".conf")]
            assert "\nbind 127.0.0.1\n" in (CONFIG_DIR / "redis" / Path(file).name).read_text()
            assert f"PORT={LISTENING[one.name]}" in told
        elif one.name == "grafana":
            assert "GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT=3100" in told
        else:
            assert f"listen-address=127.0.0.1:{LISTENING[one.name]}" in told
    else:
        assert one.raw["networks"], "a service without a network would be on the default one, with all others"


def test_each_bridge_holds_only_who_talk_to_each_other() -> None:
    members: dict[str, set[str]] = {}
    for one in services():
        for network in one.raw.get("networks", []):
            members.setdefault(network, set()).add(one.name)
    assert members == {"database": {"timescaledb", "pgbouncer"}, "broker": {"rabbitmq"}}


def test_alertmanager_does_not_listen_for_others() -> None:
    assert "--cluster.listen-address=" in service("alertmanager").argv


def test_prometheus_keeps_thirty_days_and_asks_every_fifteen_seconds() -> None:
    assert "--storage.tsdb.retention.time=30d" in service("prometheus").argv
    configuration = yaml.safe_load((CONFIG_DIR / "prometheus" / "prometheus.yml").read_text())
    assert configuration["global"]["scrape_interval"] == "15s"
    assert not [job for job in configuration["scrape_configs"] if "scrape_interval" in job]


# -- Files -------------------------------------------------------------------------------------------------


@ALL
def test_every_mounted_file_exists_and_cannot_be_changed_from_inside(one: Service) -> None:
    for mount in one.mounts:
        if mount.shipped is not None:
            assert mount.shipped.exists(), f"{mount.source} is mounted and not there"
            assert mount.read_only
            assert mount.shipped.is_relative_to(CONFIG_DIR)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_named_volume_is_declared_and_used_by_one(file: Path) -> None:
    used = [mount.source for one in services(file) for mount in one.mounts if mount.shipped is None]
    assert sorted(used) == sorted(document(file)["volumes"])


async def test_the_files_are_those_that_the_local_stack_starts(stack: LocalStack) -> None:
    """By what the running servers of the local stack have beside them, not by a list."""
    mounted = {
        file.relative_to(CONFIG_DIR): file
        for one in services(STORES)
        for mount in one.mounts
        if mount.shipped is not None
        for file in ([mount.shipped] if mount.shipped.is_file() else mount.shipped.iterdir())
    }
    # Its own files, of this configuration: what was copied, or, for Redis, copied and added to.
    started = {
        Path("timescaledb/postgresql.conf"): stack.postgres.directory / "postgresql.conf",
        Path("timescaledb/pg_hba.conf"): stack.postgres.directory / "pg_hba.conf",
        Path("timescaledb/bootstrap.sql"): stack.postgres.directory / "bootstrap.sql",
        Path("pgbouncer/pgbouncer.ini"): stack.pgbouncer.directory / "pgbouncer.ini",
        Path("redis/master.conf"): stack.redis.directory / "redis.conf",
        Path("redis/replica.conf"): stack.redis_replica.directory / "redis.conf",
        Path("redis/sentinel.conf"): stack.sentinels[0].directory / "redis.conf",
        Path("rabbitmq/rabbitmq.conf"): stack.rabbitmq.directory / "rabbitmq.conf",
        Path("rabbitmq/rabbitmq-env.conf"): stack.rabbitmq.directory / "rabbitmq-env.conf",
        Path("rabbitmq/enabled_plugins"): stack.rabbitmq.directory / "enabled_plugins",
    }
    for name, running in started.items():
        lines = mounted[name].read_text().splitlines()
        if name.parts[0] == "redis":
            # Redis rewrites its copy; tests/integration/test_localstack.py compares what it then holds.
            assert {line for line in lines if line.startswith("maxmemory")} <= set(
                running.read_text().splitlines()
            )
        else:
            assert running.read_text().splitlines() == lines
    # What else is mounted is only there for a container, or for an image that has the extension.
    assert set(mounted) - set(started) == {
        Path("timescaledb/extension/timescaledb.conf"),
        Path("pgbouncer/container.ini"),
        Path("rabbitmq/container.conf"),
        Path("redis/start.sh"),
    }


# -- Secrets -----------------------------------------------------------------------------------------------


def test_every_secret_is_one_that_the_script_makes_for_the_user_who_reads_it() -> None:
    made = container_secrets(Passwords("db", "redis", "sentinel", "rabbitmq"), CONFIG_DIR)
    read = {}
    for file in FILES:
        declared = secret_files(file)
        assert {name: name for name in declared} == declared
        assert set(declared) == {name for one in services(file) for name in one.secrets}
        for one in services(file):
            for name in one.secrets:
                assert made[name].uid == one.uid, f"{one.name} cannot read {name}"
                read[name] = one.name
    assert set(read) == set(made), "a secret that nobody reads"


@ALL
def test_no_password_stands_in_the_file(one: Service) -> None:
    for name, value in one.environment.items():
        if re.search(r"PASS|SECRET|KEY|TOKEN|CREDENTIAL", name):
            assert value.startswith("/run/secrets/"), f"{name} must be a file"
            assert value.removeprefix("/run/secrets/") in one.secrets
    for word in [*one.argv, *one.environment.values()]:
        assert urlsplit(word.partition("=")[2] or word).password is None
        for path in re.findall(r"/run/secrets/([\w-]+)", word):
            assert path in one.secrets, f"{one.name} is not given {path}"


def test_grafana_has_neither_the_default_password_nor_the_default_key() -> None:
    environment = service("grafana").environment
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/grafana-admin-password"
    assert environment["GF_SECURITY_SECRET_KEY__FILE"] == "/run/secrets/grafana-secret-key"
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == environment["GF_USERS_ALLOW_SIGN_UP"] == "false"


def test_files_that_name_a_secret_name_one_that_is_mounted() -> None:
    configured = {
        "pgbouncer": CONFIG_DIR / "pgbouncer" / "container.ini",
        "rabbitmq": CONFIG_DIR / "rabbitmq" / "container.conf",
        "alertmanager": CONFIG_DIR / "alertmanager" / "alertmanager.yml",
    }
    for name, file in configured.items():
        named = set(re.findall(r"/run/secrets/([\w-]+)", file.read_text()))
        assert named == set(service(name).secrets)


# -- Names -------------------------------------------------------------------------------------------------


def test_prometheus_finds_every_target_where_it_listens() -> None:
    configuration = yaml.safe_load((CONFIG_DIR / "prometheus" / "prometheus.yml").read_text())
    listening = set(LISTENING.values()) | set().union(*PUBLISHED.values()) | set(NATIVE.values())
    managers = configuration["alerting"]["alertmanagers"]
    targets = [
        target
        for job in [*configuration["scrape_configs"], *managers]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    # Prometheus shares the host's network: an address of the host's loopback is the same one inside.
    assert service("prometheus").raw["network_mode"] == "host"
    for target in targets:
        address = urlsplit(target if "//" in target else f"//{target}")
        assert address.hostname == "127.0.0.1"
        assert address.port in listening
    assert {LISTENING[name] for name in LISTENING if "exporter" in name} <= {
        urlsplit(target if "//" in target else f"//{target}").port
        for target in [*targets, *re.findall(r"127\.0\.0\.1:\d+", yaml.safe_dump(configuration))]
    }


def test_every_health_check_asks_where_the_server_listens() -> None:
    for one in services():
        words = " ".join(one.health).replace("$PORT", one.environment.get("PORT", ""))
        ports = {LISTENING[one.name]} if one.name in LISTENING else PUBLISHED[one.name]
        assert {int(port) for port in re.findall(r"(?<!\d)(\d{4,5})(?!\d)", words)} <= ports
        assert any(str(port) in words for port in ports), f"{one.name}: {words}"


# -- The guide --------------------------------------------------------------------------------------------


def test_the_documented_commands_name_what_is_there() -> None:
    """No engine runs here: that the files, the services and the options of each command exist, not more."""
    page = (CONFIG_DIR.parent / "docs" / "containers.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line)[3:] for line in page.splitlines() if line.startswith("$ docker compose ")]
    assert len(commands) > 5
    options = {
        "up": {"-d", "--wait", "--force-recreate"},
        "exec": set(),
        "restart": set(),
        "pull": set(),
        "ps": set(),
        "down": set(),
    }
    for words in commands:
        assert (words[0], words[2]) == ("-p", "-f")
        file = CONFIG_DIR.parent / words[3]
        assert words[1] == {STORES: "telegram-gateway", MONITORING: "telegram-monitoring"}[file]
        action, *rest = words[4:]
        if action == "exec":
            mounted = {mount.target for mount in service(rest[0]).mounts}
            assert {word for word in rest if word.startswith("/")} <= mounted
            rest = rest[:1]
        assert {word for word in rest if word.startswith("-")} <= options[action]
        named = {word for word in rest if not word.startswith("-")}
        assert named <= {one.name for one in services(file)}
    (restarted,) = re.findall(r"^\$ systemctl try-restart (.*)$", page, re.MULTILINE)
    assert all((CONFIG_DIR.parent / "systemd" / f"{unit}.service").exists() for unit in restarted.split())
    volumes = {f"telegram-gateway-{name}" for file in FILES for name in document(file)["volumes"]}
    assert volumes >= set(re.findall(r"`(telegram-gateway-[a-z-]+)` \|", page))
    for name, port in LISTENING.items():
        assert str(port) in page, f"the guide does not say where {name} listens"
