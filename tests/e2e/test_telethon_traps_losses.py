"""Losses of a bare Telethon client while it is connected, each beside a gateway that has the same traffic.

A bare client has lost a message when it believes to be past it: `pts` is then as far as the channel's own,
so nothing will make it ask. Where it may still notice later, a message elsewhere shows that it goes on.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.sandbox import Chat
from tests.e2e.bare_client import PATIENCE_SECONDS, SideBySide, side_by_side, until

CHANNEL_DIFFERENCE = "GetChannelDifferenceRequest"
ACCOUNT_DIFFERENCE = "GetDifferenceRequest"


@pytest_asyncio.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SideBySide]:
    async with side_by_side(tmp_path_factory.mktemp("losses")) as running:
        yield running


@pytest_asyncio.fixture
async def channel(both: SideBySide) -> AsyncIterator[Chat]:
    yield next(both.channels)
    both.sandbox.faults.clear()
    both.sandbox.delivery.min_chats = False


async def test_a_channel_whose_dialog_was_never_asked_for_has_no_gap_detection(
    both: SideBySide, channel: Chat
) -> None:
    async with both.bare(dialogs=False) as bare:
        both.lose(channel, "1", "2", "3")
        both.post(channel, "4", "5", "6")
        await bare.until_seen("6")
        assert bare.seen == ["4", "5", "6"], "it starts to count at the first push"
        assert bare.pts(channel) == channel.log.pts, "and takes what came before for seen"
        await both.assert_gateway_has(channel)


async def test_a_gap_in_a_channel_is_filled_only_where_the_difference_succeeds(
    both: SideBySide, channel: Chat
) -> None:
    """The push that revealed the gap goes with it, and nothing asks again until the next one."""
    async with both.bare(request_retries=0) as bare:
        both.post(channel, "1")
        await bare.until_seen("1")
        both.fail(CHANNEL_DIFFERENCE, 500, "INTERNAL")
        both.lose(channel, "2", "3")
        both.post(channel, "4")
        await until(lambda: both.asked(bare, CHANNEL_DIFFERENCE))
        await both.assert_gateway_has(channel)
        both.post(both.elsewhere, "elsewhere")
        await bare.until_seen("elsewhere")
        assert bare.seen == ["1", "elsewhere"], "what came by push is gone with what did not"
        assert both.asked(bare, CHANNEL_DIFFERENCE) == 1, "a difference that failed is not asked for again"


async def test_a_channel_that_was_private_for_a_moment_is_never_asked_for_again(
    both: SideBySide, channel: Chat
) -> None:
    async with both.bare() as bare:
        both.post(channel, "1")
        await bare.until_seen("1")
        both.fail(CHANNEL_DIFFERENCE, 400, "CHANNEL_PRIVATE")
        both.lose(channel, "2", "3")
        both.post(channel, "4")
        await until(lambda: bare.pts(channel) is None)
        both.post(channel, "5", "6", "7", "8")
        await bare.until_seen("8")
        assert bare.seen == ["1", "5", "6", "7", "8"]
        assert bare.pts(channel) == channel.log.pts, "it takes the gap for seen"
        await both.assert_gateway_has(channel)


async def test_a_gap_cannot_be_filled_where_pushes_bring_no_access_hash(
    both: SideBySide, channel: Chat
) -> None:
    both.sandbox.delivery.min_chats = True
    async with both.bare(dialogs=False) as bare:
        both.post(channel, "1")
        await bare.until_seen("1")
        both.lose(channel, "2", "3")
        both.post(channel, "4", "5", "6")
        await until(lambda: bare.pts(channel) is None)
        both.post(channel, "7", "8")
        await bare.until_seen("8")
        assert bare.seen == ["1", "7", "8"], "the pushes that showed the gap are gone too"
        assert both.asked(bare, CHANNEL_DIFFERENCE) == 0
        await both.assert_gateway_has(channel)


@dataclass(frozen=True)
class TooLong:
    """Whose difference is too long, and what a bare client asks for."""

    request: str
    account: bool


@pytest.mark.parametrize(
    "case",
    [TooLong(CHANNEL_DIFFERENCE, False), TooLong(ACCOUNT_DIFFERENCE, True)],
    ids=["channel", "account"],
)
async def test_a_difference_that_is_too_long_brings_nothing(
    both: SideBySide, channel: Chat, case: TooLong
) -> None:
    chat = both.friend if case.account else channel
    log = both.account.log if case.account else channel.log
    limit = log.limit
    async with both.bare() as bare:
        both.post(chat, "before")
        await bare.until_seen("before")
        asked = both.asked(bare, case.request)
        log.limit = 5  # Telegram keeps so many; it answers differenceTooLong to whoever needs more
        both.lose(chat, *(f"{number}" for number in range(20)))
        both.post(chat, "reveals it")
        await until(lambda: both.asked(bare, case.request) > asked)
        await both.assert_gateway_has(chat)
        log.limit = limit
        both.post(chat, "after")
        await bare.until_seen("after")
        assert bare.seen == ["before", "after"], "21 messages, of which 1 was pushed, were skipped in silence"
        await both.assert_gateway_has(chat)


@pytest.mark.parametrize("occasion", ["reconnect", "new session", "never pushed"])
async def test_a_loss_at_the_tail_is_not_looked_for(both: SideBySide, channel: Chat, occasion: str) -> None:
    """Nor is what was missed while the line was down, nor a channel too big to be pushed to everybody.

    A gateway compares itself with the dialogs on both occasions, and every few minutes without one.
    """
    first, last = ["1", "2", "3", "4"], ["5", "6", "7", "8"]
    async with both.bare() as bare:
        if occasion == "never pushed":
            both.lose(channel, *first)
            first = []
        else:
            both.post(channel, *first)
            await bare.until_seen(*first)
        asked = both.asked(bare, CHANNEL_DIFFERENCE), both.asked(bare, ACCOUNT_DIFFERENCE)
        if occasion == "reconnect":
            both.sandbox.drop_connections()
            both.post(channel, *last)
            await both.until_attached(bare)
        else:
            both.lose(channel, *last)
            both.sandbox.wire.renew_sessions()
        await both.assert_gateway_has(channel)
        both.post(both.elsewhere, "elsewhere")
        await bare.until_seen("elsewhere")
        assert bare.seen == [*first, "elsewhere"], "although the line was there all the time, or again"
        assert asked == (both.asked(bare, CHANNEL_DIFFERENCE), both.asked(bare, ACCOUNT_DIFFERENCE))


async def test_what_a_client_sends_itself_does_not_reach_its_own_handlers(both: SideBySide) -> None:
    """The gateway sends nothing; what the account sends elsewhere, as with this client, it captures."""
    async with both.bare() as bare:
        await bare.client.send_message(both.elsewhere.other(both.account).id, "sent from here")
        both.post(both.elsewhere, "heard")
        await bare.until_seen("heard")
        assert bare.seen == ["heard"]
        await both.assert_gateway_has(both.elsewhere)


async def test_an_object_of_a_newer_layer_in_a_difference_ends_the_connection(
    both: SideBySide, channel: Chat
) -> None:
    async with both.bare() as bare:
        for key in both.keys:
            both.sandbox.faults.garble_answers(CHANNEL_DIFFERENCE, times=1, auth_key_id=key)
        both.lose(channel, "1")
        both.post(channel, "2")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await bare.client.disconnected
        both.post(both.elsewhere, "after")
        await both.assert_gateway_has(channel, both.elsewhere)
        assert bare.seen == [], "it is disconnected for good: nothing at all arrives any more"
        assert not bare.client.is_connected()
