"""Logging in as an operator does it: the real command, a terminal or none, and what it leaves on the disk."""

import asyncio
import base64
import re
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.sandbox import Sandbox, User
from tests.e2e.desk import Answer, Desk

PHONE = "+5511999990001"
CODE = "12345"
GUARDED_PHONE = "+5511999990002"
PASSWORD = "correct horse battery"
BOT_TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
SECRETS = (CODE, PASSWORD, BOT_TOKEN, PHONE.lstrip("+"), GUARDED_PHONE.lstrip("+"))
QR_ADDRESS = re.compile(r"tg://login\?token=([\w-]+)")


@pytest_asyncio.fixture(scope="module")
async def telegram(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """A Telegram with a person, a person with a two-step password, and a bot."""
    async with Sandbox(state_dir=tmp_path_factory.mktemp("sandbox")) as sandbox:
        sandbox.world.add_user("Operador", phone=PHONE)
        sandbox.world.add_user("Guarda", phone=GUARDED_PHONE, password=PASSWORD)
        sandbox.world.add_user("Robô", bot_token=BOT_TOKEN)
        yield sandbox


@pytest.fixture
def desk(telegram: Sandbox, tmp_path: Path) -> Desk:
    return Desk(tmp_path, telegram)


def person(desk: Desk, phone: str = PHONE) -> User:
    user = desk.sandbox.world.user_by_phone(phone.lstrip("+"))
    assert user is not None
    return user


async def log_in(desk: Desk, account: str = "main") -> None:
    answer = await desk.run("login", "--account", account, "--phone", PHONE, "--code", CODE)
    assert answer.code == 0, answer.text


def assert_logged_in(desk: Desk, answer: Answer, name: str) -> None:
    assert answer.code == 0, answer.text
    assert f"Logged in as {name}" in answer.text
    assert str(desk.session_file()) in answer.text
    assert stat.S_IMODE(desk.session_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.session_file().parent.stat().st_mode) == 0o700


async def test_a_code_from_flags_logs_in_and_leaves_a_private_session_file(desk: Desk) -> None:
    answer = await desk.run("login", "--phone", PHONE, "--code", CODE)
    assert_logged_in(desk, answer, "Operador")
    assert [file.name for file in desk.gateway.session_dir.glob("*.session*")] == ["main.session"]


async def test_code_and_two_step_password_from_the_environment_log_in(desk: Desk) -> None:
    secrets = {
        "TELEGRAM_LOGIN_PHONE": GUARDED_PHONE,
        "TELEGRAM_LOGIN_CODE": CODE,
        "TELEGRAM_LOGIN_PASSWORD": PASSWORD,
    }
    answer = await desk.run("login", environment=secrets)
    assert_logged_in(desk, answer, "Guarda")
    assert not [secret for secret in SECRETS if secret in answer.text]


async def test_a_bot_token_logs_in(desk: Desk) -> None:
    answer = await desk.run("login", environment={"TELEGRAM_LOGIN_BOT_TOKEN": BOT_TOKEN})
    assert_logged_in(desk, answer, "Robô (bot")
    assert BOT_TOKEN not in answer.text


async def test_wrong_secrets_are_refused_in_one_line_each_and_leave_no_session(desk: Desk) -> None:
    wrong = {
        "code": ("--phone", PHONE, "--code", "99999"),
        "password": ("--phone", GUARDED_PHONE, "--code", CODE, "--password", "wrong horse"),
        "token": ("--bot-token", "110201543:" + "B" * 35),
        "number": ("--phone", "+5511000000000", "--code", CODE),
    }
    hints = {
        "code": "login code was wrong; run login again",
        "password": "two-step password was wrong; run login again",
        "token": "copy it again from @BotFather",
        "number": "write it as +5511999990001",
    }
    answers = await asyncio.gather(
        *(desk.run("login", "--account", what, *flags) for what, flags in wrong.items())
    )
    for what, answer in zip(wrong, answers, strict=True):
        answer.assert_one_line(78, hints[what])
        assert not [given for given in wrong[what] if not given.startswith("-") and given in answer.text]
        assert not desk.session_file(what).exists()


async def test_without_a_terminal_what_is_missing_is_named(desk: Desk) -> None:
    no_phone, no_code, no_password = await asyncio.gather(
        desk.run("login", "--account", "a"),
        desk.run("login", "--account", "b", "--phone", PHONE),
        desk.run("login", "--account", "c", "--phone", GUARDED_PHONE, "--code", CODE),
    )
    no_phone.assert_one_line(78, "--phone", "TELEGRAM_LOGIN_PHONE")
    no_code.assert_one_line(78, "--code", "TELEGRAM_LOGIN_CODE")
    no_password.assert_one_line(78, "--password", "TELEGRAM_LOGIN_PASSWORD")


async def test_at_a_terminal_everything_is_asked_for_and_a_slip_may_be_corrected(desk: Desk) -> None:
    async with desk.terminal("login") as terminal:
        await terminal.until("Phone number")
        terminal.type(f"{GUARDED_PHONE}\n")
        await terminal.until("Login code")
        terminal.type("99999\n")
        await terminal.until("Wrong code")
        terminal.type(f"{CODE}\n")
        await terminal.until("Two-step password")
        terminal.type("wrong horse\n")
        await terminal.until("Wrong password")
        terminal.type(f"{PASSWORD}\n")
        answer = await terminal.end()
    assert_logged_in(desk, answer, "Guarda")
    assert PASSWORD not in answer.text, "a password is not shown while it is typed"
    assert "wrong horse" not in answer.text


async def test_ctrl_c_at_a_prompt_ends_the_login_at_once(desk: Desk) -> None:
    async with desk.terminal("login") as terminal:
        await terminal.until("Phone number")
        terminal.type("\x03")
        answer = await terminal.end()
    assert answer.code == 130
    assert "Traceback" not in answer.text
    assert not desk.session_file().exists()


def scan(terminal_text: str, desk: Desk, user: User) -> None:
    """What the phone does with the code on the screen."""
    found = QR_ADDRESS.findall(terminal_text)[-1]
    desk.sandbox.accounts.accept_token(base64.urlsafe_b64decode(found + "=" * (-len(found) % 4)), user)


@pytest.mark.parametrize(("phone", "name"), [(PHONE, "Operador"), (GUARDED_PHONE, "Guarda")])
async def test_a_drawn_qr_code_that_is_scanned_logs_in(desk: Desk, phone: str, name: str) -> None:
    async with desk.terminal("login", "--qr", "--password", PASSWORD) as terminal:
        await terminal.until("tg://login?token=")
        while not re.search(QR_ADDRESS.pattern + r"\s", terminal.shown):
            await terminal.until_more()  # a terminal shows a line piece by piece
        drawn = [line for line in terminal.shown.splitlines() if re.search("[█▀▄]{5}", line)]
        assert len(drawn) > 15, terminal.shown
        scan(terminal.shown, desk, person(desk, phone))
        answer = await terminal.end()
    assert_logged_in(desk, answer, name)


async def test_contradicting_flags_and_a_bad_account_name_are_refused(desk: Desk) -> None:
    both, name, no_hash = await asyncio.gather(
        desk.run("login", "--qr", "--bot-token", BOT_TOKEN),
        desk.run("login", "--account", "../elsewhere", "--phone", PHONE, "--code", CODE),
        desk.run("login", "--phone", PHONE, without=["TELEGRAM_API_HASH"]),
    )
    both.assert_one_line(78, "--qr", "--bot-token")
    name.assert_one_line(78, "../elsewhere")
    no_hash.assert_one_line(78, "TELEGRAM_API_HASH", "my.telegram.org")


async def test_an_unreachable_telegram_is_named(desk: Desk) -> None:
    nowhere = {"TELEGRAM_SERVER": "127.0.0.1:1"}
    answer = await desk.run("login", "--phone", PHONE, "--code", CODE, environment=nowhere)
    answer.assert_one_line(78, "127.0.0.1:1", "TELEGRAM_SERVER")


async def test_logging_in_again_replaces_the_session(desk: Desk) -> None:
    await log_in(desk)
    before = desk.session_file().read_bytes()
    await log_in(desk)
    assert desk.session_file().read_bytes() != before
    assert (await desk.run("session", "check")).code == 0


async def test_sessions_are_listed_with_what_is_wrong_with_them(desk: Desk) -> None:
    await log_in(desk, "good")
    directory = desk.gateway.session_dir
    (directory / "open.session").write_bytes((directory / "good.session").read_bytes())
    (directory / "open.session").chmod(0o640)
    (directory / "damaged.session").write_bytes(b"no database at all" * 100)
    (directory / "damaged.session").chmod(0o600)
    empty = sqlite3.connect(directory / "empty.session")
    empty.execute("CREATE TABLE sessions (dc_id, server_address, port, auth_key)")
    empty.close()
    (directory / "empty.session").chmod(0o600)
    answer = await desk.run("session", "list")
    assert answer.code == 0, answer.text
    listed = {line.split("\t")[0]: line for line in answer.lines}
    assert sorted(listed) == ["damaged", "empty", "good", "open"]
    assert "ok" in listed["good"]
    assert f"chmod 600 {directory / 'open.session'}" in listed["open"]
    assert "not a readable session" in listed["damaged"]
    assert "login --account empty" in listed["empty"]


async def test_an_empty_or_absent_session_directory_is_said_to_be_so(desk: Desk) -> None:
    answer = await desk.run("session", "list")
    assert answer.code == 0
    assert str(desk.gateway.session_dir) in answer.text


async def test_check_tells_a_good_session_from_a_revoked_and_an_unreachable_one(desk: Desk) -> None:
    await log_in(desk)
    good = await desk.run("session", "check")
    unreachable = await desk.run("session", "check", environment={"TELEGRAM_SERVER": "127.0.0.1:1"})
    desk.sandbox.faults.auth_key_unregistered(person(desk))
    revoked = await desk.run("session", "check")
    absent = await desk.run("session", "check", "--account", "nobody")
    assert (good.code, unreachable.code, revoked.code, absent.code) == (0, 78, 78, 78)
    assert "logged in as Operador" in good.text
    unreachable.assert_one_line(78, "127.0.0.1:1")
    revoked.assert_one_line(78, "login --account main")
    absent.assert_one_line(78, "login --account nobody")


async def test_a_running_gateway_keeps_its_session_to_itself(desk: Desk) -> None:
    await log_in(desk)
    try:
        await desk.gateway.start()
        pid = str(desk.gateway.pid)
        again, check, second = await asyncio.gather(
            desk.run("login", "--phone", PHONE, "--code", CODE),
            desk.run("session", "check"),
            desk.run(
                "run",
                environment={
                    "TELEGRAM_STATE_DIR": str(desk.gateway.directory / "other"),
                    "TELEGRAM_METRICS_ADDR": "127.0.0.1:0",
                },
            ),
        )
        for answer in (again, check):
            answer.assert_one_line(78, f"in use by process {pid}")
        assert second.code == 78
        assert f"in use by process {pid}" in second.lines[-1]
        assert "Traceback" not in second.text
        status = await desk.gateway.status()
        assert status is not None
        assert status["accounts"][0]["state"] == "connected"
    finally:
        await desk.gateway.close()
