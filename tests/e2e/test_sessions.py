"""Sessions that survive: backed up, restored, moved, encrypted by an operator; and what ends one for good."""

import asyncio
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from gateway.daemon import Daemon
from gateway.errors import SessionDead
from gateway.sandbox import Sandbox, User
from gateway.settings import load_settings
from gateway.systemd import Notifier
from tests.e2e.desk import NO_SINKS, Desk

PHONE = "+5511999990001"
SECOND_PHONE = "+5511999990002"
CODE = "12345"
KEY = "correct horse battery staple"
PATIENCE_SECONDS = 90.0

# Every way in which Telegram says that a session is over (https://core.telegram.org/api/errors).
FINAL = {
    "AUTH_KEY_UNREGISTERED": 401,
    "AUTH_KEY_DUPLICATED": 406,
    "SESSION_REVOKED": 401,
    "USER_DEACTIVATED": 401,
    "USER_DEACTIVATED_BAN": 401,
}


@pytest_asyncio.fixture(scope="module")
async def telegram(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with Sandbox(state_dir=tmp_path_factory.mktemp("sandbox")) as sandbox:
        people = [
            sandbox.world.add_user("Operador", phone=PHONE),
            sandbox.world.add_user("Colega", phone=SECOND_PHONE),
        ]
        sandbox.world.add_channel("Sinais", people)
        yield sandbox


@pytest_asyncio.fixture
async def desk(telegram: Sandbox, tmp_path: Path) -> AsyncIterator[Desk]:
    """A gateway without sinks, not logged in."""
    desk = Desk(tmp_path, telegram)
    yield desk
    telegram.faults.clear()
    await desk.gateway.close()


def person(desk: Desk, phone: str = PHONE) -> User:
    user = desk.sandbox.world.user_by_phone(phone.lstrip("+"))
    assert user is not None
    return user


def backups(desk: Desk, account: str = "main") -> list[Path]:
    return sorted((desk.gateway.state_dir / "session-backups").glob(f"{account}-*.session"))


async def metric(desk: Desk, name: str, account: str = "main") -> float:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{desk.gateway.port}/metrics") as answer,
    ):
        families = text_string_to_metric_families(await answer.text())
    (value,) = (
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"telegram_gateway_{name}" and sample.labels == {"account": account}
    )
    return value


async def until_metric(desk: Desk, name: str, account: str = "main") -> float:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (value := await metric(desk, name, account)):
            await asyncio.sleep(0.05)
    return value


def complaints(log: str) -> list[dict[str, object]]:
    """What was logged as an error or worse."""
    assert "Traceback" not in log
    return [
        msgspec.json.decode(line[3:], type=dict[str, object])
        for line in log.splitlines()
        if line[:3] in {"<2>", "<3>"}
    ]


async def test_a_login_is_backed_up_and_a_destroyed_session_restored(desk: Desk) -> None:
    await desk.gateway.login(PHONE, CODE)
    (backup,) = backups(desk)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE(backup.parent.stat().st_mode) == 0o700
    desk.session_file().write_bytes(b"scribble" * 500)
    broken = await desk.run("run")
    assert broken.code == 78
    assert "session restore --account main" in str(complaints(broken.text)[0]["reason"])
    restored = await desk.run("session", "restore")
    assert restored.code == 0, restored.text
    assert str(backup) in restored.text
    checked = await desk.run("session", "check")
    assert checked.code == 0, checked.text
    assert "logged in as Operador" in checked.text


async def test_a_running_gateway_backs_up_by_itself_and_is_not_restored_under_its_feet(desk: Desk) -> None:
    await desk.gateway.login(PHONE, CODE)
    for made_at_login in backups(desk):
        made_at_login.unlink()
    began = time.time()
    await desk.gateway.start()
    made_at = await until_metric(desk, "session_backup_timestamp_seconds")
    (backup,) = backups(desk)
    assert began - 1 < made_at < backup.stat().st_mtime + 1
    more = await desk.run("session", "backup")
    assert more.code == 0, more.text
    assert len(backups(desk)) == 2
    before = desk.session_file().read_bytes()
    refused = await asyncio.gather(
        desk.run("session", "restore"),
        desk.run("session", "import", "--from", str(backup), "--force"),
    )
    for answer in refused:
        answer.assert_one_line(78, f"in use by process {desk.gateway.pid}")
    assert desk.session_file().read_bytes() == before
    assert await desk.gateway.stop() == 0
    assert complaints(desk.gateway.log()) == []


