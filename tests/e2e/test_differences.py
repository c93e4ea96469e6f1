"""What was missed comes by difference: whole, and whatever else goes wrong with it meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.demo.comparison import compare_journal, journal_events
from gateway.demo.process import GatewayProcess
from gateway.sandbox import Chat, Sandbox, User
from gateway.sandbox.scene import phone, populate
from tests.e2e.desk import Desk

PATIENCE_SECONDS = 90.0
FLOOD_SECONDS = 6


@dataclass
class Line:
    """A gateway without sinks, the account it is logged in as, and a channel and a friend to hear from."""

    sandbox: Sandbox
    gateway: GatewayProcess
    account: User
    channel: Chat
    private: Chat
    since: int

    async def assert_journal_complete(self) -> None:
        """Waits until the journal holds what the account could see; fails with what is missing."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        truth = self.sandbox.truth(self.account, self.since)
        assert truth
        while (result := compare_journal(self.gateway.journal_path, truth)).problems:
            assert time.monotonic() < deadline, result.problems[:5]
            await asyncio.sleep(0.2)


@pytest_asyncio.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox:
        scene = populate(sandbox.world)
        gateway = Desk(tmp_path, sandbox).gateway
        try:
            await gateway.login(phone(0))
            await gateway.start()
            private = next(chat for chat in scene.chats if chat.kind == "private")
            yield Line(sandbox, gateway, scene.accounts[0], scene.chats[0], private, sandbox.world.position)
        finally:
            await gateway.close()


def _change_what_was_seen(line: Line) -> None:
    world = line.sandbox.world
    for chat in (line.channel, line.private):
        first, second = (chat.messages[message_id] for message_id in chat.ids[-2:])
        world.edit(chat, first, "corrigido")
        world.delete(chat, second)
        world.post(chat, "depois")


async def test_edits_and_deletions_made_while_it_was_down_arrive(line: Line) -> None:
    for chat in (line.channel, line.private):
        line.sandbox.world.post_many(chat, ["primeira", "segunda"])
    await line.assert_journal_complete()
    await line.gateway.kill()
    _change_what_was_seen(line)
    await line.gateway.start()
    await line.assert_journal_complete()


async def test_a_difference_that_fails_is_asked_for_again(line: Line) -> None:
    line.sandbox.faults.fail_calls("GetChannelDifferenceRequest", 500, "INTERNAL", times=2)
    line.sandbox.faults.fail_calls("GetDifferenceRequest", 500, "INTERNAL", times=2)
    line.sandbox.faults.fault_pushes("swallow", times=2)
    line.sandbox.world.post(line.channel, "perdida")
    line.sandbox.world.post(line.private, "perdida também")
    line.sandbox.world.post(line.channel, "revela a falha")
    line.sandbox.world.post(line.private, "revela a outra")
    await line.assert_journal_complete()
    assert line.sandbox.faults.injected.total() >= 4


async def test_a_flood_wait_is_kept_to_and_holds_up_no_other_chat(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = "GetChannelDifferenceRequest"
    asked: list[float] = []
    answer = line.sandbox.faults.on_call

    def on_call(auth_key_id: int, name: str) -> Any:
        if name == method:
            asked.append(time.monotonic())
        return answer(auth_key_id, name)

    monkeypatch.setattr(line.sandbox.faults, "on_call", on_call)
    line.sandbox.faults.fail_calls(method, 420, f"FLOOD_WAIT_{FLOOD_SECONDS}", times=1)
    line.sandbox.faults.fault_pushes("swallow", times=1)
    line.sandbox.world.post(line.channel, "perdida")
    line.sandbox.world.post(line.channel, "revela a falha")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not asked:
            await asyncio.sleep(0.05)
    line.sandbox.world.post(line.private, "segue")
    await line.assert_journal_complete()
    # By the calls and the journal's order, not by looking in time: nobody knows when a machine has a moment.
    assert asked[1] - asked[0] >= FLOOD_SECONDS, "it asked again before it was allowed to"
    texts = [event.text for event in journal_events(line.gateway.journal_path).values()]
    assert texts.index("segue") < texts.index("perdida"), "the other chat waited as well"


async def test_duplicated_delayed_and_reordered_pushes_arrive_once_and_in_order(line: Line) -> None:
    for kind in ("duplicate", "reorder"):
        line.sandbox.faults.fault_pushes(kind, probability=0.2)
    line.sandbox.faults.fault_pushes("delay", probability=0.1, delay=0.3)
    await line.sandbox.traffic.run(100, count=600)
    line.sandbox.faults.clear()
    await line.assert_journal_complete()


async def test_pushes_swallowed_at_the_tail_are_found_by_comparing_the_dialogs(line: Line) -> None:
    line.sandbox.faults.fault_pushes("swallow", times=3)
    for number in range(3):
        line.sandbox.world.post(line.channel, f"perdida {number}")
    # A later event elsewhere moves the account's date on, so that no difference will name the channel.
    await asyncio.sleep(2.1)
    line.sandbox.world.post(line.private, "mais tarde")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not ((status := await line.gateway.status()) and status["journal"]["last_seq"]):
            await asyncio.sleep(0.05)
    line.sandbox.drop_connections()
    await line.assert_journal_complete()


async def test_an_answer_that_cannot_be_decoded_stops_one_chat_and_no_other(line: Line) -> None:
    line.sandbox.faults.garble_answers("GetChannelDifferenceRequest", times=2)
    line.sandbox.faults.fault_pushes("swallow", times=1)
    line.sandbox.world.post(line.channel, "perdida")
    line.sandbox.world.post(line.channel, "revela a falha")
    await asyncio.sleep(1)
    line.sandbox.world.post(line.private, "segue")
    await line.assert_journal_complete()
    assert line.gateway.log().count('"answer_undecodable"') == 2
    assert '"connection_lost"' not in line.gateway.log()
