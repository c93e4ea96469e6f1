"""What systemd hears from the daemon, read from a real notification socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from gateway.systemd import Notifier, Watchdog

INTERVAL = 0.06  # seconds; systemd's own is 30


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(60)
        yield receiver


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with manager(str(tmp_path / "notify")) as receiver:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(INTERVAL * 1e6)))
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    """Everything that has arrived, without waiting."""
    receiver.setblocking(False)
    messages = []
    while True:
        try:
            messages.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_ready_status_and_stopping_reach_systemd(systemd: socket.socket) -> None:
    notifier = Notifier.from_environment()
    notifier.ready("main connected")
    notifier.status("redis sink is down")
    notifier.stopping("draining")
    assert heard(systemd) == [
        "READY=1\nSTATUS=main connected",
        "STATUS=redis sink is down",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_a_status_cannot_smuggle_in_another_assignment(systemd: socket.socket) -> None:
    Notifier.from_environment().status("a chat called\nSTOPPING=1")
    assert heard(systemd) == ["STATUS=a chat called STOPPING=1"]


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"telegram-gateway-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with manager(f"\0{name}") as receiver:
        Notifier.from_environment().watchdog()
        assert receiver.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("variable", ["NOTIFY_SOCKET", "WATCHDOG_USEC"])
async def test_without_systemd_or_its_watchdog_nothing_is_fed(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable)
    notifier = Notifier.from_environment()
    assert notifier.watchdog_seconds is None
    await asyncio.wait_for(Watchdog(notifier).run(), timeout=60)
    assert heard(systemd) == []


def test_a_watchdog_meant_for_another_process_is_left_alone(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert Notifier.from_environment().watchdog_seconds is None


def test_a_vanished_systemd_is_logged_and_survived(systemd: socket.socket) -> None:
    notifier = Notifier.from_environment()
    systemd.close()
    with capture_logs() as logs:
        notifier.ready("main connected")
    assert [entry["event"] for entry in logs] == ["systemd_notify_failed"]


async def test_the_watchdog_is_fed_while_every_part_moves_and_starves_when_one_stalls(
    systemd: socket.socket,
) -> None:
    loop = asyncio.get_running_loop()
    notifier = Notifier.from_environment()
    watchdog = Watchdog(notifier)
    journal = watchdog.heartbeat("journal")
    stalled = asyncio.Event()
    watchdog.probe("intake", lambda: not stalled.is_set())
    systemd.setblocking(False)

    async def next_feed() -> bytes:
        async with asyncio.timeout(60):
            return await loop.sock_recv(systemd, 4096)

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(watchdog.run())
            for _ in range(3):
                journal.beat()
                assert await next_feed() == b"WATCHDOG=1"

            stalled.set()
            journal.beat()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(systemd, 4096), timeout=2 * INTERVAL)
            assert [(entry["event"], entry["parts"]) for entry in logs] == [("watchdog_stalled", ["intake"])]

            stalled.clear()
            assert await next_feed() == b"WATCHDOG=1"
            feeding.cancel()
    assert [entry["event"] for entry in logs] == ["watchdog_stalled", "watchdog_resumed"]


async def test_a_part_that_only_beats_now_and_then_names_itself_before_the_kill(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        """By a clock on which nothing else takes time."""
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    monkeypatch.setattr("gateway.systemd.asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr("gateway.systemd.time", SimpleNamespace(monotonic=lambda: now))
    watchdog = Watchdog(Notifier.from_environment())
    watchdog.heartbeat("journal")
    watchdog.probe("intake", lambda: True)
    with capture_logs() as logs, pytest.raises(TimeoutError):
        await asyncio.wait_for(watchdog.run(), timeout=INTERVAL)
    assert heard(systemd) == []
    assert logs[0]["parts"] == ["journal"]
    assert logs[0]["seconds_since_feed"] < logs[0]["watchdog_seconds"]
