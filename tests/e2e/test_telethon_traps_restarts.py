"""What a bare Telethon client loses when it is stopped, killed or away, each beside a gateway's restart."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.sandbox import Chat
from gateway.sandbox.scene import phone
from tests.e2e.bare_client import SideBySide, side_by_side, until

LATER_SECONDS = 2.1  # differences name channels by the second


@pytest_asyncio.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SideBySide]:
    async with side_by_side(tmp_path_factory.mktemp("restarts")) as running:
        yield running


@pytest_asyncio.fixture
async def channel(both: SideBySide) -> AsyncIterator[Chat]:
    yield next(both.channels)
    both.sandbox.faults.clear()


async def test_without_catch_up_what_came_meanwhile_is_lost(both: SideBySide, channel: Chat) -> None:
    async with both.bare() as bare:
        await bare.client.disconnect()
        await both.desk.gateway.kill()
        both.post(channel, "1", "2", "3")
        both.post(both.friend, "1", "2", "3")
        await bare.restart()
        await both.desk.gateway.start()
        both.post(channel, "after")
        both.post(both.friend, "after")
        await until(lambda: bare.seen.count("after") == 2)
        assert bare.seen == ["after", "after"], "catch_up=False is the default"
        await both.assert_gateway_has(channel, both.friend)


async def test_catch_up_has_nothing_to_start_from_when_the_first_run_was_killed(
    both: SideBySide, channel: Chat
) -> None:
    """Telethon writes its state every 60 seconds, or when it is told to disconnect."""
    bare = both.new_bare(catch_up=True)
    script = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.bare_client",
        *(both.sandbox.host, str(both.sandbox.port), str(both.sandbox.public_key_path)),
        *(str(bare.session_file.with_suffix("")), phone(0)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert script.stdout is not None
    assert await script.stdout.readline() == b"ready\n"
    both.post(channel, "heard")
    assert await script.stdout.readline() == b"heard\n"
    await both.assert_gateway_has(channel)
    script.kill()
    await script.wait()
    await both.desk.gateway.kill()
    both.post(channel, "1", "2", "3")
    both.post(both.friend, "1", "2", "3")
    try:
        await bare.restart()
        await both.desk.gateway.start()
        both.post(channel, "after")
        both.post(both.friend, "after")
        await until(lambda: bare.seen.count("after") == 2)
        assert bare.seen == ["after", "after"], "catch_up=True had no state to catch up from"
    finally:
        await bare.client.disconnect()
    await both.assert_gateway_has(channel, both.friend)


async def test_catch_up_recovers_a_channel_only_if_the_difference_names_it(
    both: SideBySide, channel: Chat
) -> None:
    named = next(both.channels)
    async with both.bare(catch_up=True) as bare:
        both.lose(channel, "1", "2", "3")
        await asyncio.sleep(LATER_SECONDS)
        both.post(both.elsewhere, "later")  # moves the account's date past the loss
        await bare.until_seen("later")
        await bare.client.disconnect()
        await both.desk.gateway.kill()
        both.post(named, "4", "5", "6")
        await bare.restart()
        await both.desk.gateway.start()
        await bare.until_seen("4", "5", "6")
        both.post(both.elsewhere, "after")
        await bare.until_seen("after")
        assert sorted(bare.seen) == ["4", "5", "6", "after", "later"], "3 of 3 there, 0 of 3 here"
        assert bare.pts(channel) == channel.log.pts - 3, "which it does not know"
        await both.assert_gateway_has(channel, named, both.elsewhere)


async def never(text: str) -> None:
    """A handler that waits for a server which is slow today."""
    await asyncio.Event().wait()


async def fails(text: str) -> None:
    """A handler whose server refuses the connection."""
    raise ConnectionRefusedError(text)


@pytest.mark.parametrize("work", [never, fails])
async def test_the_state_is_saved_past_messages_that_no_handler_finished_with(
    both: SideBySide, channel: Chat, work: Any
) -> None:
    """A clean `disconnect()`, as in `systemctl stop`, cancels what runs; what raised is only logged."""
    async with both.bare(catch_up=True) as bare:
        bare.work = work
        both.post(channel, "1", "2", "3")
        both.post(both.friend, "4")
        await bare.until_seen("1", "2", "3", "4")
        await bare.client.disconnect()
        assert await both.desk.gateway.stop() == 0
        assert bare.done == [], "4 started, 0 finished"
        bare.work, bare.seen = None, []
        await bare.restart()
        await both.desk.gateway.start()
        both.post(channel, "after")
        await bare.until_seen("after")
        assert bare.seen == ["after"], "0 came back, although it catches up"
        await both.assert_gateway_has(channel, both.friend)


async def test_the_edits_and_deletions_of_a_difference_are_dropped(both: SideBySide, channel: Chat) -> None:
    """Not ours to mend, but the reason for `_take_own` in the message box: if this fails, it may go."""
    world = both.sandbox.world
    async with both.bare(catch_up=True) as bare:
        for chat in (channel, both.friend):
            both.post(chat, "first", "second")
        await until(lambda: bare.seen.count("second") == 2)
        await bare.client.disconnect()
        await both.assert_gateway_has(channel, both.friend)
        await both.desk.gateway.kill()
        for chat in (channel, both.friend):
            first, second = (chat.messages[message_id] for message_id in chat.ids[-2:])
            world.edit(chat, first, "corrected")
            world.delete(chat, second)
            both.post(chat, "after")
        await bare.restart()
        await both.desk.gateway.start()
        await until(lambda: bare.seen.count("after") == 2)
        assert bare.events == [], "2 were edited and 2 deleted"
        await both.assert_gateway_has(channel, both.friend)
        for chat in (channel, both.friend):
            assert [event.kind for event in both.journal(chat)][-2:] == ["message.edited", "message.deleted"]
