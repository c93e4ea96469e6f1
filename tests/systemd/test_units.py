"""The shipped unit files, read by systemd's own tools."""

import shutil
import subprocess

import pytest

from tests.systemd.conftest import UNITS
from tests.systemd.machine import Machine

PLAIN = "telegram-gateway.service"
TEMPLATE = "telegram-gateway@.service"
API = "telegram-gateway-api.service"
TP_CAPITAL = "telegram-gateway-tp-capital.service"


def directives(unit: str) -> list[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_the_sandbox_around_each_service_leaves_an_exposure_of_at_most_one_and_a_half(unit: str) -> None:
    judged = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=15", UNITS / unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_systemd_finds_nothing_to_complain_about_in_the_units(machine: Machine) -> None:
    shipped = (path.name for path in UNITS.iterdir() if path.suffix in {".service", ".timer"})
    units = sorted(name.replace("@.", "@main.") for name in shipped)
    assert machine.run("systemd-analyze", "verify", "--man=no", *units) == ""


@pytest.mark.parametrize("unit", [API, TP_CAPITAL])
def test_the_others_are_locked_in_as_the_daemon_is(unit: str) -> None:
    daemon, other = directives(PLAIN), directives(unit)
    lock = daemon[daemon.index("NoNewPrivileges=yes") :]
    assert other[other.index("NoNewPrivileges=yes") :] == lock


def test_the_template_differs_from_the_plain_unit_only_in_what_is_an_accounts_own() -> None:
    plain, template = directives(PLAIN), directives(TEMPLATE)
    assert [line for line in plain if line not in template] == [
        "Description=Telegram gateway",
        "ExecStart=/opt/telegram-gateway/venv/bin/telegram-gateway run",
        "StateDirectory=telegram-gateway",
    ]
    assert [line for line in template if line not in plain] == [
        "Description=Telegram gateway for account %i",
        "ExecStart=/usr/bin/env TELEGRAM_ACCOUNTS=%i TELEGRAM_STATE_DIR=%S/telegram-gateway/%i "
        "/opt/telegram-gateway/venv/bin/telegram-gateway run",
        "EnvironmentFile=-/etc/telegram-gateway/%i.env",
        "StateDirectory=telegram-gateway/%i",
    ]


def test_the_session_and_credential_directories_are_created_private(machine: Machine) -> None:
    created = machine.run(
        *("stat", "--format=%a %U %n"),
        *("/opt/telegram-gateway/.session", "/etc/telegram-gateway/credentials", "/etc/telegram-gateway"),
    )
    assert created.splitlines() == [
        "700 telegram-gateway /opt/telegram-gateway/.session",
        "700 root /etc/telegram-gateway/credentials",
        "750 root /etc/telegram-gateway",
    ]
