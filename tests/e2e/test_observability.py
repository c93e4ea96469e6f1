"""What watches the gateway: health, status, doctor, metrics and logs, beside all three servers."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import msgspec
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from gateway.demo.comparison import compare_journal
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import Scene, phone, populate
from tests.e2e.desk import API_HASH, NO_SINKS, Answer, Desk

PHONE = phone(0)
CODE = "54321"
PASSWORD = "senha-de-duas-etapas"
PATIENCE_SECONDS = 90.0
EXAMINATIONS = 3  # a server that a busy machine lets answer too late is told as one that does not answer
SINKS = ("timescaledb", "redis", "rabbitmq")

# CONTRACT's list, each name with the labels a dashboard asks by.
METRICS: dict[str, tuple[dict[str, str], ...]] = {
    "build_info": ({},),
    "events_received_total": ({"account": "main", "kind": "message.new", "source": "mtproto"},),
    "events_journaled_total": (
        {"kind": "message.new"},
        {"kind": "message.edited"},
        {"kind": "message.deleted"},
    ),
    "journal_rows": ({},),
    "journal_bytes": ({},),
    "journal_limit_bytes": ({},),
    "journal_commit_seconds_count": ({},),
    "sink_up": tuple({"sink": sink} for sink in SINKS),
    "sink_delivered_total": tuple({"sink": sink} for sink in SINKS),
    "sink_errors_total": ({"sink": "redis"},),
    "sink_batch_seconds_count": tuple({"sink": sink} for sink in SINKS),
    "sink_end_to_end_seconds_bucket": tuple({"sink": sink, "le": "+Inf"} for sink in SINKS),
    "connection_up": ({"account": "main"},),
    "lease_held": ({"account": "main"},),
    "lease_epoch": ({"account": "main"},),
    "lease_position_timestamp_seconds": ({"account": "main"},),
    "channels_tracked": ({"account": "main"},),
    "reconnects_total": ({"account": "main"},),
    "rpc_errors_total": ({"account": "main", "code": "420"}, {"account": "main", "code": "500"}),
    "flood_wait_seconds_total": ({"account": "main"},),
    "event_loop_lag_seconds_count": ({},),
}
# Exported from the start, whatever their value.
PRESENT = {
    "sink_lag_events": tuple({"sink": sink} for sink in SINKS),
    "sink_oldest_undelivered_timestamp_seconds": tuple({"sink": sink} for sink in SINKS),
    "sink_quarantined_total": tuple({"sink": sink} for sink in SINKS),
    "quarantined": tuple({"sink": sink} for sink in SINKS),
    "open_gaps": ({"account": "main"},),
    "journal_full": ({},),
    "session_dead": ({"account": "main"},),
    "session_backup_timestamp_seconds": ({"account": "main"},),
}


class Watched(Desk):
    """A gateway with all sinks that has been through a few things."""

    scene: Scene
    login: Answer

    def http(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(f"http://127.0.0.1:{self.gateway.port}")

    async def until(self, path: str, **wanted: object) -> dict[str, object]:
        """The first answer of `path` that says what is wanted."""
        async with self.http() as http, asyncio.timeout(PATIENCE_SECONDS):
            while True:
                async with http.get(path) as answer:
                    body = msgspec.json.decode(await answer.read(), type=dict[str, object])
                if all(body[key] == value for key, value in wanted.items()):
                    return {**body, "http": answer.status}
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module")
async def watched(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """Logged in with code and password, with traffic of every kind, faults and an outage behind it."""
    directory = tmp_path_factory.mktemp("watched")
    async with Sandbox(state_dir=directory / "sandbox") as sandbox:
        settings = {**stack.environment, "TELEGRAM_LOG_LEVEL": "DEBUG"}
        desk = Watched(directory, sandbox, settings)
        desk.scene = populate(sandbox.world)
        sandbox.world.default_code = CODE
        desk.scene.accounts[0].password = PASSWORD
        assert (await desk.run("db", "migrate")).code == 0
        desk.login = await desk.run("login", "--phone", PHONE, "--code", CODE, "--password", PASSWORD)
        assert desk.login.code == 0, desk.login.text
        try:
            await desk.gateway.start()
            await live(desk, stack)
            yield desk
        finally:
            await desk.gateway.close()


async def live(desk: Watched, stack: LocalStack) -> None:
    """Traffic, error answers, a flood wait, a lost connection, and an outage of the cache."""
    faults = desk.sandbox.faults
    before = desk.sandbox.world.position
    await desk.sandbox.traffic.run(400, count=400)
    faults.fail_calls("GetDialogsRequest", 420, "FLOOD_WAIT_1", times=1)
    faults.fail_calls("GetDifferenceRequest", 500, "INTERNAL", times=1)
    desk.sandbox.drop_connections()
    await stack.redis.kill()
    try:
        await desk.sandbox.traffic.run(200, count=100)
        async with asyncio.timeout(PATIENCE_SECONDS):
            # The lost connection may be told of first.
            while "sink redis is down" not in str((await desk.until("/health"))["problems"]):
                await asyncio.sleep(0.05)
        assert (await desk.until("/health", status="degraded"))["http"] == 200
    finally:
        await stack.redis.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not {"420", "500"} <= await rpc_errors(desk):
            await asyncio.sleep(0.05)
        # What was posted while the connection was down comes chat by chat.
        truth = desk.sandbox.truth(desk.scene.accounts[0], before)
        while compare_journal(desk.gateway.journal_path, truth).problems:
            await asyncio.sleep(0.05)
    await desk.gateway.wait_delivered(sinks=3)
    await desk.until("/health", status="healthy")


async def samples(desk: Watched) -> list[tuple[str, dict[str, str], float]]:
    async with desk.http() as http, http.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        text = await answer.text()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


async def rpc_errors(desk: Watched) -> set[str]:
    """The codes of Telegram's error answers so far."""
    return {
        labels["code"]
        for name, labels, value in await samples(desk)
        if name == "telegram_gateway_rpc_errors_total" and value
    }


