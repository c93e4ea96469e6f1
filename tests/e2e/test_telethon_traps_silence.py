"""How a bare Telethon client falls silent and dies, each beside a gateway to which the same is done."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from telethon.errors import AuthKeyNotFound

from tests.e2e.bare_client import Bare, SideBySide, hurried, side_by_side, until

DOWN_SECONDS = 4.0
PROBE_SECONDS = 60.0  # what the gateway may take to find its login gone


@pytest_asyncio.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SideBySide]:
    async with side_by_side(tmp_path_factory.mktemp("silence")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", autouse=True)
async def revoked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[SideBySide, Bare]]:
    """Logins that are over from the first test on, since a gateway may take half a minute to ask."""
    async with side_by_side(tmp_path_factory.mktemp("revoked")) as doomed, doomed.bare() as bare:
        doomed.sandbox.faults.auth_key_unregistered(doomed.account)
        doomed.post(doomed.friend, "unheard")
        yield doomed, bare


@pytest_asyncio.fixture(autouse=True)
async def _no_faults(both: SideBySide) -> AsyncIterator[None]:
    yield
    both.sandbox.faults.clear()


async def test_a_silent_line_is_noticed_after_two_minutes(both: SideBySide) -> None:
    """The gateway's own 90 seconds are tested with its other limits."""
    main = asyncio.get_running_loop()
    async with both.bare() as bare:
        await bare.client.disconnect()

        async def wait_in_silence() -> float:
            await bare.restart()
            loop = asyncio.get_running_loop()
            began, first = loop.time(), bare.client._sender._state.id
            main.call_soon_threadsafe(both.sandbox.faults.stall, None, bare.key)
            await until(lambda: bare.client._sender._state.id != first, within=200)
            elapsed = loop.time() - began
            await bare.client.disconnect()
            return elapsed

        assert 110 < await hurried(wait_in_silence) < 150, "the second ping finds the first unanswered"


async def test_a_server_that_is_down_for_a_minute_is_given_up(both: SideBySide) -> None:
    main = asyncio.get_running_loop()
    connected = asyncio.Event()
    async with both.bare() as bare:
        await bare.client.disconnect()

        async def insist() -> float:
            await bare.restart()
            began = asyncio.get_running_loop().time()
            main.call_soon_threadsafe(connected.set)
            with pytest.raises(ConnectionError):
                await bare.client.disconnected
            return asyncio.get_running_loop().time() - began

        async with asyncio.TaskGroup() as group:
            insisting = group.create_task(hurried(insist))
            await connected.wait()
            # Up again, it refuses those that have not given up yet.
            both.sandbox.faults.refuse_connections(600)
            await both.sandbox.restart(DOWN_SECONDS)
        both.sandbox.faults.clear()
        assert insisting.result() < 60, "connection_retries=5 is the default"
        both.post(both.friend, "here again")
        await both.assert_gateway_has(both.friend)
        assert bare.seen == [], "it never tries again"


async def test_a_transport_flood_ends_the_connection_for_good(both: SideBySide) -> None:
    async with both.bare() as bare:
        for key in both.keys:
            both.sandbox.faults.refuse_packets(-429, times=1, auth_key_id=key)
        with pytest.raises(BufferError, match="429"):
            await bare.client.get_me()
        both.sandbox.wire.renew_sessions()  # which makes the gateway ask, and be refused
        await until(lambda: both.sandbox.faults.injected["transport_error"] == 2)
        both.post(both.friend, "after")
        await both.assert_gateway_has(both.friend)
        assert not bare.client.is_connected(), "nor does it connect again"
        assert bare.seen == []


async def test_a_key_that_was_used_twice_goes_unnoticed(tmp_path: Path) -> None:
    async with side_by_side(tmp_path) as doomed, doomed.bare() as bare:
        asked = doomed.asked(bare, "GetUsersRequest")
        doomed.sandbox.faults.auth_key_duplicated(doomed.account)
        doomed.sandbox.drop_connections()
        await until(lambda: doomed.asked(bare, "GetUsersRequest") > asked)  # and is refused
        await assert_gateway_says_so(doomed, "AUTH_KEY_DUPLICATED")
        assert bare.client.is_connected(), "it is refused for good, and does not even say so"


async def test_a_key_that_the_server_forgot_ends_the_connection(tmp_path: Path) -> None:
    async with side_by_side(tmp_path) as doomed, doomed.bare() as bare:
        for key in doomed.keys:
            doomed.sandbox.wire.destroy_auth_key(key)
        with pytest.raises(AuthKeyNotFound):
            await bare.client.disconnected
        await assert_gateway_says_so(doomed, "AUTH_KEY_NOT_FOUND")


async def test_a_login_that_was_revoked_goes_unnoticed(revoked: tuple[SideBySide, Bare]) -> None:
    doomed, bare = revoked
    await assert_gateway_says_so(doomed, "AUTH_KEY_UNREGISTERED")
    assert bare.client.is_connected(), "all seems well"
    assert bare.seen == [], "and nothing is heard"


async def assert_gateway_says_so(doomed: SideBySide, why: str) -> None:
    """It ends with exit code 78, which systemd does not restart, and one clear line."""
    assert await doomed.desk.gateway.wait_exit(PROBE_SECONDS) == 78
    last = doomed.desk.gateway.log().splitlines()[-1]
    assert why in last, last
    assert "log in again" in last, last
