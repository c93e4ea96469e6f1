"""The pooler's exporter under a real systemd: there while the pooler is not, and away when it is told."""

import urllib.request
from collections.abc import Iterator

import pytest

from tests.systemd.machine import ANSWER_SECONDS, Machine, free_port

UNIT = "telegram-gateway-pgbouncer-exporter.service"


@pytest.fixture
def port(machine: Machine) -> Iterator[int]:
    """Where it shows the pooler's figures; no pooler is there."""
    port = free_port()
    settings = (
        "TELEGRAM_DB_DSN=postgresql://telegram@127.0.0.1:1/telegram_gateway\n"
        f"TELEGRAM_PGBOUNCER_EXPORTER_ADDR=127.0.0.1:{port}\n"
    )
    machine.write("/etc/telegram-gateway/telegram-gateway.env", settings, 0o640)
    yield port
    print("\n".join(str(entry["MESSAGE"]) for entry in machine.journal(UNIT)))  # shown when the test failed
    machine.systemctl("stop", UNIT)
    machine.systemctl("reset-failed")
    machine.forget_journal(UNIT)


def test_it_says_that_the_pooler_is_down_and_stops_cleanly(machine: Machine, port: int) -> None:
    machine.systemctl("start", UNIT)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=ANSWER_SECONDS) as answer:
                return b"\npgbouncer_up 0.0\n" in answer.read()
        except OSError:
            return False

    machine.wait_until("it says that the pooler is down", answers)
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "ExecMainStatus") == "0"
