"""TP Capital's worker under a real systemd: up whatever is down behind it, not restarted on bad settings."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.systemd.machine import ANSWER_SECONDS, Machine, free_port

UNIT = "telegram-gateway-tp-capital.service"
OWN_SETTINGS = "/etc/telegram-gateway/tp-capital.env"


@pytest.fixture
def port(machine: Machine) -> Iterator[int]:
    """Where the worker shows its health; none of its servers is there."""
    port = free_port()
    nowhere = "127.0.0.1:1"
    servers = (
        f"TELEGRAM_DB_DSN=postgresql://telegram@{nowhere}/telegram_gateway\n"
        f"TELEGRAM_REDIS_URL=redis://{nowhere}/0\n"
        f"TELEGRAM_RABBITMQ_URL=amqp://telegram@{nowhere}/telegram\n"
    )
    machine.write("/etc/telegram-gateway/telegram-gateway.env", servers, 0o640)
    machine.write(OWN_SETTINGS, f"TP_CAPITAL_METRICS_ADDR=127.0.0.1:{port}\n", 0o640)
    yield port
    print("\n".join(str(entry["MESSAGE"]) for entry in machine.journal(UNIT)))  # shown when the test failed
    machine.systemctl("stop", UNIT)
    machine.systemctl("reset-failed")
    machine.forget_journal(UNIT)
    machine.run("rm", OWN_SETTINGS)


def test_it_is_active_with_every_server_down_says_so_and_stops_cleanly(machine: Machine, port: int) -> None:
    machine.systemctl("start", UNIT)
    machine.wait_until(
        "the status names the database",
        lambda: 'Status: "hybrid, down; the database does not answer' in machine.systemctl("status", UNIT),
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=ANSWER_SECONDS)
    assert refused.value.code == 503
    assert json.load(refused.value) == {
        "status": "down",
        "problems": ["the database does not answer", "RabbitMQ is not connected"],
    }
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "ExecMainStatus") == "0"


def test_a_mode_there_is_none_of_needs_a_person(machine: Machine, port: int) -> None:
    machine.write(OWN_SETTINGS, f"TP_CAPITAL_METRICS_ADDR=127.0.0.1:{port}\nTP_CAPITAL_MODE=often\n", 0o640)
    machine.systemctl("start", UNIT, check=False)
    machine.wait_until("it is down", lambda: machine.show(UNIT, "ActiveState") == "failed")
    assert machine.show(UNIT, "ExecMainStatus") == "78"
    assert machine.show(UNIT, "NRestarts") == "0"
    assert "TP_CAPITAL_MODE" in " ".join(str(entry["MESSAGE"]) for entry in machine.journal(UNIT))
