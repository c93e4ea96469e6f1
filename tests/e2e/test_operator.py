"""What the operator gets wrong, or what breaks under him: one clear line, and the right exit code."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import apsw
import asyncpg
import msgspec
import pytest
import pytest_asyncio

from gateway.localstack import LocalStack
from gateway.sandbox import Chat, Sandbox, World
from tests.e2e.desk import API_HASH, Answer, Desk

PHONE = "+5511999990001"
SECOND_PHONE = "+5511999990002"
CODE = "12345"
PATIENCE_SECONDS = 90.0


@pytest_asyncio.fixture
async def telegram(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with Sandbox(state_dir=tmp_path_factory.mktemp("sandbox")) as sandbox:
        world = sandbox.world
        people = [world.add_user("Operador", phone=PHONE), world.add_user("Colega", phone=SECOND_PHONE)]
        friend = world.add_user("Ana", username="ana_souza")
        world.add_channel("Sinais", [*people, friend], username="sinais_b3")
        world.add_channel("Outros", [*people, friend])
        for one in people:
            world.private(one, friend)
        yield sandbox


@pytest_asyncio.fixture
async def desk(telegram: Sandbox, tmp_path: Path) -> AsyncIterator[Desk]:
    """A gateway without sinks, logged in, not started."""
    desk = Desk(tmp_path, telegram)
    await desk.gateway.login(PHONE, CODE)
    yield desk
    await desk.gateway.close()


def titled(world: World, title: str) -> Chat:
    return next(chat for chat in world.chats.values() if chat.title == title)


def last_reason(answer: Answer) -> str:
    """The reason in the daemon's last log line, which must be its only complaint."""
    assert "Traceback" not in answer.text
    complaints = [line for line in answer.lines if line[:3] in {"<2>", "<3>"}]
    assert len(complaints) == 1, answer.text
    event = msgspec.json.decode(complaints[0][3:], type=dict[str, object])
    assert event["exit_code"] == answer.code
    return str(event["reason"])


# What is set wrong: (environment, what is left out, words that must be in the one line).
WRONG_SETTINGS: dict[str, tuple[dict[str, str], list[str], tuple[str, ...]]] = {
    "no api id": ({}, ["TELEGRAM_API_ID"], ("TELEGRAM_API_ID", "my.telegram.org")),
    "no api hash": ({}, ["TELEGRAM_API_HASH"], ("TELEGRAM_API_HASH", "my.telegram.org")),
    "api id is a word": ({"TELEGRAM_API_ID": "abc"}, [], ("TELEGRAM_API_ID", "integer")),
    "server without key": ({}, ["TELEGRAM_SERVER_PUBLIC_KEY"], ("TELEGRAM_SERVER_PUBLIC_KEY",)),
    "key without server": ({}, ["TELEGRAM_SERVER"], ("TELEGRAM_SERVER ",)),
    "key is not there": (
        {"TELEGRAM_SERVER_PUBLIC_KEY": "/nonexistent.pem"},
        [],
        ("TELEGRAM_SERVER_PUBLIC_KEY", "/nonexistent.pem", "No such file"),
    ),
    "key is no key": (
        {"TELEGRAM_SERVER_PUBLIC_KEY": "/etc/hostname"},
        [],
        ("TELEGRAM_SERVER_PUBLIC_KEY", "not a PEM public key"),
    ),
    "boolean": ({"TELEGRAM_ENABLE_DB": "maybe"}, [], ("TELEGRAM_ENABLE_DB", "boolean")),
    "duration": ({"TELEGRAM_JOURNAL_RETENTION": "a week"}, [], ("TELEGRAM_JOURNAL_RETENTION", "7d")),
    "address": ({"TELEGRAM_METRICS_ADDR": "4006"}, [], ("TELEGRAM_METRICS_ADDR", "host:port")),
    "two mistakes": (
        {"TELEGRAM_CHATS": "Sinais", "TELEGRAM_LOG_LEVEL": "loud"},
        [],
        ("TELEGRAM_CHATS", "@name", "TELEGRAM_LOG_LEVEL", "DEBUG"),
    ),
    "no such account": ({"TELEGRAM_ACCOUNTS": "other"}, [], ("login --account other",)),
    "sentinel address": (
        {"TELEGRAM_ENABLE_CACHE": "true", "TELEGRAM_REDIS_SENTINELS": "one,two"},
        [],
        ("TELEGRAM_REDIS_SENTINELS", "host:port"),
    ),
    "database password in a bad address": (
        {"TELEGRAM_DB_DSN": "mysql://telegram:hunter2@db/x"},
        [],
        ("TELEGRAM_DB_DSN", "postgresql://"),
    ),
    "database port": (
        {"TELEGRAM_DB_DSN": "postgresql://telegram:hunter2@db:port/x"},
        [],
        ("TELEGRAM_DB_DSN", "port"),
    ),
    "broker port": (
        {"TELEGRAM_RABBITMQ_URL": "amqp://telegram:hunter2@broker:99999/telegram"},
        [],
        ("TELEGRAM_RABBITMQ_URL", "port"),
    ),
    "cache port": (
        {"TELEGRAM_REDIS_URL": "redis://:hunter2@cache:port/0"},
        [],
        ("TELEGRAM_REDIS_URL", "port"),
    ),
}


