"""The daemon under a real systemd: what `systemctl` and `journalctl` show an operator."""

import json
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from gateway.event import decode
from tests.systemd.conftest import COMMAND, LoopbackTelegram
from tests.systemd.machine import Machine, free_port

UNIT = "telegram-gateway.service"
INSTANCE = "telegram-gateway@main.service"
DRAIN_SECONDS = 10.0
API_HASH = "0123456789abcdef0123456789abcdef"


@dataclass
class Installation:
    """The machine with a configured gateway, and the Telegram it talks to."""

    machine: Machine
    telegram: LoopbackTelegram
    user: dict[str, Any]
    channel: str
    port: int
    scratch: Path

    def configure(self, **settings: str) -> None:
        """Writes the environment file: no sinks, unless told otherwise."""
        values = {
            "TELEGRAM_API_ID": "12345",
            "TELEGRAM_SERVER": self.telegram.server,
            "TELEGRAM_SERVER_PUBLIC_KEY": "/etc/telegram-gateway/server.pem",
            "TELEGRAM_ENABLE_DB": "false",
            "TELEGRAM_ENABLE_CACHE": "false",
            "TELEGRAM_ENABLE_QUEUE": "false",
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{self.port}",
            **settings,
        }
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        self.machine.write("/etc/telegram-gateway/telegram-gateway.env", text, 0o640)

    def log_in(self) -> None:
        """As an operator does: the command, run as the gateway's user with the unit's configuration."""
        self.machine.run(
            *("systemd-run", "--quiet", "--wait", "--pipe", "--uid=telegram-gateway"),
            "--property=EnvironmentFile=/etc/telegram-gateway/telegram-gateway.env",
            "--property=LoadCredential=telegram:/etc/telegram-gateway/credentials",
            *(COMMAND, "login", f"--phone={self.user['phone']}", f"--code={self.telegram.login_code}"),
        )

    def post(self, *texts: str) -> None:
        """New messages in a channel that the account is in."""
        self.telegram.call("post_many", chat=self.channel, texts=texts)

    def journal_rows(self) -> int:
        """Events that the running daemon holds; -1 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=5) as answer:
                return int(json.load(answer)["journal"]["rows"])
        except OSError:
            return -1

    def journaled_texts(self, directory: str = "/var/lib/telegram-gateway") -> list[str]:
        """The texts in a stopped daemon's journal, in order."""
        # SQLite would follow the link in the root's path to the host's own root.
        copy = self.scratch / "journal"
        shutil.copytree(self.machine.root / directory.lstrip("/"), copy)
        with apsw.Connection(str(copy / "journal.db")) as journal:
            bodies = [row[0] for row in journal.execute("SELECT body FROM events ORDER BY seq")]
        return [text for text in (decode(body).text for body in bodies) if text]

    def logged(self, unit: str = UNIT) -> list[dict[str, Any]]:
        """What the daemon itself logged, as fields of the journal."""
        return self.machine.logged(unit)

    def stop(self) -> float:
        """Stops the running daemon, and returns how long that took."""
        began = time.monotonic()
        self.machine.systemctl("stop", UNIT)
        return time.monotonic() - began

    def stop_quickly(self) -> None:
        """Stops it without any waiting of its own; the machine may stumble, but not three times."""
        took = self.stop()
        for _ in range(2):
            if took < DRAIN_SECONDS:
                break
            self.machine.systemctl("start", UNIT)
            took = self.stop()
        assert took < DRAIN_SECONDS

    def needs_a_person(self, unit: str = UNIT) -> str:
        """Asserts that the unit is down for good with exit code 78; returns the one line that says why."""
        self.machine.wait_until(f"{unit} is down", lambda: self.machine.show(unit, "ActiveState") == "failed")
        assert self.machine.show(unit, "ExecMainStatus") == "78"
        assert self.machine.show(unit, "NRestarts") == "0"
        entries = [entry for entry in self.machine.journal(unit) if entry["_PID"] != "1"]
        said = [entry["MESSAGE"] for entry in entries if "EVENT" not in entry or entry["PRIORITY"] == "2"]
        assert len(said) == 1, entries
        return str(said[0])

    def active_again(self, unit: str, old_pid: int) -> bool:
        """Whether another process than `old_pid` has reported ready."""
        return (
            self.machine.main_pid(unit) not in {0, old_pid}
            and self.machine.show(unit, "ActiveState") == "active"
        )


