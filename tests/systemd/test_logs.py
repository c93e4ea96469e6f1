"""What docs/logs.md promises: each of its queries, run as written after an installation has had a bad day."""

import re
import shutil
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import aio_pika
import asyncpg
import pytest
import pytest_asyncio

from gateway.localstack import LocalStack
from tests.systemd.conftest import COMMAND, HOME, LoopbackTelegram
from tests.systemd.machine import Machine, free_port
from tests.systemd.test_service import UNIT, Installation

API = "telegram-gateway-api.service"
WORKER = "telegram-gateway-tp-capital.service"
REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs/logs.md"
REFUSE = "ALTER TABLE telegram_gateway.messages ADD CONSTRAINT c CHECK (text NOT LIKE '%veneno%') NOT VALID"
BODIES = ("PETR4", "veneno", "palavra", "a-bad-token")
BAD_TOKEN = "tgw_a-bad-token"


class BadDay(Installation):
    """An installation with all its servers, to which all happens that the document has a question for."""

    stack: LocalStack
    api_port: int

    def install(self, stack: LocalStack) -> None:
        self.stack, self.api_port = stack, free_port()
        settings = {
            **{f"TELEGRAM_ENABLE_{sink}": "true" for sink in ("DB", "CACHE", "QUEUE")},
            "TELEGRAM_API_ADDR": f"127.0.0.1:{self.api_port}",
            "TELEGRAM_LOG_LEVEL": "DEBUG",
            "TP_CAPITAL_METRICS_ADDR": f"127.0.0.1:{free_port()}",
        }
        self.configure(**settings, **stack.environment)
        self.command("db", "migrate")
        self.log_in()
        for unit in (UNIT, API, WORKER):
            self.machine.systemctl("start", unit)

    def command(self, *arguments: str) -> str:
        """A command of the gateway's, run as the gateway's user with the unit's configuration."""
        return self.machine.run(
            *("systemd-run", "--quiet", "--wait", "--pipe", "--uid=telegram-gateway"),
            "--property=EnvironmentFile=/etc/telegram-gateway/telegram-gateway.env",
            "--property=LoadCredential=telegram:/etc/telegram-gateway/credentials",
            *(COMMAND, *arguments),
        )

    def until(self, event: str, unit: str = UNIT, **fields: str) -> None:
        """Waits until the unit has logged the event."""

        def said() -> bool:
            wanted = {"EVENT": event, **fields}.items()
            return any(wanted <= entry.items() for entry in self.machine.logged(unit))

        self.machine.wait_until(f"{unit} says {event} {fields}", said)

    async def happen(self) -> None:
        await self._an_outage_of_redis()
        self._a_gap_and_a_flood_wait()
        await self._a_refused_record()
        await self._dead_letters()
        for _ in range(2):
            self.machine.wait_until("the token is refused", self._a_bad_token)
        self._a_crash()
        self.telegram.call("auth_key_unregistered", user=self.user["id"])
        self.telegram.call("drop_connections")
        self.machine.wait_until("it is down", lambda: self.machine.show(UNIT, "ActiveState") == "failed")

    async def _an_outage_of_redis(self) -> None:
        self.until("sink_up", SINK="redis")
        await self.stack.redis.kill()
        self.post("palavra")
        self.until("sink_down", SINK="redis")
        await self.stack.redis.start()
        self.machine.wait_until("redis is back", self._redis_is_back)

    def _redis_is_back(self) -> bool:
        said = [
            entry["EVENT"]
            for entry in self.machine.logged(UNIT)
            if entry.get("SINK") == "redis" and entry.get("EVENT") in ("sink_up", "sink_down")
        ]
        return said[-2:] == ["sink_down", "sink_up"]

    def _a_gap_and_a_flood_wait(self) -> None:
        calls = {"method": "GetHistoryRequest", "code": 420, "message": "FLOOD_WAIT_1", "times": 1}
        self.telegram.call("fault", name="fail_calls", **calls)
        self.command("gaps", "--chat", self.channel, "--open", "1-1")
        self.until("flood_wait")
        self.until("gap_closed")

    async def _a_refused_record(self) -> None:
        connection = await asyncpg.connect(self.stack.postgres.dsn)
        try:
            await connection.execute(REFUSE)
        finally:
            await connection.close()
        self.post("veneno")
        self.until("sink_record_quarantined")

    async def _dead_letters(self) -> None:
        self.until("consumer_queue_connected", WORKER)
        async with await aio_pika.connect(self.stack.rabbitmq.url) as broker:
            channel = await broker.channel()
            message = aio_pika.Message(b"palavra", message_id="raw")
            await channel.default_exchange.publish(message, "telegram.consumer.tp-capital")
        self.until("consumer_parked", WORKER)

    def _a_bad_token(self) -> bool:
        """Whether it was found to be one: while the database takes too long, nothing is claimed of it."""
        answer = self.machine.run(
            *("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"),
            *("--header", f"Authorization: Bearer {BAD_TOKEN}"),
            f"http://127.0.0.1:{self.api_port}/api/messages",
        )
        return answer == "401"

    def _a_crash(self) -> None:
        pid = self.machine.main_pid(UNIT)
        self.machine.kill(pid, signal.SIGKILL)
        self.machine.wait_until("it is active again", lambda: self.active_again(UNIT, pid))

    def ask(self, question: str) -> list[str]:
        """What each query below the document's heading shows."""
        below = DOCUMENT.read_text().partition(f"\n## {question}\n")[2].partition("\n## ")[0]
        queries = [
            line.removeprefix("$ ")
            for block in re.findall(r"```console\n(.+?)```", below, re.DOTALL)
            for line in block.splitlines()
        ]
        assert queries, f"the document does not ask {question!r}"
        return [self.machine.run("sh", "-c", query) for query in queries]