async def test_every_wrong_setting_is_one_line_that_names_it_and_exit_78(desk: Desk) -> None:
    two_at_a_time = asyncio.Semaphore(2)

    async def run(environment: dict[str, str], without: list[str]) -> Answer:
        async with two_at_a_time:
            return await desk.run("run", environment=environment, without=without)

    answers = await asyncio.gather(
        *(run(changes, without) for changes, without, _ in WRONG_SETTINGS.values())
    )
    wrong = {}
    for (case, (_, _, hints)), answer in zip(WRONG_SETTINGS.items(), answers, strict=True):
        complaints = [line for line in answer.lines if not line.startswith("<6>")]
        if (
            answer.code != 78
            or len(complaints) != 1
            or "Traceback" in answer.text
            or not all(hint in complaints[0] for hint in hints)
            or "hunter2" in answer.text
            or API_HASH in answer.text
        ):
            wrong[case] = answer
    assert not wrong


async def test_a_taken_metrics_port_is_named(desk: Desk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", desk.gateway.port))
        taken.listen()
        answer = await desk.run("run")
    assert answer.code == 78
    reason = last_reason(answer)
    assert "TELEGRAM_METRICS_ADDR" in reason
    assert f"127.0.0.1:{desk.gateway.port}" in reason


async def test_a_session_that_others_can_read_or_that_is_damaged_is_refused(desk: Desk) -> None:
    file = desk.session_file()
    file.chmod(0o644)
    readable = await desk.run("run")
    file.chmod(0o600)
    file.parent.chmod(0o755)
    directory = await desk.run("run")
    file.parent.chmod(0o700)
    file.write_bytes(b"scribble" * 500)
    damaged = await desk.run("run")
    assert (readable.code, directory.code, damaged.code) == (78, 78, 78)
    assert f"chmod 600 {file}" in last_reason(readable)
    assert f"chmod 700 {file.parent}" in last_reason(directory)
    assert str(file) in last_reason(damaged)
    assert "log in again or restore a backup" in last_reason(damaged)


async def test_a_damaged_journal_and_one_of_another_version_are_refused(desk: Desk) -> None:
    journal = desk.gateway.state_dir / "journal.db"
    await desk.gateway.start()
    await desk.gateway.stop()
    connection = apsw.Connection(str(journal))
    connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    connection.close()
    foreign = await desk.run("run")
    shown = await desk.run("status")
    journal.write_bytes(b"notes, not a journal\n" * 1000)
    damaged = await desk.run("run")
    assert foreign.code == 78
    assert "version 99" in last_reason(foreign)
    shown.assert_one_line(78, "version 99")
    assert damaged.code == 78
    assert str(journal) in last_reason(damaged)
    assert "move the file away" in last_reason(damaged)


async def test_a_state_directory_that_cannot_be_written_is_named(desk: Desk) -> None:
    # Not even root can make a directory there.
    answer = await desk.run("run", environment={"TELEGRAM_STATE_DIR": "/proc/telegram-gateway"})
    assert answer.code == 78
    assert "/proc/telegram-gateway" in last_reason(answer)
    assert "TELEGRAM_STATE_DIR" in last_reason(answer)


async def test_a_second_gateway_on_one_journal_is_refused_naming_the_first(desk: Desk) -> None:
    await desk.gateway.login(SECOND_PHONE, CODE, account="second")
    await desk.gateway.start()
    answer = await desk.run(
        "run", environment={"TELEGRAM_ACCOUNTS": "second", "TELEGRAM_METRICS_ADDR": "127.0.0.1:0"}
    )
    assert answer.code == 78
    assert f"in use by process {desk.gateway.pid}" in last_reason(answer)


async def test_an_unreachable_telegram_is_retried_until_it_answers(desk: Desk) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(desk.gateway.directory / "notify"))
        systemd.setblocking(False)
        told = Desk(
            desk.gateway.directory,
            desk.sandbox,
            {**desk.settings, "NOTIFY_SOCKET": str(desk.gateway.directory / "notify")},
        )
        desk.sandbox.faults.refuse_connections(600)  # until it is cleared
        try:
            await told.gateway.start(wait=False)
            await told.gateway.wait_answering()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{told.gateway.port}") as http:
                async with http.get("/ready") as ready:
                    assert ready.status == 503
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while True:
                        async with http.get("/health") as health:
                            assert health.status == 503
                            body = await health.json()
                        if any("waiting" in problem for problem in body["problems"]):
                            break
                        await asyncio.sleep(0.05)
            assert body["status"] == "down"
            status = await told.run("status")
            assert status.code == 0
            assert re.search(r"^account main: waiting \(.+\), ", status.text)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (lines := await asyncio.get_running_loop().sock_recv(systemd, 4096)).startswith(
                    b"STATUS=0/1 accounts connected, 0 events waiting; account main is waiting ("
                ):
                    assert b"READY=1" not in lines
            desk.sandbox.faults.clear()
            await told.gateway.wait_ready()
            log = told.gateway.log()
            assert "connection_failed" in log
            assert "Traceback" not in log
            assert not [line for line in log.splitlines() if line[:3] in {"<2>", "<3>"}]
        finally:
            await told.gateway.close()


