"""TP Capital's worker behind a real gateway: every signal is in its table once, every failure explained."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aio_pika
import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from gateway.demo.expected import Key, expectations
from gateway.localstack.site import FreePorts
from gateway.sandbox.signals import remark
from gateway.tp_capital.parser import Reason, Signal, parse
from gateway.tp_capital.settings import CONSUMER
from tests.e2e.conftest import Rig

QUEUE = f"telegram.consumer.{CONSUMER}"
DEAD_LETTERS = "telegram.messages.dlq"
PATIENCE_SECONDS = 120.0
KILLS = 5
POLL_SECONDS = 0.1
MODES = ("polling", "queue", "hybrid")


class WorkerProcess:
    """`telegram-gateway tp-capital run` in one mode; it logs to `directory`/worker.log."""

    def __init__(self, directory: Path, environment: dict[str, str], mode: str) -> None:
        self._ports = FreePorts()  # kept: the port is this process's also while it is down
        self.port = self._ports.take()
        self.log_file = directory / "worker.log"
        self._environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("TELEGRAM_", "TP_"))
            },
            **environment,
            "TP_CAPITAL_MODE": mode,
            "TP_CAPITAL_METRICS_ADDR": f"127.0.0.1:{self.port}",
            "TP_CAPITAL_POLL_INTERVAL": "200ms",
            "TP_CAPITAL_CATCH_UP_INTERVAL": "2s",
            "TP_CAPITAL_FIRST_DELAY": "50ms",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts the process, without waiting for it."""
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "tp-capital", "run"),
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def end(self, number: signal.Signals) -> int:
        """Sends it a signal; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._process.wait()

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.end(signal.SIGKILL)

    async def get(self, path: str) -> tuple[int, str]:
        """What its HTTP port says; status 0 while nobody answers."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http,
                http.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""


