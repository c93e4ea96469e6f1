"""The ledger from end to end: what Telegram skips, hides or never pushed is found and accounted for."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import apsw
import pytest_asyncio
from telethon.tl import types

from gateway.demo.comparison import compare_journal
from gateway.demo.process import GatewayProcess
from gateway.journal import Gap, open_reader
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import phone, populate
from tests.clock import ticking
from tests.e2e.desk import Desk

PATIENCE_SECONDS = 120.0
HISTORY = 2_500  # messages of one channel from before the gateway began


class Account(Desk):
    """A gateway without sinks, logged in as the scene's first account, and what its ledger says."""

    async def log_in(self) -> None:
        self.scene = populate(self.sandbox.world)
        self.old_channel = self.scene.chats[1]
        self.history = self.sandbox.world.import_history(self.old_channel, HISTORY)
        await self.gateway.login(phone(0))
        await self.gateway.start()
        self.user = self.scene.accounts[0]
        self.channel = self.scene.chats[0]
        self.private = next(chat for chat in self.scene.chats if chat.kind == "private")
        self.since = self.sandbox.world.position

    async def complete(self) -> None:
        """Waits until the journal holds all that the account could see and no gap is open."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        truth = self.sandbox.truth(self.user, self.since)
        while problems := [
            *compare_journal(self.gateway.journal_path, truth).problems[:3],
            *self.gaps("open")[:3],
        ]:
            assert time.monotonic() < deadline, problems
            await asyncio.sleep(0.2)

    async def complete_history(self, chat: str, count: int) -> None:
        """Waits until the journal holds `count` messages of a chat and no gap is open."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.events(chat)) < count or self.gaps("open"):
            assert time.monotonic() < deadline, (len(self.events(chat)), self.gaps("open")[:3])
            await asyncio.sleep(0.2)

    def gaps(self, state: str | None) -> list[Gap]:
        with open_reader(self.gateway.journal_path) as reader:
            return reader.gaps(state=state)

    def events(self, chat: str) -> list[tuple[int, str, str]]:
        """(message id, kind, source) of a chat's events, in the journal's order."""
        with open_reader(self.gateway.journal_path) as reader:
            records = reader.read(0, reader.last_seq(), 1_000_000)
        return [
            (event.message_id, event.kind.removeprefix("message."), event.source)
            for event in (record.event for record in records)
            if event.channel_id == chat
        ]


@pytest_asyncio.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox:
        sandbox.world.replays_revisions = False
        running = Account(tmp_path, sandbox)
        try:
            await running.log_in()
            yield running
        finally:
            await running.gateway.close()


async def test_messages_that_a_too_long_difference_skips_are_fetched(account: Account) -> None:
    world, channel = account.sandbox.world, account.channel
    first, second, third = world.post_many(channel, ["um", "dois", "três"])
    await account.complete()
    await account.gateway.stop()
    world.edit(channel, first, "um, corrigido")
    world.delete(channel, second)
    world.post_many(channel, [f"enquanto fora {number}" for number in range(250)])
    world.edit(account.private, world.post(account.private, "privada"), "privada, corrigida")
    account.sandbox.faults.too_long(channel, announce=False)
    account.sandbox.faults.too_long(account.user, announce=False)
    await account.gateway.start()
    await account.complete()
    sources = {gap.source for gap in account.gaps(None)}
    assert "channel_too_long" in sources
    assert (third.id + 1, "new", "backfill") in account.events(channel.ref)


async def test_private_messages_that_a_too_long_difference_skips_are_fetched_by_id(account: Account) -> None:
    world, private = account.sandbox.world, account.private
    kept, gone = world.post_many(private, ["fica", "vai"])
    await account.complete()
    await account.gateway.kill()
    world.post_many(private, [f"enquanto fora {number}" for number in range(130)])
    world.edit(private, kept, "fica, corrigida")
    world.delete(private, gone)
    account.sandbox.faults.too_long(account.user, announce=False)
    await account.gateway.start()
    await account.complete()
    assert {gap.source for gap in account.gaps(None)} >= {"too_long", "unseen_changes"}