@pytest.mark.parametrize("fault", ["auth_key_unregistered", "auth_key_duplicated"])
async def test_a_session_that_telegram_refuses_ends_the_gateway_for_good(desk: Desk, fault: str) -> None:
    user = desk.sandbox.world.user_by_phone(PHONE)
    assert user is not None
    getattr(desk.sandbox.faults, fault)(user)
    answer = await desk.run("run")
    assert answer.code == 78
    assert fault.upper() in answer.lines[-1]
    assert "login --account main" in answer.lines[-1]
    assert "Traceback" not in answer.text


async def test_a_foreign_schema_stops_one_sink_and_not_the_gateway(desk: Desk, stack: LocalStack) -> None:
    settings = {**stack.environment, "TELEGRAM_ENABLE_CACHE": "false", "TELEGRAM_ENABLE_QUEUE": "true"}
    full = Desk(desk.gateway.directory, desk.sandbox, settings)
    assert (await full.run("db", "migrate")).code == 0
    connection = await asyncpg.connect(stack.postgres.dsn)
    try:
        await connection.execute(
            "INSERT INTO telegram_gateway.schema_migrations "
            "SELECT 9999, 'from_the_future', checksum, now(), 0 "
            "FROM telegram_gateway.schema_migrations LIMIT 1"
        )
        await full.gateway.start()
        desk.sandbox.world.post(titled(desk.sandbox.world, "Sinais"), "PETR4 compra")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                status = await full.gateway.status() or {"sinks": (), "journal": {"rows": 0}}
                sinks = {sink["name"]: sink for sink in status["sinks"]}
                if (
                    status["journal"]["rows"]
                    and sinks["rabbitmq"]["up"]
                    and not sinks["rabbitmq"]["lag_events"]
                    and sinks["timescaledb"]["reason"]
                ):
                    break
                await asyncio.sleep(0.05)
        assert not sinks["timescaledb"]["up"]
        assert "9999" in sinks["timescaledb"]["reason"]
        assert sinks["timescaledb"]["lag_events"] == status["journal"]["rows"]
        (await full.run("db", "migrate")).assert_one_line(78, "9999", "install the version that made it")
        shown = await full.run("db", "status")
        assert shown.code == 78
        assert "install the version that made it" in shown.lines[-1]
        assert "Traceback" not in shown.text
        await connection.execute("DELETE FROM telegram_gateway.schema_migrations WHERE version = 9999")
        await full.gateway.wait_delivered(sinks=2)
        assert "Traceback" not in full.gateway.log()
    finally:
        await connection.execute("DELETE FROM telegram_gateway.schema_migrations WHERE version = 9999")
        await connection.close()
        await full.gateway.close()


