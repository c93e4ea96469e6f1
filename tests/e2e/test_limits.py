"""Where things end: room in the journal or on the disk, a failing disk, a silent line, a blocked broker.

The gateway says so, goes on by itself when it can, and has lost nothing.
"""

import asyncio
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from gateway.demo.comparison import Comparison, compare_database, compare_journal
from gateway.demo.process import POLL_SECONDS, GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import Scene, phone, populate
from gateway.sandbox.users import User
from tests.clock import Clock, ticking
from tests.e2e.conftest import Rig
from tests.e2e.desk import NO_SINKS, Desk

WATCHDOG_SECONDS = 3
# Longer than one batch may be on its way without a reason (gateway.telegram.account.STUCK_SECONDS).
HELD_UP_SECONDS = 35.0
NOTICED_SECONDS = 90.0
PATIENCE_SECONDS = 120.0
RATE = 150.0

# Stands in for a disk that fails, below the whole process: once the file exists, what the journal writes does
# not get there.
FAILING_DISK = """
import os, apsw

class Disk(apsw.VFS):
    def __init__(self):
        self.base = apsw.vfs_names()[0]
        super().__init__("failing_disk", self.base, makedefault=True)
    def xOpen(self, name, flags):
        return File(self.base, name, flags)

class File(apsw.VFSFile):
    def fail(self, what):
        if os.path.exists(os.environ["FAILING_DISK"]) and open(os.environ["FAILING_DISK"]).read() == what:
            raise apsw.exception_for(getattr(apsw, what))
    def xSync(self, flags):
        self.fail("SQLITE_IOERR_FSYNC")
        super().xSync(flags)
    def xWrite(self, data, offset):
        self.fail("SQLITE_IOERR_WRITE")
        super().xWrite(data, offset)

disk = Disk()
"""


class Systemd:
    """The service manager's side of the watchdog; it does not count what the machine itself stands still."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        name = f"gateway-test-{uuid.uuid4()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(f"\0{name}")
        self._signs: list[float] = []
        self.environment = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 1_000_000)}

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keeps reading, as a full socket would be nobody's sign of life."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._read_all)
        try:
            yield
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _read_all(self) -> None:
        with suppress(BlockingIOError):
            while sign := self._socket.recv(65536):
                if sign == b"WATCHDOG=1":
                    self._signs.append(self._clock.time())

    def longest_silence(self, seconds: float) -> float:
        """Between two signs of life in the last `seconds`."""
        self._read_all()
        now = self._clock.time()
        signs = [now - seconds, *(sign for sign in self._signs if sign > now - seconds), now]
        return max(after - before for before, after in pairwise(signs))


async def fetch(gateway: GatewayProcess, path: str) -> str:
    async with aiohttp.request("GET", f"http://127.0.0.1:{gateway.port}{path}") as answer:
        return await answer.text()


async def status_until(
    gateway: GatewayProcess, wanted: Callable[[dict[str, Any]], bool], within: float = PATIENCE_SECONDS
) -> dict[str, Any]:
    """The first status that is as wanted."""
    async with asyncio.timeout(within):
        while (status := await gateway.status()) is None or not wanted(status):
            await asyncio.sleep(POLL_SECONDS)
    return status


async def assert_full_and_alive(gateway: GatewayProcess, systemd: Systemd, seconds: float) -> None:
    """For as long, nothing is taken in, everybody who asks is told, and systemd has no reason to kill."""
    status = await status_until(gateway, lambda status: status["journal"]["full"])
    last = status["journal"]["last_seq"]
    assert last > 0
    assert "telegram_gateway_journal_full 1.0" in await fetch(gateway, "/metrics")
    assert '"degraded"' in await fetch(gateway, "/health")
    assert any("intake is paused" in problem for problem in status["problems"])
    assert gateway.log().count('"event": "journal_full"') == 1
    await asyncio.sleep(seconds)
    assert systemd.longest_silence(seconds) < WATCHDOG_SECONDS
    after = await status_until(gateway, lambda _: True)
    assert (after["journal"]["last_seq"], after["journal"]["full"]) == (last, True)
    assert after["accounts"][0]["state"] == "connected"


async def assert_complete(compare: Callable[[], Awaitable[Comparison]]) -> None:
    """In the end there is no difference between the ground truth and what `compare` looks at."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (result := await compare()).problems and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    assert result.expected > 100
    assert list(result.problems) == []