async def test_a_message_deleted_before_it_was_seen_is_proved_absent(account: Account) -> None:
    world, channel = account.sandbox.world, account.channel
    world.post(channel, "antes")
    await account.complete()
    await account.gateway.stop()
    never_seen = world.post_many(channel, ["nunca vista", "nem esta"])
    world.delete(channel, never_seen)
    world.skip_ids(channel, 3)
    last = world.post(channel, "depois")
    await account.gateway.start()
    await account.complete()
    absent = {i for gap in account.gaps("absent") for i in range(gap.first, gap.last + 1)}
    assert absent == set(range(never_seen[0].id, last.id))


async def test_what_was_posted_between_joining_while_down_and_the_next_start_is_fetched(
    account: Account,
) -> None:
    world = account.sandbox.world
    channel = world.add_channel("Nova sala", [world.add_user("Dona")])
    world.post_many(channel, ["antes da entrada", "também antes"])
    await account.gateway.kill()
    await asyncio.sleep(1.1)  # dates have whole seconds
    world.join(channel, account.user)
    world.post_many(channel, [f"depois da entrada {number}" for number in range(5)])
    await account.gateway.start()
    await account.complete()
    words = [event for event in account.events(channel.ref) if event[1] == "new"]
    assert len(words) == 5


async def test_a_join_in_the_very_second_in_which_the_gateway_began_counts_as_later(account: Account) -> None:
    world = account.sandbox.world
    channel = world.add_channel("Nova sala", [world.add_user("Dona")])
    await account.gateway.kill()
    joined = world.now()
    world.join(channel, account.user)
    world.post_many(channel, [f"depois da entrada {number}" for number in range(5)])
    journal = apsw.Connection(str(account.gateway.journal_path))
    journal.execute("UPDATE ledger SET since = ?", (joined * 1_000_000 + 999_999,))
    journal.close()
    await account.gateway.start()
    await account.complete()


async def test_a_channel_that_throws_the_account_out_and_takes_it_back_is_complete(account: Account) -> None:
    world, channel = account.sandbox.world, account.channel
    world.post(channel, "antes")
    await account.complete()
    account.sandbox.faults.fault_pushes("swallow", times=3)
    world.post_many(channel, ["perdida 1", "perdida 2"])
    world.ban(channel, account.user)
    account.sandbox.drop_connections()
    await asyncio.sleep(3)
    world.unban(channel, account.user)
    world.join(channel, account.user)
    world.post(channel, "de volta")
    await account.complete()


async def test_a_flood_wait_on_history_holds_up_no_live_message(account: Account) -> None:
    world, channel = account.sandbox.world, account.old_channel
    account.sandbox.faults.fail_calls("GetHistoryRequest", 420, "FLOOD_WAIT_4", times=1)
    started = time.monotonic()
    async with ticking() as clock, asyncio.TaskGroup() as group:
        backfill = group.create_task(account.run("backfill", "--chat", channel.ref, "--limit", "900"))
        while not account.sandbox.faults.injected["rpc_error"]:
            await asyncio.sleep(0.05)
        posted = clock.time()
        world.post(channel, "ao vivo")
        while not (events := account.events(channel.ref)):
            assert clock.time() - posted < 3, "the live message waited for the history"
            await asyncio.sleep(0.02)
        assert events[0][2] == "mtproto", "the history came before the live message"
    answer = backfill.result()
    assert answer.code == 0, answer.text
    assert time.monotonic() - started > 4
    assert "900 messages" in answer.text


async def test_nothing_is_asked_for_before_a_flood_wait_is_over(account: Account) -> None:
    channel, faults = account.old_channel, account.sandbox.faults
    faults.fail_calls("GetMessagesRequest", 420, "FLOOD_WAIT_4", times=2)
    used = cpu_seconds(account.gateway.pid)
    answer = await account.run("gaps", "--chat", channel.ref, "--open", "1-150")
    assert answer.code == 0, answer.text
    await account.complete_history(channel.ref, 150)
    told = [json.loads(line[3:]) for line in account.gateway.log().splitlines() if '"flood_wait"' in line]
    first, second = (datetime.fromisoformat(line["timestamp"]) for line in told)
    assert (second - first).total_seconds() >= 4, "it asked again before it was allowed to"
    assert cpu_seconds(account.gateway.pid) - used < 3, "it spent the time looking whether it may"


