"""The daemon is gone for good; the API, another user in a sandbox of its own, still shows why."""

import urllib.request
from collections.abc import Iterator

import pytest

from tests.systemd.machine import ANSWER_SECONDS, Machine, free_port

DAEMON = "telegram-gateway.service"
API = "telegram-gateway-api.service"


@pytest.fixture
def api_port(machine: Machine) -> Iterator[int]:
    """The port of a configured API; the daemon beside it has no session."""
    port = free_port()
    nowhere = "127.0.0.1:1"
    settings = {
        "TELEGRAM_API_ID": "12345",
        "TELEGRAM_API_HASH": "0123456789abcdef0123456789abcdef",
        "TELEGRAM_LEASE": "false",
        "TELEGRAM_METRICS_ADDR": "127.0.0.1:0",
        "TELEGRAM_API_ADDR": f"127.0.0.1:{port}",
        "TELEGRAM_DB_DSN": f"postgresql://telegram@{nowhere}/telegram_gateway",
        "TELEGRAM_REDIS_URL": f"redis://{nowhere}/0",
        "TELEGRAM_RABBITMQ_URL": f"amqp://telegram@{nowhere}/telegram",
    }
    text = "".join(f"{name}={value}\n" for name, value in settings.items())
    machine.write("/etc/telegram-gateway/telegram-gateway.env", text, 0o640)
    yield port
    machine.systemctl("stop", API, DAEMON)
    machine.systemctl("reset-failed")
    for unit in (API, DAEMON):
        machine.forget_journal(unit)
    machine.run("sh", "-c", "rm -rf /run/telegram-gateway /var/lib/telegram-gateway/*")


def test_the_api_shows_why_a_daemon_needs_a_person(machine: Machine, api_port: int) -> None:
    machine.systemctl("start", DAEMON, check=False)
    machine.wait_until("the daemon is down", lambda: machine.show(DAEMON, "ActiveState") == "failed")
    assert machine.show(DAEMON, "ExecMainStatus") == "78"
    machine.systemctl("start", API)
    with urllib.request.urlopen(f"http://127.0.0.1:{api_port}/metrics", timeout=ANSWER_SECONDS) as answer:
        shown = answer.read().decode()
    assert 'telegram_gateway_api_daemon_last_exit_code{account="main",error="SessionError"} 78.0' in shown, (
        shown
    )