class Bench:
    """The worker, somebody who posts, and what the worker's table should say in the end."""

    def __init__(
        self, rig: Rig, worker: WorkerProcess, database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        self.rig = rig
        self.worker = worker
        self.database = database
        self._chance = Random(5)
        self._cents = 0

    def signal(self) -> str:
        """One that no other message says."""
        self._cents += 1
        low, high, stop = (f"{price},{self._cents % 100:02}" for price in (1_000 + self._cents, 3_000, 900))
        return self._chance.choice(
            [
                f"ATIVO: PETR4\nCOMPRA: {low} A {high}\nALVO 1: 3.100,50\nALVO FINAL: 3.200\nSTOP: {stop}",
                f"🚨 *Ativo:* VALE3 — Compra de R$ {low} até R$ {high} 🎯 alvo 1: 3500 🛑 stop: {stop}",
                f"COMPRA KLBNK177: {low} ALVO 1 3.100 STOP {stop}",
            ]
        )

    def failure(self) -> str:
        """One that somebody meant as a signal."""
        self._cents += 1
        return self._chance.choice(
            [
                f"COMPRA: {self._cents},10 A {self._cents},20 STOP {self._cents},00",
                f"ATIVO: PETR4\nCOMPRA: {self._cents},1,0",
                f"ATIVO: PETR4\nCOMPRA: {self._cents}\nSTOP: {self._cents + 1}",
            ]
        )

    def post(self, count: int) -> None:
        """Signals, talk and failures, as text, captions and in a group whose ids count per account."""
        world = self.rig.sandbox.world
        channel, group = self.rig.scene.chats[0], self.rig.scene.chats[5]
        friend = list(group.members.values())[1]
        for number in range(count):
            kind = self._chance.random()
            words = self.signal() if kind < 0.6 else self.failure() if kind < 0.8 else remark(self._chance)
            if number % 10 == 3:
                world.post(group, words, sender=friend)
            else:
                world.post(channel, words, media="photo" if number % 10 == 7 else None)

    async def stored(self) -> dict[Key, Signal]:
        """The table."""
        rows = await self.database.fetch("SELECT * FROM tp_capital.active_signals")
        return {
            (row["account_scope"], row["channel_id"], row["message_id"]): Signal(
                row["ticker"], row["buy_min"], row["buy_max"], tuple(row["targets"]), row["stop"]
            )
            for row in rows
        }

    def expected(self) -> dict[Key, Signal]:
        """What the world's messages say, as they are now."""
        truth = self.rig.sandbox.truth(self.rig.scene.accounts[0], self.rig.since)
        said = {
            key: parse(message.words)
            for key, message in expectations(truth).items()
            if message.posted and not message.deleted
        }
        return {key: each for key, each in said.items() if isinstance(each, Signal)}

    async def assert_all_is_stored(self) -> None:
        """Waits for every signal to be in the table, and for nothing else to be there."""
        await until(self._same)
        assert await self.stored() == self.expected(), self.worker.log_file.read_text()[-4000:]

    async def _same(self) -> bool:
        return await self.stored() == self.expected()

    async def assert_all_is_explained(self) -> None:
        """Every message that was never changed is published, ignored or failed, with the parser's reason."""
        truth = self.rig.sandbox.truth(self.rig.scene.accounts[0], self.rig.since)
        wanted = {
            key: parse(message.words)
            for key, message in expectations(truth).items()
            if len(message.events) == 1 and message.posted
        }
        states: dict[Key, tuple[str, str]] = {}

        async def all_done() -> bool:
            states.update(await self.processing())
            return all(states.get(key, ("", ""))[0] in ("published", "ignored", "failed") for key in wanted)

        await until(all_done)
        for key, said in wanted.items():
            status, error = states.get(key, ("nothing", ""))
            if isinstance(said, Signal):
                assert status == "published", key
            else:
                assert status == ("failed" if said.is_failure else "ignored"), key
                assert error.startswith(f"{said}: "), key

    async def processing(self) -> dict[Key, tuple[str, str]]:
        rows = await self.database.fetch(
            "SELECT * FROM telegram_gateway.message_processing WHERE consumer = $1", CONSUMER
        )
        return {
            (row["account_scope"], row["channel_id"], row["message_id"]): (row["status"], row["error"] or "")
            for row in rows
        }

    async def is_healthy(self) -> bool:
        status, health = await self.worker.get("/health")
        return status == 200 and json.loads(health) == {"status": "healthy", "problems": []}

    async def dead_letters(self) -> Sequence[dict[str, Any]]:
        """As `dlq list --json` shows them."""
        listed = await self.rig.gateway.command(
            "dlq", "list", "--consumer", CONSUMER, "--json", "--limit", "500"
        )
        return [json.loads(line) for line in listed.splitlines()]


async def until(holds: Callable[[], Any]) -> None:
    """Returns once `holds` says so, or patience has run out: the assertion that follows tells what lacks."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await holds() and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)


@pytest_asyncio.fixture
async def database(rig: Rig) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Empty of all that the worker ever wrote; so is its queue, and that of the dead letters."""
    connection = await asyncpg.connect(rig.stack.postgres.dsn)
    await connection.execute(
        "TRUNCATE tp_capital.signals, telegram_gateway.message_processing, "
        "telegram_gateway.revision_processing, telegram_gateway.consumer_marks"
    )
    async with await aio_pika.connect(rig.stack.environment["TELEGRAM_RABBITMQ_URL"]) as broker:
        channel = await broker.channel()
        await channel.queue_delete(QUEUE)
        await (await channel.get_queue(DEAD_LETTERS)).purge()
    yield connection
    await connection.close()


@asynccontextmanager
async def working(
    rig: Rig, database: "asyncpg.Connection[asyncpg.Record]", directory: Path, mode: str
) -> AsyncIterator[Bench]:
    """A worker that is ready."""
    worker = WorkerProcess(directory, rig.stack.environment, mode)
    await worker.start()
    try:
        await until(lambda: answers(worker, "/ready"))
        assert await answers(worker, "/ready"), worker.log_file.read_text()
        yield Bench(rig, worker, database)
    finally:
        await worker.close()


async def answers(worker: WorkerProcess, path: str) -> bool:
    status, _ = await worker.get(path)
    return status == 200


@pytest.mark.parametrize("mode", MODES)
async def test_every_signal_is_stored_once_whatever_is_killed_or_stopped(
    rig: Rig, database: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path, mode: str
) -> None:
    world, channel = rig.sandbox.world, rig.scene.chats[0]
    async with working(rig, database, tmp_path, mode) as bench:
        for _ in range(KILLS):
            enough = len(bench.expected()) + 5
            bench.post(80)

            async def some_are_stored(enough: int = enough) -> bool:
                return len(await bench.stored()) >= enough

            await until(some_are_stored)
            await bench.worker.end(signal.SIGKILL)
            in_the_middle = len(await bench.stored()) < len(bench.expected())
            await bench.worker.start()
            if in_the_middle:
                break
            await bench.assert_all_is_stored()
        assert in_the_middle, "it was killed too late to mean anything"
        await bench.assert_all_is_stored()

        changed, mended, spoilt, deleted = (world.post(channel, bench.signal()) for _ in range(4))
        await bench.assert_all_is_stored()
        world.edit(channel, changed, bench.signal())
        world.edit(channel, mended, bench.failure())
        world.edit(channel, mended, bench.signal())
        world.edit(channel, spoilt, "desconsiderem")
        world.delete(channel, deleted)
        await bench.assert_all_is_stored()

        for server in (rig.stack.redis, rig.stack.rabbitmq):
            await server.kill()
            try:
                bench.post(15)
                if not (mode == "queue" and server is rig.stack.rabbitmq):
                    await bench.assert_all_is_stored()
            finally:
                await server.start()
            bench.post(5)
            await bench.assert_all_is_stored()
        await bench.assert_all_is_explained()

        await until(bench.is_healthy)
        assert await bench.is_healthy(), await bench.worker.get("/health")
        _, metrics = await bench.worker.get("/metrics")
        for name in (
            "polling_lag_seconds_count",
            "cache_hits_total",
            "cache_misses_total",
            "fallbacks_total",
        ):
            assert f"\ntp_capital_{name} " in metrics
        assert 'tp_capital_signals_total{outcome="stored",reason=""}' in metrics
        assert await bench.worker.end(signal.SIGTERM) == 0


async def test_poison_is_parked_with_its_reason_and_requeued_by_hand_it_is_processed(
    rig: Rig, database: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    world, channel = rig.sandbox.world, rig.scene.chats[0]
    async with working(rig, database, tmp_path, "queue") as bench:
        # A table that refuses one ticker is what makes a handler fail, attempt after attempt.
        await database.execute(
            "ALTER TABLE tp_capital.signals ADD CONSTRAINT no_mglu CHECK (ticker <> 'MGLU3')"
        )
        try:
            world.post(channel, bench.signal())
            poison = world.post(channel, "ATIVO: MGLU3\nCOMPRA: 9,50\nSTOP: 9,00")
            unreadable = world.post(channel, "ATIVO: PETR4\nCOMPRA: 25,5,0")
            async with await aio_pika.connect(rig.stack.environment["TELEGRAM_RABBITMQ_URL"]) as broker:
                exchange = (await broker.channel()).default_exchange
                await exchange.publish(aio_pika.Message(b"{not an event"), QUEUE)
            world.post(channel, bench.signal())

            async def three_letters() -> bool:
                return len(await bench.dead_letters()) == 3

            await until(three_letters)
            reasons = {letter["telegram_message_id"]: letter for letter in await bench.dead_letters()}
        finally:
            await database.execute("ALTER TABLE tp_capital.signals DROP CONSTRAINT no_mglu")

        assert "no_mglu" in reasons[poison.id]["reason"]
        assert reasons[poison.id]["attempts"] == 3
        assert reasons[unreadable.id]["reason"].startswith(Reason.INVALID_PRICE)
        assert "no event" in reasons[None]["reason"]
        key = (0, str(channel.marked_id_for(rig.scene.accounts[0])), poison.id)
        assert (await bench.processing())[key][0] == "failed"
        expected = bench.expected()
        poisoned = expected.pop(key)
        assert await bench.stored() == expected

        told = await rig.gateway.command("dlq", "requeue", "--consumer", CONSUMER, "--yes")
        assert "3 requeued" in told
        await bench.assert_all_is_stored()
        assert (await bench.stored())[key] == poisoned
        assert (await bench.processing())[key][0] == "published"

        # What nobody can read is back where it was, with the same reason.
        async def two_letters() -> bool:
            return len(await bench.dead_letters()) == 2

        await until(two_letters)
        assert {letter["telegram_message_id"] for letter in await bench.dead_letters()} == {
            unreadable.id,
            None,
        }
