"""A request that Telegram never answers, on a line that otherwise works."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.journal import Journal
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import phone, populate
from gateway.telegram import requests
from gateway.telegram.account import Account
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import SessionDirectory
from tests.clock import ticking
from tests.e2e.desk import API_HASH, Desk

PATIENCE_SECONDS = 90.0
HELD_UP_SECONDS = 20.0


@pytest_asyncio.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as running:
        yield running


async def _at_once() -> None:
    return


@pytest.mark.parametrize(
    ("method", "kind"), [("GetChannelDifferenceRequest", "channel"), ("GetDifferenceRequest", "private")]
)
async def test_an_answer_that_never_comes_holds_up_nothing_for_long(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    monkeypatch.setattr(requests, "ANSWER_SECONDS", 1.0)
    chat = next(chat for chat in populate(sandbox.world).chats if chat.kind == kind)
    desk = Desk(tmp_path, sandbox)
    await desk.gateway.login(phone(0))
    async with Journal(tmp_path / "journal.db") as journal:
        account = Account(
            "main",
            SessionDirectory(desk.gateway.session_dir),
            journal,
            api_id=1,
            api_hash=API_HASH,
            server=ServerAddress(sandbox.host, sandbox.port, 2),
            room=_at_once,
        )
        async with asyncio.timeout(PATIENCE_SECONDS), ticking() as clock, asyncio.TaskGroup() as group:
            running = group.create_task(account.run())
            await account.ready.wait()
            sandbox.faults.lose_answers(method, times=1)
            sandbox.faults.fault_pushes("swallow", times=1)
            sandbox.world.post(chat, "perdida")
            sandbox.world.post(chat, "mostra a lacuna")
            while journal.last_seq < 2:
                await asyncio.sleep(0.05)
            assert clock.time() < HELD_UP_SECONDS
            assert sandbox.faults.injected["lose_answer"] == 1
            running.cancel()