@pytest_asyncio.fixture(scope="module")
async def day(
    machine: Machine, telegram: LoopbackTelegram, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BadDay]:
    """What has happened by the time somebody looks at the log."""
    world = telegram.describe()
    channel = next(chat["chat"] for chat in world["chats"] if chat["kind"] == "channel")
    bad = BadDay(
        machine, telegram, world["users"][0], channel, free_port(), tmp_path_factory.mktemp("bad-day")
    )
    # The package's directory of migrations is a link to this one.
    shutil.copytree(REPOSITORY / "sql", machine.root / "opt/telegram-gateway/source/sql", dirs_exist_ok=True)
    machine.write("/etc/telegram-gateway/server.pem", telegram.public_key)
    machine.write("/etc/telegram-gateway/credentials/api_hash", "0123456789abcdef0123456789abcdef\n", 0o600)
    for unit in (UNIT, API, WORKER):
        machine.forget_journal(unit)
    async with LocalStack(servers=("postgres", "pgbouncer", "redis", "rabbitmq")) as stack:
        try:
            bad.install(stack)
            await bad.happen()
            yield bad
        finally:
            for unit in (UNIT, API, WORKER):
                machine.systemctl("stop", unit)
                machine.forget_journal(unit)
            machine.systemctl("reset-failed")
            machine.run("sh", "-c", "rm -rf /opt/telegram-gateway/.session/* /var/lib/telegram-gateway/*")
            machine.run("sh", "-c", "rm -rf /etc/telegram-gateway/credentials/*")


def test_why_did_it_restart(day: BadDay) -> None:
    shown = day.ask("Why did it restart?")[0]
    assert "code=killed, status=9/KILL" in shown
    assert "cannot_run" in shown
    assert "code=exited, status=78/CONFIG" in shown
    assert "sink_up" not in shown


def test_when_was_it_started_and_stopped(day: BadDay) -> None:
    shown = day.ask("Why did it restart?")[1]
    assert re.findall(r"\b(starting|ready|stopping|stopped)\b", shown)[-2:] == ["starting", "ready"]


def test_which_sink_is_behind_and_since_when(day: BadDay) -> None:
    (shown,) = day.ask("Which sink is behind, and since when?")
    of_redis = [line for line in shown.splitlines() if "sink=redis" in line]
    # One of them: a gateway may have been stopped, or killed, while its sink was down.
    assert [
        (down, up)
        for down, up in pairwise(of_redis)
        if re.match(r"\w+ \d\d \d\d:\d\d:\d\d .*sink_down .*reason=", down)
        and re.search(r"sink_up .*seconds_down=[\d.]+", up)
    ], of_redis