async def test_every_metric_of_the_contract_has_data_after_traffic(watched: Watched) -> None:
    found = await samples(watched)

    def values(name: str, labels: dict[str, str]) -> list[float]:
        return [
            value
            for sample, its, value in found
            if sample == f"telegram_gateway_{name}" and labels.items() <= its.items()
        ]

    silent = [
        (name, labels)
        for name, wanted in METRICS.items()
        for labels in wanted
        if not any(values(name, labels))
    ]
    absent = [
        (name, labels) for name, wanted in PRESENT.items() for labels in wanted if not values(name, labels)
    ]
    assert not silent
    assert not absent


async def test_no_metric_names_a_chat_and_every_one_has_the_prefix(watched: Watched) -> None:
    found = await samples(watched)
    chats = {chat.ref.lstrip("-") for chat in watched.sandbox.world.chats.values()}
    assert chats
    assert not [labels for _, labels, _ in found if chats & {value.lstrip("-") for value in labels.values()}]
    assert not [name for name, _, _ in found if not name.startswith("telegram_gateway_")]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is part of Debian's prometheus package"
)
async def test_promtool_finds_nothing_wrong_with_the_metrics(watched: Watched) -> None:
    async with watched.http() as http, http.get("/metrics") as answer:
        text = await answer.read()
    promtool = await asyncio.create_subprocess_exec(
        "promtool",
        "check",
        "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await promtool.communicate(text)
    assert promtool.returncode == 0, said.decode()


async def test_healthy_ready_and_status_agree(watched: Watched) -> None:
    async with watched.http() as http:
        async with http.get("/health") as health:
            assert (health.status, await health.json()) == (200, {"status": "healthy", "problems": []})
        async with http.get("/ready") as ready:
            assert (ready.status, await ready.json()) == (200, {"ready": True})
    status = await watched.run("status", "--json")
    assert status.code == 0
    body = msgspec.json.decode(status.text)
    assert body["running"] is True
    assert body["accounts"][0]["state"] == "connected"
    assert body["accounts"][0]["reconnects"] >= 1
    assert [(sink["name"], sink["up"], sink["lag_events"]) for sink in body["sinks"]] == [
        (name, True, 0) for name in SINKS
    ]
    assert {sink["cursor"] for sink in body["sinks"]} == {body["journal"]["last_seq"]}
    shown = await watched.run("status")
    assert shown.code == 0
    assert shown.lines[0].startswith("account main: connected, ")
    assert f"journal: {body['journal']['rows']} events" in shown.text
    for sink in SINKS:
        assert f"sink {sink}: up, at event {body['journal']['last_seq']}, nothing waits" in shown.text


async def test_doctor_finds_nothing_wrong_with_the_whole_stack(watched: Watched) -> None:
    for _ in range(EXAMINATIONS):
        answer = await watched.run("doctor")
        if answer.code == 0:
            break
    assert answer.code == 0, answer.text
    assert all(line.startswith("ok ") for line in answer.lines), answer.text
    for check in (
        "configuration",
        "session main",
        "state directory",
        "journal",
        "telegram",
        "database",
        "redis",
        "rabbitmq",
    ):
        assert f" {check}: " in answer.text
    for sink in SINKS:
        assert f"sink {sink}: " in answer.text


# What is broken: (settings, the check that must fail, words of its advice).
NOWHERE = "127.0.0.1:1"
BROKEN: dict[str, tuple[dict[str, str], str, str]] = {
    "application": ({"TELEGRAM_API_HASH": ""}, "configuration", "my.telegram.org"),
    "session": ({"TELEGRAM_ACCOUNTS": "main,other"}, "session other", "login --account other"),
    "state": ({"TELEGRAM_STATE_DIR": "/nonexistent"}, "state directory", "create it"),
    "telegram": ({"TELEGRAM_SERVER": NOWHERE}, "telegram", "cannot reach 127.0.0.1:1"),
    "pooler": (
        {"TELEGRAM_DB_DSN": f"postgresql://telegram:hunter2@{NOWHERE}/telegram_gateway"},
        "sink timescaledb",
        "TELEGRAM_DB_DSN",
    ),
    "database": (
        {"TELEGRAM_DB_DIRECT_DSN": f"postgresql://telegram:hunter2@{NOWHERE}/x"},
        "database",
        "TELEGRAM_DB_DIRECT_DSN",
    ),
    "cache": ({"TELEGRAM_REDIS_URL": f"redis://:hunter2@{NOWHERE}/0"}, "redis", "TELEGRAM_REDIS_URL"),
    "sentinels": ({"TELEGRAM_REDIS_SENTINELS": NOWHERE}, "redis", "TELEGRAM_REDIS_SENTINELS"),
    "broker": (
        {"TELEGRAM_RABBITMQ_URL": f"amqp://telegram:hunter2@{NOWHERE}/telegram"},
        "rabbitmq",
        "TELEGRAM_RABBITMQ_URL",
    ),
}


async def test_doctor_names_each_broken_thing_with_what_to_do(watched: Watched, stack: LocalStack) -> None:
    other = urlsplit(stack.environment["TELEGRAM_DB_DIRECT_DSN"])._replace(path="/postgres").geturl()
    broker = urlsplit(stack.environment["TELEGRAM_RABBITMQ_URL"])
    stranger = broker._replace(netloc=f"nobody:hunter2@{broker.hostname}:{broker.port}").geturl()
    broken = {
        **BROKEN,
        "other database": ({"TELEGRAM_DB_DSN": other}, "sink timescaledb", "TELEGRAM_DB_DSN"),
        "login": ({"TELEGRAM_RABBITMQ_URL": stranger}, "rabbitmq", "TELEGRAM_RABBITMQ_URL"),
    }
    two_at_a_time = asyncio.Semaphore(2)

    async def examine(changes: dict[str, str]) -> Answer:
        async with two_at_a_time:
            return await watched.run("doctor", environment=changes)

    unclear = dict.fromkeys(broken, "")
    for _ in range(EXAMINATIONS):
        asked = {case: broken[case] for case in unclear}
        answers = await asyncio.gather(*(examine(changes) for changes, _, _ in asked.values()))
        unclear = {}
        for (case, (_, check, advice)), answer in zip(asked.items(), answers, strict=True):
            failed = [line for line in answer.lines if line.startswith("FAIL ")]
            assert "hunter2" not in answer.text
            if (
                answer.code != 78
                or not any(line.startswith(f"FAIL {check}: ") and advice in line for line in failed)
                or len(failed) > 2
                or len(failed) + sum(line.startswith("ok ") for line in answer.lines) != len(answer.lines)
            ):
                unclear[case] = answer.text
    assert not unclear, "\n".join(unclear.values())


async def test_doctor_tells_a_schema_of_another_version(watched: Watched, stack: LocalStack) -> None:
    connection = await asyncpg.connect(stack.postgres.dsn)
    try:
        await connection.execute("UPDATE telegram_gateway.schema_migrations SET version = version + 9000")
        answer = await watched.run("doctor", environment={**NO_SINKS, "TELEGRAM_ENABLE_DB": "true"})
    finally:
        await connection.execute(
            "UPDATE telegram_gateway.schema_migrations SET version = version - 9000 WHERE version > 9000"
        )
        await connection.close()
    assert answer.code == 78
    (failed,) = [line for line in answer.lines if line.startswith("FAIL")]
    assert failed.startswith("FAIL sink timescaledb: the database is at schema version 90")


async def test_doctor_without_servers_checks_what_is_switched_on(watched: Watched) -> None:
    for _ in range(EXAMINATIONS):
        answer = await watched.run("doctor", environment=NO_SINKS)
        if answer.code == 0:
            break
    assert answer.code == 0, answer.text
    assert "redis" not in answer.text


async def test_neither_logs_nor_commands_ever_show_a_message_or_a_secret(
    watched: Watched, stack: LocalStack
) -> None:
    log = watched.gateway.log() + watched.login.text
    assert "connection_lost" in log
    assert "sink_down" in log
    texts = {event.text or event.caption or "" for event in watched.sandbox.truth(watched.scene.accounts[0])}
    posted = {text for text in texts if len(text) > 8}
    assert len(posted) > 100
    assert not [text for text in posted if text in log or msgspec.json.encode(text).decode()[1:-1] in log]
    stored = await watched.run("session", "list")
    assert stored.code == 0
    for secret in (PHONE.lstrip("+"), PASSWORD, API_HASH, *vars(stack.passwords).values()):
        assert secret not in log
        assert secret not in stored.text
    assert f'"{CODE}"' not in log
    assert not key_parts(watched.session_file()) & set(log.lower().split('"'))


def key_parts(session: Path) -> set[str]:
    connection = sqlite3.connect(session)
    try:
        (key,) = connection.execute("SELECT auth_key FROM sessions").fetchone()
    finally:
        connection.close()
    return {bytes(key).hex(), str(bytes(key))}


async def test_a_stopped_daemon_is_told_from_a_running_one(watched: Watched) -> None:
    """The last test: it stops the daemon."""
    last = (await watched.until("/status"))["journal"]
    assert await watched.gateway.stop() == 0
    as_json = await watched.run("status", "--json")
    shown = await watched.run("status")
    assert (as_json.code, shown.code) == (3, 3)
    body = msgspec.json.decode(as_json.text)
    assert body["running"] is False
    assert body["journal"]["last_seq"] == last["last_seq"]  # type: ignore[index]
    assert {sink["name"]: sink["lag_events"] for sink in body["sinks"]} == dict.fromkeys(SINKS, 0)
    assert f"! no daemon answers at 127.0.0.1:{watched.gateway.port}" in shown.text
    assert "Traceback" not in watched.gateway.log()