async def test_tail_shows_messages_as_they_come_and_the_last_ones_before(desk: Desk) -> None:
    await desk.gateway.start()
    world = desk.sandbox.world
    signals, others = (
        titled(world, "Sinais"),
        titled(world, "Outros"),
    )
    for number in range(5):
        world.post(signals, f"sinal {number}")
        world.post(others, f"outro {number}")
    await until_journaled(desk, 10)
    async with contextlib.AsyncExitStack() as stack:
        live = await stack.enter_async_context(desk.terminal("tail"))
        one_chat = await stack.enter_async_context(
            desk.terminal("tail", "--chat", "@sinais_b3", "--last", "2")
        )
        every = await stack.enter_async_context(desk.terminal("tail", "--last", "3"))
        await one_chat.until("sinal 4")
        await every.until("outro 4")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "teste" not in live.shown:  # it says nothing by which to know that it listens
                world.post(others, "teste")
                await asyncio.sleep(0.2)
        wild = world.post(signals, "olá \x1b[2J\x1b]0;dono\x07 mundo\nduas linhas")
        world.post(others, "outro 5")
        world.edit(signals, wild, "corrigido")
        world.delete(others, others.ids[-1])
        for screen in (live, every):
            await screen.until("deleted")
        await one_chat.until("corrigido")
        for screen in (live, one_chat, every):
            screen.type("\x03")
        answers = [await screen.end() for screen in (live, one_chat, every)]
    for answer in answers:
        assert answer.code == 130
        assert "Traceback" not in answer.text
    live_text, chat_text, every_text = (answer.text for answer in answers)
    assert "sinal" not in live_text
    assert "outro 5" in live_text
    assert "\x1b[2J" not in live_text
    assert "\x1b]0" not in live_text
    assert "mundo duas linhas" in live_text
    assert [number for number in range(5) if f"sinal {number}" in chat_text] == [3, 4]
    assert "outro" not in chat_text.lower()
    assert "outro 3" in every_text
    assert "sinal 4" in every_text
    assert "sinal 3" not in every_text


async def test_tail_without_a_journal_or_with_a_chat_that_is_none_says_so(desk: Desk) -> None:
    absent, wrong = await asyncio.gather(desk.run("tail"), desk.run("tail", "--chat", "Sinais"))
    absent.assert_one_line(1, "there is no journal", "when the daemon first runs")
    assert wrong.code == 2
    assert "neither a chat id nor an @name" in wrong.text


async def test_two_accounts_in_one_channel_deliver_it_once_and_each_its_private_chats(desk: Desk) -> None:
    await desk.gateway.login(SECOND_PHONE, CODE, account="second")
    both = Desk(desk.gateway.directory, desk.sandbox, {**desk.settings, "TELEGRAM_ACCOUNTS": "main,second"})
    try:
        await both.gateway.start()
        world = desk.sandbox.world
        people = [world.user_by_phone(phone) for phone in (PHONE, SECOND_PHONE)]
        private = [chat for chat in world.chats.values() if chat.kind == "private"]
        for number in range(20):
            world.post(titled(world, "Sinais"), f"sinal {number}")
        for chat in private:
            world.post(chat, "particular")
        await until_journaled(both, 22)
        status = await both.gateway.status()
        assert status is not None
        assert [account["state"] for account in status["accounts"]] == ["connected", "connected"]
        await both.gateway.stop()
    finally:
        await both.gateway.close()
    from gateway.journal import open_reader

    with open_reader(both.gateway.state_dir / "journal.db") as reader:
        events = [record.event for record in reader.read(0, reader.last_seq(), 1000)]
    posts = [event for event in events if event.account_scope == 0]
    assert sorted(event.text or "" for event in posts) == sorted(f"sinal {number}" for number in range(20))
    own = {(event.account, event.account_scope) for event in events if event.account_scope != 0}
    assert own == {("main", people[0].id), ("second", people[1].id)}  # type: ignore[union-attr]
    assert len(events) == 22


async def until_journaled(desk: Desk, rows: int) -> None:
    """Returns once the journal holds that many, and has not held more for a moment."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            status = await desk.gateway.status()
            if status and status["journal"]["rows"] >= rows:
                return
            await asyncio.sleep(0.05)