async def assert_journal_complete(gateway: GatewayProcess, sandbox: Sandbox, user: User, since: int) -> None:
    async def compare() -> Comparison:
        return compare_journal(gateway.journal_path, sandbox.truth(user, since))

    await assert_complete(compare)


@asynccontextmanager
async def world(directory: Path, *, accounts: int = 1) -> AsyncIterator[tuple[Sandbox, Scene]]:
    async with Sandbox(state_dir=directory / "sandbox") as sandbox:
        sandbox.world.replays_revisions = False
        yield sandbox, populate(sandbox.world, accounts=accounts)


@pytest_asyncio.fixture
async def systemd() -> AsyncIterator[Systemd]:
    async with ticking() as clock:
        manager = Systemd(clock)
        async with manager.watching():
            yield manager


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The state directory of the gateway in `tmp_path`, on a file system of its own.

    Without ballast it has room for minutes of traffic, so that a busy machine does not fill it by being slow.
    """
    place = tmp_path / "state"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_journal_at_its_limit_and_a_silent_line_are_noticed_and_mended_without_a_loss(
    stack: LocalStack, systemd: Systemd, tmp_path: Path
) -> None:
    """Both take their time, so they take it together: two gateways, each with an account of its own."""
    async with world(tmp_path, accounts=2) as (sandbox, scene):
        database = {name: value for name, value in stack.environment.items() if "_DB_" in name}
        full = Desk(
            tmp_path / "full",
            sandbox,
            {
                **NO_SINKS,
                **database,
                **systemd.environment,
                "TELEGRAM_ENABLE_DB": "true",
                "TELEGRAM_JOURNAL_MAX_BYTES": "1M",
            },
        ).gateway
        silent = Desk(tmp_path / "silent", sandbox).gateway
        await full.command("db", "migrate")
        connection = await asyncpg.connect(stack.postgres.dsn)
        await connection.execute("TRUNCATE telegram_gateway.messages, telegram_gateway.message_revisions")
        await connection.close()
        try:
            for number, gateway in enumerate((full, silent)):
                await gateway.login(phone(number))
                await gateway.start()
            since = sandbox.world.position
            await sandbox.traffic.start(RATE)
            async with asyncio.TaskGroup() as group:
                group.create_task(_journal_at_its_limit(full, systemd, stack))
                group.create_task(_silent_line(silent, sandbox, scene.accounts[1]))
            await sandbox.traffic.stop()
            await assert_complete(
                lambda: compare_database(stack.postgres.dsn, sandbox.truth(scene.accounts[0], since))
            )
            await assert_journal_complete(silent, sandbox, scene.accounts[1], since)
        finally:
            await full.close()
            await silent.close()


async def _journal_at_its_limit(gateway: GatewayProcess, systemd: Systemd, stack: LocalStack) -> None:
    await stack.pgbouncer.kill()
    try:
        await assert_full_and_alive(gateway, systemd, HELD_UP_SECONDS)
    finally:
        await stack.pgbouncer.start()
    await status_until(
        gateway, lambda status: not status["journal"]["full"] and not status["sinks"][0]["lag_events"]
    )
    assert '"event": "journal_has_room"' in gateway.log()


async def _silent_line(gateway: GatewayProcess, sandbox: Sandbox, user: User) -> None:
    (key,) = sandbox.accounts.keys_of(user)
    started = time.monotonic()
    sandbox.faults.stall(auth_key_id=key)
    lost = await status_until(gateway, lambda status: status["accounts"][0]["state"] != "connected", 90)
    # Only the old connection was silent: the next one finds Telegram as it ever was.
    sandbox.faults.release(key)
    await status_until(gateway, lambda status: status["accounts"][0]["state"] == "connected")
    seconds = time.monotonic() - started
    print(f"\nsilent line noticed and replaced after {seconds:.1f} s ({lost['accounts'][0]['reason']})")
    assert seconds < NOTICED_SECONDS
    assert '"event": "connection_lost"' in gateway.log()


async def test_a_full_disk_stops_the_intake_until_there_is_room_and_loses_nothing(
    systemd: Systemd, small_disk: Path, tmp_path: Path
) -> None:
    async with world(tmp_path) as (sandbox, scene):
        gateway = Desk(tmp_path, sandbox, NO_SINKS | systemd.environment).gateway
        try:
            await gateway.login(phone(0))
            await gateway.start()
            since = sandbox.world.position
            await sandbox.traffic.start(RATE)
            await status_until(gateway, lambda status: status["journal"]["last_seq"] > RATE)
            ballast = small_disk / "ballast"
            fill(ballast)
            await assert_full_and_alive(gateway, systemd, 2 * WATCHDOG_SECONDS)
            assert "the disk is full" in gateway.log()
            ballast.unlink()
            await status_until(gateway, lambda status: not status["journal"]["full"])
            # And once more, now met by a stop and a start.
            fill(ballast)
            await status_until(gateway, lambda status: status["journal"]["full"])
            assert await gateway.stop() == 0
            ballast.unlink()
            await gateway.start()
            await asyncio.sleep(0.5)
            await sandbox.traffic.stop()
            await assert_journal_complete(gateway, sandbox, scene.accounts[0], since)
        finally:
            await gateway.close()


@pytest.mark.parametrize("failure", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE"])
async def test_a_disk_that_fails_ends_the_process_and_the_next_one_misses_nothing(
    tmp_path: Path, failure: str
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "sitecustomize.py").write_text(FAILING_DISK)
    fails = tmp_path / "fails"
    environment = {"PYTHONPATH": f"{tmp_path / 'disk'}:{Path.cwd()}", "FAILING_DISK": str(fails)}
    async with world(tmp_path) as (sandbox, scene):
        gateway = Desk(tmp_path, sandbox, NO_SINKS | environment).gateway
        try:
            await gateway.login(phone(0))
            await gateway.start()
            since = sandbox.world.position
            await sandbox.traffic.start(RATE)
            await status_until(gateway, lambda status: status["journal"]["last_seq"] > RATE)
            fails.write_text(failure)
            assert await gateway.wait_exit() == 1
            assert "check the disk" in gateway.log()
            fails.unlink()
            await gateway.start()
            await sandbox.traffic.stop()
            await assert_journal_complete(gateway, sandbox, scene.accounts[0], since)
        finally:
            await gateway.close()


async def test_a_slow_consumer_and_a_blocked_broker_hold_up_nobody_else(rig: Rig) -> None:
    def lags(status: dict[str, Any]) -> dict[str, int]:
        return {sink["name"]: sink["lag_events"] for sink in status["sinks"]}

    def held_up_alone(status: dict[str, Any]) -> bool:
        waiting = lags(status)
        held_up = waiting.pop("rabbitmq")
        return held_up > 3 * RATE and max(waiting.values()) < held_up / 2

    rabbitmq = rig.stack.rabbitmq
    async with await aio_pika.connect(rabbitmq.url) as broker:
        channel = await broker.channel()
        await channel.set_qos(prefetch_count=1)
        slow = await channel.declare_queue(
            "telegram.consumer.slow", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await slow.bind("telegram.messages", "telegram.channel.#")
        taken: list[object] = []

        async def take(message: object) -> None:
            taken.append(message)  # and never says that it is done with it

        await slow.consume(take)
        try:
            await rig.sandbox.traffic.start(RATE)
            await status_until(rig.gateway, lambda status: status["journal"]["last_seq"] > 4 * RATE)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not taken:
                    await asyncio.sleep(POLL_SECONDS)
            await status_until(rig.gateway, lambda status: max(lags(status).values()) <= RATE / 10)
            assert len(taken) == 1

            await rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1000")
            try:
                status = await status_until(
                    rig.gateway,
                    lambda status: any("blocks publishers" in problem for problem in status["problems"]),
                )
                assert [sink["name"] for sink in status["sinks"] if not sink["up"]] == ["rabbitmq"]
                assert "telegram_gateway_rabbitmq_connection_blocked 1.0" in await fetch(
                    rig.gateway, "/metrics"
                )
                assert '"degraded"' in await fetch(rig.gateway, "/health")
                await asyncio.sleep(4)
                await status_until(rig.gateway, held_up_alone)
            finally:
                await rabbitmq.control("set_vm_memory_high_watermark", "absolute", "768MB")
            # With traffic, all is delivered at some moments only, and on a busy machine perhaps at none.
            await status_until(rig.gateway, lambda status: lags(status)["rabbitmq"] < RATE)
            await rig.sandbox.traffic.stop()
            await rig.gateway.wait_delivered(sinks=3)
            assert "telegram_gateway_rabbitmq_connection_blocked 0.0" in await fetch(rig.gateway, "/metrics")
            await rig.assert_everything_arrived()
        finally:
            await slow.delete(if_unused=False, if_empty=False)


def fill(ballast: Path) -> None:
    """Takes all the room there is."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
