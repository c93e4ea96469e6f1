"""What a bare Telethon client's events do not say, each beside what the gateway makes of the same traffic."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from telethon import events

from gateway.sandbox import Chat
from tests.e2e.bare_client import SideBySide, side_by_side, until


@pytest_asyncio.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SideBySide]:
    async with side_by_side(tmp_path_factory.mktemp("kinds")) as running:
        yield running


@pytest_asyncio.fixture
async def channel(both: SideBySide) -> Chat:
    return next(both.channels)


async def test_a_reaction_looks_like_an_edit(both: SideBySide, channel: Chat) -> None:
    world = both.sandbox.world
    async with both.bare() as bare:
        message = world.post(channel, "PETR4")
        world.react(channel, message)
        await until(lambda: bare.events)
        assert isinstance(bare.events[0], events.MessageEdited.Event)
        assert bare.events[0].raw_text == "PETR4", "an edit in which nothing was edited"
        world.edit(channel, world.react(channel, message), "VALE3")
        await both.assert_gateway_has(channel)
        assert [(event.kind, event.text) for event in both.journal(channel)] == [
            ("message.new", "PETR4"),
            ("message.edited", "VALE3"),
        ]


async def test_a_deletion_does_not_say_in_which_chat(both: SideBySide, channel: Chat) -> None:
    """An account counts its private messages, and a channel its own: the same ids mean other messages."""
    world = both.sandbox.world
    async with both.bare() as bare:
        private = world.post(both.friend, "private")
        own_id = private.id_for(both.account.id)
        both.post(channel, *(f"public {number}" for number in range(own_id)))
        await bare.until_seen(f"public {own_id - 1}")
        world.delete(both.friend, private)
        await until(lambda: bare.events)
        deleted = bare.events[0]
        assert (deleted.deleted_ids, deleted.chat_id) == ([own_id], None)
        assert own_id in channel.messages, "whoever deletes by id alone deletes the channel's message"
        await both.assert_gateway_has(channel, both.friend)
        assert [event.kind for event in both.journal(both.friend)] == ["message.new", "message.deleted"]


async def test_a_groups_migration_shows_in_no_ordinary_event(both: SideBySide) -> None:
    async with both.bare() as bare:
        both.post(both.group, "before")
        supergroup = both.sandbox.world.migrate(both.group)
        both.post(supergroup, "after")
        await bare.until_seen("before", "after")
        assert (bare.seen, bare.events) == (["before", "after"], []), "as if two chats had nothing in common"
        await both.assert_gateway_has(both.group, supergroup)
        old, new = both.journal(both.group)[-1], both.journal(supergroup)[0]
        assert (old.message_type, new.message_type) == ("service", "service")
        assert old.metadata["action"] == "chat_migrate_to"
        assert new.metadata["action"] == "channel_migrate_from"