@pytest.fixture
def installation(machine: Machine, telegram: LoopbackTelegram, tmp_path: Path) -> Iterator[Installation]:
    """Everything is configured but a session; what a test leaves behind is removed."""
    world = telegram.describe()
    channel = next(chat["chat"] for chat in world["chats"] if chat["kind"] == "channel")
    port = free_port()
    installed = Installation(machine, telegram, world["users"][0], channel, port, tmp_path)
    machine.write("/etc/telegram-gateway/server.pem", telegram.public_key)
    machine.write("/etc/telegram-gateway/credentials/api_hash", f"{API_HASH}\n", 0o600)
    installed.configure()
    yield installed
    for unit in (UNIT, INSTANCE):  # shown when the test failed
        print("\n".join(str(entry["MESSAGE"]) for entry in machine.journal(unit)))
    machine.systemctl("stop", UNIT, INSTANCE)
    machine.systemctl("reset-failed")
    for unit in (UNIT, INSTANCE):
        machine.forget_journal(unit)
    machine.run("sh", "-c", "rm -rf /opt/telegram-gateway/.session/* /var/lib/telegram-gateway/*")
    machine.run("sh", "-c", "rm -rf /etc/telegram-gateway/credentials/* /etc/telegram-gateway/*.env")


@pytest.fixture(scope="module")
def session_files() -> dict[str, bytes]:
    """The session that the first test logged in with, for the others."""
    return {}


@pytest.fixture
def logged_in(installation: Installation, session_files: dict[str, bytes]) -> Installation:
    file = installation.machine.root / "opt/telegram-gateway/.session/main.session"
    if "main" in session_files:
        file.touch(mode=0o600)
        file.write_bytes(session_files["main"])
        installation.machine.run("chown", "telegram-gateway:", "/opt/telegram-gateway/.session/main.session")
    else:
        installation.log_in()
        session_files["main"] = file.read_bytes()
    return installation


def test_started_it_is_active_says_how_it_stands_and_logs_fields(logged_in: Installation) -> None:
    logged_in.machine.systemctl("start", UNIT)

    # The api hash is nowhere but in the credentials: active means that it reached the daemon.
    status = logged_in.machine.systemctl("status", UNIT)
    assert "Active: active (running)" in status
    assert 'Status: "1/1 accounts connected' in status
    lines = logged_in.logged()
    assert "ready" in [line["EVENT"] for line in lines]
    assert all({"MESSAGE", "PRIORITY", "CODE_FUNC"} <= line.keys() for line in lines)
    assert {line["SYSLOG_IDENTIFIER"] for line in lines} == {"telegram-gateway"}
    assert API_HASH not in json.dumps(lines)


def test_stopped_it_exits_cleanly_within_the_drain_limit(logged_in: Installation) -> None:
    logged_in.machine.systemctl("start", UNIT)
    logged_in.stop_quickly()
    assert logged_in.machine.show(UNIT, "ActiveState") == "inactive"
    assert logged_in.machine.show(UNIT, "ExecMainStatus") == "0"
    assert logged_in.logged()[-1]["EVENT"] == "stopped"


def test_a_sink_that_is_down_is_told_in_the_status_and_delays_neither_start_nor_stop(
    logged_in: Installation,
) -> None:
    machine = logged_in.machine
    logged_in.configure(TELEGRAM_ENABLE_CACHE="true", TELEGRAM_REDIS_URL="redis://127.0.0.1:1/0")
    machine.systemctl("start", UNIT)
    machine.wait_until(
        "the status names the sink", lambda: "sink redis is down" in machine.show(UNIT, "StatusText")
    )
    logged_in.post("while the cache is down")
    machine.wait_until("the message is journaled", lambda: logged_in.journal_rows() > 0)
    logged_in.stop_quickly()
    assert machine.show(UNIT, "ExecMainStatus") == "0"
    assert logged_in.journaled_texts() == ["while the cache is down"]


def test_killed_it_is_back_at_once_and_has_every_message(logged_in: Installation) -> None:
    machine = logged_in.machine
    machine.systemctl("start", UNIT)
    before = machine.main_pid(UNIT)
    texts = [f"message {number}" for number in range(60)]

    logged_in.post(*texts[:20])
    machine.kill(before, signal.SIGKILL)
    logged_in.post(*texts[20:40])
    machine.wait_until("it is active again", lambda: logged_in.active_again(UNIT, before))
    logged_in.post(*texts[40:])
    machine.wait_until("all are journaled", lambda: logged_in.journal_rows() >= len(texts))

    assert machine.show(UNIT, "NRestarts") == "1"
    machine.systemctl("stop", UNIT)
    assert logged_in.journaled_texts() == texts