async def test_a_backup_that_fails_is_told_and_stops_nothing(desk: Desk) -> None:
    directory = desk.gateway.state_dir / "session-backups"
    directory.parent.mkdir()
    directory.write_text("in the way")
    login = await desk.run("login", "--phone", PHONE, "--code", CODE)
    assert login.code == 0
    assert "in place but not backed up" in login.text
    await desk.gateway.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "session_backup_failed" not in desk.gateway.log():
            await asyncio.sleep(0.05)
    assert await metric(desk, "session_backup_timestamp_seconds") == 0
    assert await desk.gateway.stop() == 0
    (complaint,) = complaints(desk.gateway.log())
    assert str(directory) in str(complaint["reason"])


async def test_a_session_moves_as_a_string_and_as_a_file_and_stays_logged_in(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.gateway.login(PHONE, CODE)
    unasked = await desk.run("session", "export")
    unasked.assert_one_line(78, "--string", "--to")
    exported = await desk.run("session", "export", "--string")
    string, warning = exported.lines
    assert "owns the account" in warning
    volume = tmp_path / "anon.session"
    assert (await desk.run("session", "export", "--to", str(volume))).code == 0
    assert stat.S_IMODE(volume.stat().st_mode) == 0o600
    (await desk.run("session", "export", "--to", str(volume))).assert_one_line(78, "not overwritten")
    volume.chmod(0o644)  # as it lies in a container's volume

    in_the_open = await desk.run("session", "import", "--account", "moved", "--from", string)
    in_the_open.assert_one_line(78, "every user of this host")
    assert string[:40] not in in_the_open.text
    async with desk.terminal("session", "import", "--account", "typed") as terminal:
        await terminal.until("Session string")
        terminal.type(f"{string}\n")
        typed = await terminal.end()
    assert typed.code == 0, typed.text
    assert string[:40] not in typed.text, "it is not shown while it is typed"
    imported = await desk.run("session", "import", "--account", "volume", "--from", str(volume))
    assert imported.code == 0, imported.text
    assert "delete what it was imported from" in imported.text
    for account in ("typed", "volume"):
        checked = await desk.run("session", "check", "--account", account)
        assert checked.code == 0, checked.text
        assert len(backups(desk, account)) == 1

    await desk.gateway.login(SECOND_PHONE, CODE, account="second")
    other = await desk.run("session", "import", "--account", "second", "--from", str(volume))
    other.assert_one_line(78, "already has another session", "--force")
    forced = await desk.run("session", "import", "--account", "second", "--from", str(volume), "--force")
    assert forced.code == 0, forced.text
    assert "logged in as Operador" in (await desk.run("session", "check", "--account", "second")).text
    first = str(backups(desk, "second")[0])
    assert (await desk.run("session", "restore", "--account", "second", "--from", first)).code == 0
    assert "logged in as Colega" in (await desk.run("session", "check", "--account", "second")).text


async def test_an_encrypted_session_works_with_its_key_and_is_one_clear_line_without(desk: Desk) -> None:
    with_key = {"TELEGRAM_SESSION_KEY": KEY}
    await desk.gateway.login(PHONE, CODE)
    clear = desk.session_file().read_bytes()
    (await desk.run("session", "encrypt")).assert_one_line(78, "TELEGRAM_SESSION_KEY", "openssl rand")
    encrypted = await desk.run("session", "encrypt", environment=with_key)
    encrypted.assert_one_line(0, "1 backup(s)")
    assert clear[:16] not in b"".join(file.read_bytes() for file in (desk.session_file(), *backups(desk)))
    listed = await desk.run("session", "list", "--backups", environment=with_key)
    assert "encrypted" in listed.lines[0]
    assert "backup ok" in listed.lines[1]

    # One after the other: they share a journal.
    without = await desk.run("run")
    wrong = await desk.run("run", environment={"TELEGRAM_SESSION_KEY": KEY + "s"})
    doctor = await desk.run("doctor")
    for answer, words in ((without, "is not set"), (wrong, "is not the key")):
        assert answer.code == 78
        (complaint,) = complaints(answer.text)
        assert "TELEGRAM_SESSION_KEY" in str(complaint["reason"])
        assert words in str(complaint["reason"])
        assert KEY not in answer.text
    assert any(line.startswith("FAIL session main: ") for line in doctor.lines)

    running = Desk(desk.gateway.directory, desk.sandbox, {**NO_SINKS, **with_key})
    try:
        await running.gateway.start()
        await until_metric(running, "session_backup_timestamp_seconds")
        assert await running.gateway.stop() == 0
        assert KEY not in running.gateway.log()
    finally:
        await running.gateway.close()
    desk.session_file().unlink()
    assert (await desk.run("session", "restore", environment=with_key)).code == 0
    checked = await desk.run("session", "check", environment=with_key)
    assert checked.code == 0, checked.text


@pytest.mark.parametrize("error", FINAL)
async def test_what_telegram_refuses_for_good_ends_the_gateway_in_one_line_without_a_retry(
    desk: Desk, error: str
) -> None:
    def assert_final(log: str) -> None:
        (complaint,) = complaints(log)
        assert error in str(complaint["reason"])
        assert "login --account main" in str(complaint["reason"])
        assert complaint["exit_code"] == 78
        assert "connection_lost" not in log
        assert "connection_failed" not in log

    faults = desk.sandbox.faults
    await desk.gateway.login(PHONE, CODE)

    faults.fail_calls("*", FINAL[error], error)
    at_once = await desk.run("run")
    assert at_once.code == 78
    assert_final(at_once.text)

    faults.clear()
    await desk.gateway.start()
    faults.fail_calls("*", FINAL[error], error)
    faults.too_long(person(desk), times=0)  # a push that has it ask for the difference
    assert await desk.gateway.wait_exit() == 78
    assert_final(desk.gateway.log())


async def test_a_login_that_ends_while_dialogs_are_compared_ends_the_gateway(desk: Desk) -> None:
    await desk.gateway.login(PHONE, CODE)
    desk.sandbox.faults.fail_calls("GetDialogsRequest", 401, "SESSION_REVOKED")
    answer = await desk.run("run")
    assert answer.code == 78
    (complaint,) = complaints(answer.text)
    assert "SESSION_REVOKED" in str(complaint["reason"])


async def test_a_login_revoked_while_nothing_happens_is_noticed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.gateway.login(PHONE, CODE)
    monkeypatch.setattr("gateway.telegram.account.PROBE_SECONDS", 0.2)
    for name, value in desk.environment().items():
        monkeypatch.setenv(name, value)

    async def revoke() -> None:
        while not ((status := await desk.gateway.status()) and status["ready"]):
            await asyncio.sleep(0.05)
        desk.sandbox.faults.auth_key_unregistered(person(desk))

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(revoke())
        with pytest.raises(SessionDead, match="AUTH_KEY_UNREGISTERED"):
            await Daemon(load_settings(), Notifier.from_environment()).run()


async def test_a_dead_account_beside_a_living_one_shows_in_the_metrics(desk: Desk) -> None:
    both = Desk(desk.gateway.directory, desk.sandbox, {**NO_SINKS, "TELEGRAM_ACCOUNTS": "dead,living"})
    await both.gateway.login(PHONE, CODE, account="dead")
    await both.gateway.login(SECOND_PHONE, CODE, account="living")
    both.sandbox.faults.auth_key_duplicated(person(both))
    try:
        await both.gateway.start()
        assert await until_metric(both, "session_dead", "dead") == 1
        assert await metric(both, "session_dead", "living") == 0
        (complaint,) = complaints(both.gateway.log())
        assert complaint["account"] == "dead"
        assert "AUTH_KEY_DUPLICATED" in str(complaint["reason"])
    finally:
        await both.gateway.close()
