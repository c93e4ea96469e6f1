"""The daemon under a real systemd: what `systemctl` and `journalctl` show an operator."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.systemd.machine import Machine

UNIT = "telegram-gateway.service"


@pytest.fixture
def host(machine: Machine) -> Iterator[Machine]:
    """The machine with everything configured but a session; whatever a test leaves behind is removed."""
    machine.write("/etc/telegram-gateway/environment", ENVIRONMENT, 0o640)
    machine.write("/etc/telegram-gateway/credentials/api_hash", f"{API_HASH}\n", 0o600)
    yield machine
    machine.systemctl("stop", UNIT)
    machine.systemctl("reset-failed")
    machine.forget_journal(UNIT)
    machine.run("sh", "-c", "rm -rf /opt/telegram-gateway/.session/* /var/lib/telegram-gateway/*")
    machine.run("sh", "-c", "rm -rf /etc/telegram-gateway/credentials/* /etc/telegram-gateway/*.env")


API_HASH = "0123456789abcdef0123456789abcdef"
ENVIRONMENT = """\
TELEGRAM_API_ID=12345
TELEGRAM_ENABLE_DB=false
TELEGRAM_ENABLE_CACHE=false
TELEGRAM_ENABLE_QUEUE=false
TELEGRAM_METRICS_ADDR=127.0.0.1:0
"""


def logged(machine: Machine, unit: str = UNIT) -> list[dict[str, Any]]:
    """What the daemon itself wrote, as journald holds it: one JSON object a line."""
    lines = [entry["MESSAGE"] for entry in machine.journal(unit) if entry["_PID"] != "1"]
    return [json.loads(line) for line in lines]


def needs_a_person(machine: Machine, unit: str = UNIT) -> str:
    """Asserts that the unit is down for good with exit code 78, and returns the one line that says why."""
    assert machine.show(unit, "ActiveState") == "failed"
    assert machine.show(unit, "ExecMainStatus") == "78"
    assert machine.show(unit, "NRestarts") == "0"
    lines = [entry["MESSAGE"] for entry in machine.journal(unit) if entry["_PID"] != "1"]
    errors = [line for line in lines if not line.startswith("{") or json.loads(line)["level"] == "critical"]
    assert len(errors) == 1, lines
    return str(errors[0])


def test_without_the_api_hash_it_fails_once_and_says_what_is_missing(host: Machine) -> None:
    (host.root / "etc/telegram-gateway/credentials/api_hash").unlink()
    host.systemctl("start", UNIT, check=False)
    assert "TELEGRAM_API_HASH" in needs_a_person(host)


def test_without_a_session_it_fails_once_and_says_how_to_log_in(host: Machine) -> None:
    host.systemctl("start", UNIT, check=False)
    assert "telegram-gateway login --account main" in needs_a_person(host)


def test_a_session_that_others_can_read_is_refused(host: Machine) -> None:
    session = host.write("/opt/telegram-gateway/.session/main.session", "", 0o644)
    host.run("chown", "telegram-gateway:", f"/{session.relative_to(host.root)}")
    host.systemctl("start", UNIT, check=False)
    line = needs_a_person(host)
    assert "main.session" in line
    assert "chmod 600" in line
