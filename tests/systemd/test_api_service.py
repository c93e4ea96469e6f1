"""The API under a real systemd: up whatever is down behind it, and without a way to the daemon's secrets."""

import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.systemd.conftest import COMMAND
from tests.systemd.machine import ANSWER_SECONDS, Machine, free_port

UNIT = "telegram-gateway-api.service"
PASSWORD = "a-password-for-the-cache"
SESSION = "/opt/telegram-gateway/.session/main.session"


class Installation:
    """A configured API whose servers are all down."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.port = free_port()
        nowhere = "127.0.0.1:1"
        settings = {
            "TELEGRAM_API_ADDR": f"127.0.0.1:{self.port}",
            "TELEGRAM_METRICS_ADDR": nowhere,
            "TELEGRAM_DB_DSN": f"postgresql://telegram@{nowhere}/telegram_gateway",
            "TELEGRAM_REDIS_URL": f"redis://{nowhere}/0",
            "TELEGRAM_RABBITMQ_URL": f"amqp://telegram@{nowhere}/telegram",
        }
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        machine.write("/etc/telegram-gateway/telegram-gateway.env", text, 0o640)
        machine.write("/etc/telegram-gateway/credentials/redis_password", f"{PASSWORD}\n", 0o600)
        machine.write("/etc/telegram-gateway/credentials/session_key", "not for the API at all\n", 0o600)
        machine.write(SESSION, "not for the API either", 0o600)

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_SECONDS
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def inside(self, *command: str) -> str:
        """Runs a command in the running unit's own view of the file system, as its user."""
        pid = str(self.machine.main_pid(UNIT))
        user = self.machine.run("stat", "--format=%u", f"/proc/{pid}").strip()
        enter = ("nsenter", f"--target={pid}", "--mount", f"--setuid={user}", f"--setgid={user}")
        return self.machine.run(*enter, *command, check=False)

    def logged(self) -> list[dict[str, Any]]:
        return self.machine.logged(UNIT)


@pytest.fixture
def installation(machine: Machine) -> Iterator[Installation]:
    yield Installation(machine)
    print("\n".join(str(entry["MESSAGE"]) for entry in machine.journal(UNIT)))  # shown when the test failed
    machine.systemctl("stop", UNIT)
    machine.systemctl("reset-failed")
    machine.forget_journal(UNIT)
    machine.run("sh", "-c", f"rm -rf {SESSION} /etc/telegram-gateway/credentials/*")


def test_it_is_active_with_every_server_down_and_says_so(installation: Installation) -> None:
    machine = installation.machine
    machine.systemctl("start", UNIT)
    assert f'Status: "listening on 127.0.0.1:{installation.port}"' in machine.systemctl("status", UNIT)
    code, health = installation.get("/health")
    assert code == 503
    assert set(health["problems"]) == {"postgresql", "redis", "rabbitmq", "daemon"}
    assert {"EVENT", "PRIORITY", "CODE_FUNC"} <= installation.logged()[0].keys()
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "ExecMainStatus") == "0"
    assert installation.logged()[-1]["EVENT"] == "api_stopped"


def test_it_can_read_its_passwords_and_neither_the_session_nor_its_key(installation: Installation) -> None:
    installation.machine.systemctl("start", UNIT)
    given = "/run/credentials/" + UNIT
    assert installation.inside("cat", f"{given}/telegram_redis_password").strip() == PASSWORD
    assert "session_key" not in installation.inside("ls", given)
    for secret in (SESSION, "/etc/telegram-gateway/credentials/session_key", "/var/lib/telegram-gateway"):
        refused = installation.inside("ls", secret)
        assert "Permission denied" in refused or "No such file" in refused
        assert "not for the API" not in installation.inside("cat", secret)


def test_killed_it_is_back(installation: Installation) -> None:
    machine = installation.machine
    machine.systemctl("start", UNIT)
    before = machine.main_pid(UNIT)
    machine.kill(before, signal.SIGKILL)
    machine.wait_until(
        "another process answers",
        lambda: machine.main_pid(UNIT) not in {0, before} and machine.show(UNIT, "ActiveState") == "active",
    )


def test_a_port_that_is_taken_needs_a_person(installation: Installation) -> None:
    machine = installation.machine
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", installation.port))
        taken.listen()
        machine.systemctl("start", UNIT, check=False)
        machine.wait_until("it is down", lambda: machine.show(UNIT, "ActiveState") == "failed")
    assert machine.show(UNIT, "ExecMainStatus") == "78"
    assert machine.show(UNIT, "NRestarts") == "0"
    assert "TELEGRAM_API_ADDR" in installation.logged()[-1]["REASON"]


def test_the_command_that_makes_tokens_is_installed(machine: Machine) -> None:
    assert "--scope" in machine.run(COMMAND, "token", "create", "--help")