def cpu_seconds(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


async def test_history_comes_in_order_and_survives_a_kill(account: Account) -> None:
    channel = account.old_channel
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(account.run("backfill", "--chat", channel.ref))
        while len(account.events(channel.ref)) < 300:
            await asyncio.sleep(0.02)
        await account.gateway.kill()
    assert len(account.events(channel.ref)) < HISTORY
    await account.gateway.start()
    await account.complete_history(channel.ref, HISTORY)
    ids = [message_id for message_id, _, source in account.events(channel.ref) if source == "backfill"]
    assert ids == [message.id for message in account.history]
    again = await account.run("backfill", "--chat", channel.ref)
    assert "nothing to fetch" in again.text


async def test_a_person_can_have_ids_fetched_again_and_see_what_became_of_them(account: Account) -> None:
    world, channel = account.sandbox.world, account.channel
    first = world.post_many(channel, ["um", "dois"])[0]
    world.delete(channel, first)
    await account.complete()
    answer = await account.run("gaps", "--chat", channel.ref, "--open", f"{first.id}-{first.id + 1}")
    assert answer.code == 0, answer.text
    await account.complete()
    listed = await account.run("gaps", "--all", "--chat", channel.ref)
    assert {line.split("; ")[1].split()[0] for line in listed.lines} == {"absent", "captured"}
    assert "every message is accounted for" in (await account.run("gaps")).text
    wrong = await account.run("gaps", "--open", "5")
    assert (wrong.code, "needs --chat" in wrong.text) == (2, True), wrong.text


async def test_a_message_that_cannot_be_decoded_costs_itself_and_nothing_else(account: Account) -> None:
    world = account.sandbox.world
    account.sandbox.faults.make_unknown(types.MessageMediaDocument.CONSTRUCTOR_ID)
    for chat in (account.channel, account.private):
        world.post(chat, "veneno", media="document")
        world.post_many(chat, [f"depois {number}" for number in range(150)])
    poison = [chat.messages[chat.ids[-151]] for chat in (account.channel, account.private)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sum(gap.why == "undecodable" for gap in account.gaps("absent")) < 2 or account.gaps("open"):
            await asyncio.sleep(0.2)
    lost = {(gap.chat, gap.first, gap.last) for gap in account.gaps("absent") if gap.why == "undecodable"}
    private_id = poison[1].id_for(account.user.id)
    assert lost == {(int(account.channel.ref), poison[0].id, poison[0].id), (0, private_id, private_id)}
    for chat in (account.channel, account.private):
        kept = account.events(str(chat.marked_id_for(account.user)))
        assert sum(kind == "new" for _, kind, _ in kept) == 150
    account.sandbox.faults.clear()
    world.post(account.channel, "e segue")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while account.events(account.channel.ref)[-1][2] != "mtproto":
            await asyncio.sleep(0.1)
    # Once this gateway (or the next version) understands it, a person can have it fetched.
    await account.run("gaps", "--chat", account.channel.ref, "--open", str(poison[0].id))
    await account.complete_history(account.channel.ref, 152)


async def test_a_refusal_while_asking_about_a_channel_ends_no_connection(account: Account) -> None:
    world, channel, faults = account.sandbox.world, account.channel, account.sandbox.faults
    world.post(channel, "antes")
    await account.complete()
    faults.fail_calls("GetMessagesRequest", 400, "CHANNEL_PRIVATE", times=1)
    faults.fail_calls("GetChannelsRequest", 420, "FLOOD_WAIT_3", times=1)
    world.skip_ids(channel, 2)
    world.post(channel, "depois do salto")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while faults.injected["rpc_error"] < 2:
            await asyncio.sleep(0.05)
    await account.complete()
    assert "connection_lost" not in account.gateway.log()


async def test_an_error_406_that_is_not_known_is_no_dead_session(account: Account) -> None:
    world, channel, faults = account.sandbox.world, account.channel, account.sandbox.faults
    world.post(channel, "antes")
    await account.complete()
    faults.fail_calls("GetMessagesRequest", 406, "CHANNEL_NOT_TODAY", times=1)
    faults.fail_calls("GetChannelDifferenceRequest", 406, "CHANNEL_NOT_TODAY", times=1)
    faults.fault_pushes("swallow", times=1)
    world.post(channel, "perdida")
    world.skip_ids(channel, 2)
    world.post(channel, "depois do salto")
    await account.complete()
    assert faults.injected["rpc_error"] == 2
    assert "connection_lost" not in account.gateway.log()


async def test_dialogs_refused_once_are_compared_soon_and_hold_up_no_difference(account: Account) -> None:
    world, faults = account.sandbox.world, account.sandbox.faults
    channel = world.add_channel("Nova sala", [world.add_user("Dona")])
    await account.gateway.kill()
    await asyncio.sleep(1.1)  # dates have whole seconds
    world.join(channel, account.user)
    world.post_many(channel, [f"depois da entrada {number}" for number in range(5)])
    private = world.post(account.private, "enquanto fora")
    faults.fail_calls("GetDialogsRequest", 500, "INTERNAL", times=1)
    faults.fail_calls("GetDialogsRequest", 420, "FLOOD_WAIT_12", times=1)
    faults.fail_calls("GetDifferenceRequest", 500, "INTERNAL", times=1)
    (key,) = account.sandbox.accounts.keys_of(account.user)
    before = faults.asked[key, "GetDialogsRequest"]
    await account.gateway.start(wait=False)
    chat = str(account.private.marked_id_for(account.user))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while private.id_for(account.user.id) not in {event[0] for event in account.events(chat)}:
            asked = faults.asked[key, "GetDialogsRequest"] - before
            assert asked <= 2, "the difference waited until the dialogs could be asked for again"
            await asyncio.sleep(0.1)
    await account.complete()


async def test_ids_that_do_not_exist_yet_cannot_be_taken_for_gone(account: Account) -> None:
    world, channel = account.sandbox.world, account.channel
    first = world.post(channel, "um")
    await account.complete()
    answer = await account.run("gaps", "--chat", channel.ref, "--open", f"{first.id}-{first.id + 500}")
    assert answer.code == 0, answer.text
    beyond = await account.run("gaps", "--chat", channel.ref, "--open", f"{first.id + 1}-{first.id + 500}")
    assert (beyond.code != 0, f"has id {first.id}" in beyond.text) == (True, True), beyond.text
    world.post(channel, "dois")
    await account.complete()
    assert account.gaps("absent") == []


async def test_hundreds_of_single_holes_are_each_proved_absent(account: Account) -> None:
    world, channel = account.sandbox.world, account.channel
    world.post(channel, "antes")
    await account.complete()
    await account.gateway.stop()
    messages = world.post_many(channel, [f"enquanto fora {number}" for number in range(600)])
    world.delete(channel, messages[::2])
    await account.gateway.start()
    await account.complete()
    assert len(account.gaps("absent")) == 300
    assert {gap.last - gap.first for gap in account.gaps("absent")} == {0}


async def test_a_gap_of_a_chat_chosen_by_name_is_not_given_up_before_its_name_is_known(
    account: Account,
) -> None:
    channel, faults = account.old_channel, account.sandbox.faults  # no difference names a quiet channel
    await account.gateway.stop()
    account.gateway = GatewayProcess(
        account.gateway.directory, {**account.settings, "TELEGRAM_CHATS": f"@{channel.username}"}
    )
    await account.gateway.start()
    faults.fail_calls("GetMessagesRequest", 420, "FLOOD_WAIT_60", times=1)
    await account.run("gaps", "--chat", channel.ref, "--open", "1-1")
    await account.gateway.stop()
    faults.fail_calls("GetDialogsRequest", 420, "FLOOD_WAIT_2", times=1)
    await account.gateway.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while account.gaps("open"):
            await asyncio.sleep(0.1)
    assert "not_captured" not in {gap.why for gap in account.gaps("absent")}
