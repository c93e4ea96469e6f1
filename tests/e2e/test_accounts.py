"""Bots, and several accounts in one process of which one is dead."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from gateway.demo.comparison import compare_journal
from gateway.sandbox import Sandbox, User
from tests.e2e.desk import NO_SINKS, Desk

BOT_TOKEN = "1234567:sandbox-bot-token"
PATIENCE_SECONDS = 20.0


@pytest_asyncio.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as running:
        yield running


async def _assert_captured(desk: Desk, account: User, since: int) -> None:
    truth = desk.sandbox.truth(account, since)
    assert truth
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (result := compare_journal(desk.gateway.journal_path, truth)).problems:
        assert time.monotonic() < deadline, result.problems[:5]
        await asyncio.sleep(0.2)


async def test_a_bot_captures_and_goes_on_when_it_is_added_to_a_channel(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    world = sandbox.world
    owner = world.add_user("Ana")
    bot = world.add_user("Robô", bot_token=BOT_TOKEN)
    channel = world.add_channel("Sinais", [owner, bot])
    other = world.add_channel("Mais sinais", [owner])
    desk = Desk(tmp_path, sandbox)
    try:
        await desk.gateway.command("login", "--bot-token", BOT_TOKEN)
        await desk.gateway.start()
        since = world.position
        world.post(channel, "COMPRA PETR4")
        world.join(other, bot)
        world.post(other, "VENDA VALE3")
        world.post(channel, "STOP")
        await _assert_captured(desk, bot, since)
        assert await desk.gateway.stop() == 0
    finally:
        await desk.gateway.close()


async def test_a_dead_account_does_not_take_a_living_one_with_it(sandbox: Sandbox, tmp_path: Path) -> None:
    world = sandbox.world
    dead, living = (world.add_user(name, phone=f"+551199999000{i}") for i, name in enumerate("AB"))
    channel = world.add_channel("Sinais", [dead, living])
    desk = Desk(tmp_path, sandbox, {**NO_SINKS, "TELEGRAM_ACCOUNTS": "dead,living"})
    try:
        for name, user in (("dead", dead), ("living", living)):
            assert user.phone is not None
            await desk.gateway.login(user.phone, account=name)
        sandbox.faults.auth_key_unregistered(dead)
        await desk.gateway.start()
        since = world.position
        world.post(channel, "COMPRA PETR4")
        await _assert_captured(desk, living, since)
        status = await desk.gateway.status()
        assert status is not None
        assert {account["account"]: account["state"] for account in status["accounts"]} == {
            "dead": "dead",
            "living": "connected",
        }
        assert any("dead" in problem for problem in status["problems"])
        sandbox.faults.auth_key_unregistered(living)
        sandbox.drop_connections()
        assert await desk.gateway.wait_exit() == 78
    finally:
        await desk.gateway.close()