def test_was_there_a_flood_wait_and_for_which_method(day: BadDay) -> None:
    (shown,) = day.ask("Was there a flood wait, and for which method?")
    assert "flood_wait account=main method=GetHistory seconds=1" in shown


def test_when_did_the_session_die(day: BadDay) -> None:
    (shown,) = day.ask("When did the session die?")
    assert "AUTH_KEY_UNREGISTERED" in shown.splitlines()[-1]
    assert "telegram-gateway login" in shown.splitlines()[-1]


def test_when_was_the_connection_lost(day: BadDay) -> None:
    (shown,) = day.ask("When was the connection lost?")
    assert "connected account=main" in shown


def test_which_chats_had_gaps_and_when_were_they_closed(day: BadDay) -> None:
    shown, counted = day.ask("Which chats had gaps, and when were they closed?")
    opened = re.search(rf"gap_opened account=main chat={day.channel} gap=(\d+) .*first=1 last=1", shown)
    assert opened, shown
    assert re.search(rf"gap_closed .*gap={opened[1]} .*state=captured .*seconds_open=\d+", shown)
    assert re.search(rf"^ *\d+ {day.channel}$", counted, re.MULTILINE)


def test_what_went_into_quarantine_and_why(day: BadDay) -> None:
    (shown,) = day.ask("What went into quarantine, and why?")
    assert f"event_id=0:{day.channel}:" in shown
    assert "sink=timescaledb" in shown
    assert "check constraint" in shown


def test_what_became_a_dead_letter_and_why(day: BadDay) -> None:
    (shown,) = day.ask("What became a dead letter, and why?")
    assert "consumer=tp-capital" in shown
    assert "why=unreadable" in shown


def test_who_called_the_api_with_a_bad_token(day: BadDay) -> None:
    shown, counted = day.ask("Who called the API with a bad token?")
    assert "address=127.0.0.1 reason=unknown" in shown
    assert counted.split() == ["2", "127.0.0.1"]


def test_how_long_do_commits_take(day: BadDay) -> None:
    _, measured = day.ask("How long do commits take?")
    found = re.fullmatch(r"(\d+) commits, median ([\d.]+) s, longest ([\d.]+) s\n", measured)
    assert found, measured
    assert 0 < float(found[2]) <= float(found[3])


def test_nothing_that_was_said_or_secret_is_in_the_journal(day: BadDay) -> None:
    everything = day.machine.run("journalctl", "--unit=telegram-gateway*", "--output=json", "--all")
    assert "sink_record_quarantined" in everything
    for secret in (*BODIES, day.stack.passwords.redis, day.user["phone"]):
        assert secret not in everything


# journald knows a process only by what it logs: this one has said nothing before.
_LAST_WORDS = """\
import pathlib, time, structlog
from gateway.logs import configure_logging
configure_logging()
pathlib.Path("/srv/waits").touch()
while not pathlib.Path("/srv/go").exists():
    time.sleep(0.01)
structlog.get_logger().critical("last_words")
"""


def test_the_last_words_of_a_process_are_its_units_though_journald_reads_them_late(machine: Machine) -> None:
    machine.write("/srv/last_words.py", _LAST_WORDS)
    python = f"{HOME}/venv/bin/python"
    machine.run("systemd-run", "--quiet", "--unit=last-words", python, "-P", "/srv/last_words.py")
    machine.wait_until("it waits", lambda: (machine.root / "srv/waits").exists())
    late = "kill -STOP $0; touch /srv/go; sleep 0.5; kill -CONT $0"
    machine.run("sh", "-c", late, machine.run("pidof", "systemd-journald").strip())
    machine.wait_until("it is through", lambda: machine.show("last-words", "ActiveState") == "inactive")
    assert [entry["EVENT"] for entry in machine.logged("last-words")] == ["last_words"]