@pytest.fixture
def impatient(logged_in: Installation) -> Iterator[Installation]:
    """With a watchdog of three seconds: only here, for a machine may stumble for as long at any time."""
    machine = logged_in.machine
    setting = machine.write(f"/etc/systemd/system/{UNIT}.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    machine.systemctl("daemon-reload")
    yield logged_in
    setting.unlink()
    machine.systemctl("daemon-reload")


def test_frozen_it_is_killed_by_the_watchdog_and_restarted(impatient: Installation) -> None:
    machine = impatient.machine
    machine.systemctl("start", UNIT)
    frozen = machine.main_pid(UNIT)
    machine.kill(frozen, signal.SIGSTOP)
    machine.wait_until("it is active again", lambda: impatient.active_again(UNIT, frozen))
    told = [entry["MESSAGE"] for entry in machine.journal(UNIT)]
    assert f"{UNIT}: Watchdog timeout (limit 3s)!" in told
    assert "Fatal Python error: Aborted" in told, "the stacks of a hung daemon are worth having"


def test_a_dead_session_fails_for_good_and_says_how_to_log_in_again(
    installation: Installation, session_files: dict[str, bytes]
) -> None:
    session_files.clear()  # the sandbox forgets every login of this user
    installation.log_in()
    installation.machine.systemctl("start", UNIT)
    installation.telegram.call("auth_key_unregistered", user=installation.user["id"])
    installation.telegram.call("drop_connections")
    line = installation.needs_a_person()
    assert "refuses the session of account 'main' for good (AUTH_KEY_UNREGISTERED)" in line
    assert "telegram-gateway login --account main" in line
    assert "telegram-gateway login" in installation.machine.show(UNIT, "StatusText")


def test_without_the_api_hash_it_fails_once_and_says_what_is_missing(installation: Installation) -> None:
    (installation.machine.root / "etc/telegram-gateway/credentials/api_hash").unlink()
    installation.machine.systemctl("start", UNIT, check=False)
    assert "TELEGRAM_API_HASH" in installation.needs_a_person()


def test_without_a_session_it_fails_once_and_says_how_to_log_in(installation: Installation) -> None:
    installation.machine.systemctl("start", UNIT, check=False)
    assert "telegram-gateway login --account main" in installation.needs_a_person()


def test_a_session_that_others_can_read_is_refused(logged_in: Installation) -> None:
    logged_in.machine.run("chmod", "644", "/opt/telegram-gateway/.session/main.session")
    logged_in.machine.systemctl("start", UNIT, check=False)
    line = logged_in.needs_a_person()
    assert "main.session" in line
    assert "chmod 600" in line


def test_an_instance_runs_its_one_account_with_a_state_of_its_own(logged_in: Installation) -> None:
    machine = logged_in.machine
    logged_in.configure(TELEGRAM_ACCOUNTS="main,other", TELEGRAM_STATE_DIR="/var/lib/elsewhere")
    machine.write("/etc/telegram-gateway/main.env", "TELEGRAM_LOG_LEVEL=DEBUG\n")
    machine.systemctl("start", INSTANCE)
    assert machine.show(INSTANCE, "StatusText").startswith("1/1 accounts connected")
    logged_in.post("for the instance")
    machine.wait_until("the message is journaled", lambda: logged_in.journal_rows() > 0)
    machine.systemctl("stop", INSTANCE)
    assert logged_in.journaled_texts("/var/lib/telegram-gateway/main") == ["for the instance"]


def test_an_account_that_already_runs_on_this_host_is_not_run_twice(logged_in: Installation) -> None:
    machine = logged_in.machine
    machine.systemctl("start", UNIT)
    machine.write("/etc/telegram-gateway/main.env", "TELEGRAM_METRICS_ADDR=127.0.0.1:0\n")
    machine.systemctl("start", INSTANCE, check=False)
    assert "main" in logged_in.needs_a_person(INSTANCE)
    assert machine.show(UNIT, "ActiveState") == "active"
