"""The sandbox's world without its wire: numbering, differences, history, access and the ground truth."""

import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from telethon.extensions import BinaryReader
from telethon.tl import functions, types

from gateway.event import delete_id, edit_id, new_id
from gateway.sandbox import MIXED, Chat, Media, Sandbox, User
from gateway.sandbox.backend import RpcError


class Client:
    """A session that is logged in as a user and keeps what it is pushed."""

    layer = 229
    receives_updates = True

    def __init__(self, sandbox: Sandbox, user: User, key: int = 7) -> None:
        self.auth_key_id = self.session_id = key
        self.user = user
        self._api = sandbox.wire.backend
        self.pushed: list[Any] = []
        sandbox.accounts.opened(self)
        sandbox.accounts.log_in(self, user)

    def push(self, updates: bytes) -> None:
        self.pushed.append(BinaryReader(updates).tgread_object())

    def close(self) -> None:
        raise AssertionError("nobody asked for this")

    async def __call__(self, request: Any) -> Any:
        answer = await self._api.call(self, BinaryReader(bytes(request)).tgread_object())
        return BinaryReader(bytes(answer)).tgread_object() if not isinstance(answer, list | bool) else answer

    def updates(self) -> list[Any]:
        """Every single update out of what was pushed."""
        single: list[Any] = []
        for updates in self.pushed:
            single.extend(getattr(updates, "updates", None) or [updates])
        return single


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(state_dir=tmp_path, seed=5)


@pytest.fixture
def me(sandbox: Sandbox) -> User:
    return sandbox.world.add_user("Ana", phone="+5511999990001")


@pytest.fixture
def friend(sandbox: Sandbox) -> User:
    return sandbox.world.add_user("Bruno")


@pytest.fixture
def channel(sandbox: Sandbox, me: User, friend: User) -> Chat:
    return sandbox.world.add_channel("Sinais", [friend, me])


@pytest.fixture
def client(sandbox: Sandbox, me: User) -> Client:
    return Client(sandbox, me)


def input_channel(sandbox: Sandbox, user: User, chat: Chat) -> Any:
    return types.InputChannel(chat.id, sandbox.world.access_hash(user, "channel", chat.id))


def input_peer(sandbox: Sandbox, user: User, chat: Chat) -> Any:
    if chat.is_channel:
        shown = input_channel(sandbox, user, chat)
        return types.InputPeerChannel(shown.channel_id, shown.access_hash)
    if chat.kind == "group":
        return types.InputPeerChat(chat.id)
    other = chat.other(user)
    return types.InputPeerUser(other.id, sandbox.world.access_hash(user, "user", other.id))


def every_kind_of_chat(sandbox: Sandbox, me: User, friend: User) -> list[Chat]:
    world = sandbox.world
    return [
        world.add_channel("Canal", [me, friend]),
        world.add_supergroup("Mesa", [me, friend]),
        world.add_supergroup("Fórum", [me, friend], forum=True),
        world.add_group("Grupo", [me, friend]),
        world.private(me, friend),
    ]


def test_a_channel_numbers_its_messages_and_an_account_numbers_all_its_private_ones(
    sandbox: Sandbox, me: User, friend: User
) -> None:
    world = sandbox.world
    channel, group = world.add_channel("Canal", [me, friend]), world.add_group("Grupo", [me, friend])
    private, apart = world.private(me, friend), world.private(friend, world.add_user("Carla"))
    assert [world.post(channel, "x").id for _ in range(3)] == [1, 2, 3]
    world.post(apart, "only Bruno's account counts this one")
    first, second = world.post(group, "a"), world.post(private, "b")
    assert [message.id_for(me.id) for message in (first, second)] == [1, 2]
    assert [message.id_for(friend.id) for message in (first, second)] == [2, 3]


async def test_a_peer_opens_only_with_the_accounts_own_access_hash(
    sandbox: Sandbox, me: User, friend: User, channel: Chat, client: Client
) -> None:
    found = await client(functions.channels.GetChannelsRequest([input_channel(sandbox, me, channel)]))
    assert found.chats[0].title == "Sinais"
    with pytest.raises(RpcError, match="CHANNEL_INVALID"):
        await client(functions.channels.GetChannelsRequest([input_channel(sandbox, friend, channel)]))
    sandbox.world.leave(channel, me)
    with pytest.raises(RpcError, match="CHANNEL_PRIVATE"):
        await client(functions.channels.GetChannelsRequest([input_channel(sandbox, me, channel)]))


async def test_who_is_not_logged_in_may_only_log_in(sandbox: Sandbox, me: User, client: Client) -> None:
    sandbox.accounts.log_out(client.auth_key_id)
    with pytest.raises(RpcError, match="401 AUTH_KEY_UNREGISTERED"):
        await client(functions.updates.GetStateRequest())
    assert (await client(functions.help.GetNearestDcRequest())).this_dc == 2


async def test_pushes_of_mixed_traffic_leave_no_gap_in_any_sequence(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    chats = every_kind_of_chat(sandbox, me, friend)
    await sandbox.traffic.run(100_000, count=600)
    for chat in chats:
        sandbox.world.delete(chat, chat.ids[-3:])
        sandbox.world.post(chat, "the last one")
    at: dict[int, int] = {}
    for update in client.updates():
        if not hasattr(update, "pts_count"):
            continue
        peer = getattr(getattr(update, "message", None), "peer_id", None)
        sequence = int(getattr(peer, "channel_id", None) or getattr(update, "channel_id", None) or 0)
        assert update.pts == at.get(sequence, 1) + update.pts_count
        at[sequence] = update.pts
    assert at[0] == me.log.pts
    assert {chat: log.log.pts for chat, log in sandbox.world.channels.items()} == {
        chat: pts for chat, pts in at.items() if chat
    }


async def test_slices_of_the_account_difference_add_up_to_everything(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    world = sandbox.world
    world.difference_limit = 7
    private, group = world.private(me, friend), world.add_group("Grupo", [me, friend])
    start = await client(functions.updates.GetStateRequest())
    for number in range(20):
        world.post(private if number % 2 else group, f"m{number}")
    texts, state, slices = [], start, 0
    while True:
        found = await client(functions.updates.GetDifferenceRequest(state.pts, start.date, 0))
        texts += [message.message for message in found.new_messages]
        slices += 1
        if isinstance(found, types.updates.Difference):
            break
        state = found.intermediate_state
    assert texts == [f"m{number}" for number in range(20)]
    assert (slices, found.state.pts) == (3, me.log.pts)
    again = await client(functions.updates.GetDifferenceRequest(found.state.pts, datetime.now(UTC), 0))
    assert isinstance(again, types.updates.DifferenceEmpty)


async def test_the_account_difference_names_channels_that_went_on(
    sandbox: Sandbox, me: User, channel: Chat, client: Client
) -> None:
    state = await client(functions.updates.GetStateRequest())
    sandbox.world.post(channel, "x")
    found = await client(functions.updates.GetDifferenceRequest(state.pts, state.date, 0))
    assert [u.channel_id for u in found.other_updates if isinstance(u, types.UpdateChannelTooLong)] == [
        channel.id
    ]
    assert any(chat.id == channel.id and chat.access_hash for chat in found.chats)


async def test_channel_difference_replays_each_revision_in_slices(
    sandbox: Sandbox, me: User, channel: Chat, client: Client
) -> None:
    for number in range(5):
        sandbox.world.post(channel, f"m{number}")
    sandbox.world.edit(channel, 1, "m0 corrigido")
    sandbox.world.delete(channel, 2)
    peer, empty = input_channel(sandbox, me, channel), types.ChannelMessagesFilterEmpty()
    first = await client(functions.updates.GetChannelDifferenceRequest(peer, empty, 1, 5))
    assert ([m.message for m in first.new_messages], first.final) == (["m0", "m1", "m2", "m3", "m4"], False)
    rest = await client(functions.updates.GetChannelDifferenceRequest(peer, empty, first.pts, 5))
    assert [type(update).__name__ for update in rest.other_updates] == [
        "UpdateEditChannelMessage",
        "UpdateDeleteChannelMessages",
    ]
    assert rest.final
    done = await client(functions.updates.GetChannelDifferenceRequest(peer, empty, rest.pts, 5))
    assert isinstance(done, types.updates.ChannelDifferenceEmpty)


async def test_differences_can_show_messages_as_they_are_by_now_like_telegrams(
    sandbox: Sandbox, me: User, channel: Chat, client: Client
) -> None:
    sandbox.world.replays_revisions = False
    sandbox.world.post_many(channel, ["one", "two"])
    sandbox.world.edit(channel, 1, "one, corrected")
    sandbox.world.delete(channel, 2)
    peer, empty = input_channel(sandbox, me, channel), types.ChannelMessagesFilterEmpty()
    found = await client(functions.updates.GetChannelDifferenceRequest(peer, empty, 1, 100))
    assert [message.message for message in found.new_messages] == ["one, corrected"]
    assert found.pts == channel.log.pts


async def test_a_difference_is_too_long_beyond_the_log_and_when_the_fault_says_so(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    sandbox.world.log_limit = 10
    channel = sandbox.world.add_channel("Canal", [friend, me])
    sandbox.world.post_many(channel, [str(number) for number in range(50)])
    peer, empty = input_channel(sandbox, me, channel), types.ChannelMessagesFilterEmpty()
    found = await client(functions.updates.GetChannelDifferenceRequest(peer, empty, 1, 100))
    assert isinstance(found, types.updates.ChannelDifferenceTooLong)
    assert (found.dialog.pts, found.dialog.top_message, found.messages[0].id) == (51, 50, 50)
    recent = await client(functions.updates.GetChannelDifferenceRequest(peer, empty, 45, 100))
    assert len(recent.new_messages) == 6

    sandbox.faults.too_long(channel)
    sandbox.faults.too_long(me)
    assert {type(update) for update in client.pushed[-2:]} == {types.UpdateShort, types.UpdatesTooLong}
    forced = await client(functions.updates.GetChannelDifferenceRequest(peer, empty, 50, 100))
    assert isinstance(forced, types.updates.ChannelDifferenceTooLong)
    account = await client(functions.updates.GetDifferenceRequest(1, datetime.now(UTC), 0))
    assert isinstance(account, types.updates.DifferenceTooLong)


async def test_channel_private_strikes_as_often_as_it_was_told(
    sandbox: Sandbox, me: User, channel: Chat, client: Client
) -> None:
    sandbox.world.post(channel, "x")
    sandbox.faults.channel_private(me, channel)
    request = functions.updates.GetChannelDifferenceRequest(
        input_channel(sandbox, me, channel), types.ChannelMessagesFilterEmpty(), 1, 100
    )
    with pytest.raises(RpcError, match="CHANNEL_PRIVATE"):
        await client(request)
    assert len((await client(request)).new_messages) == 1


async def test_a_duplicated_key_is_refused_for_good(sandbox: Sandbox, me: User, client: Client) -> None:
    assert sandbox.faults.auth_key_duplicated(me) == 1
    for _ in range(2):
        with pytest.raises(RpcError, match="406 AUTH_KEY_DUPLICATED"):
            await client(functions.updates.GetStateRequest())


@pytest.mark.parametrize("kind", ["channel", "private"])
async def test_history_pages_like_telegram_for_any_offset(
    sandbox: Sandbox, me: User, friend: User, client: Client, kind: str
) -> None:
    world = sandbox.world
    chat = world.add_channel("C", [friend, me]) if kind == "channel" else world.private(me, friend)
    messages = world.import_history(chat, 40)
    world.delete(chat, [messages[9], messages[20]])
    left = [message.id_for(me.id) for message in messages if message.id in chat.messages]
    chance = random.Random(3)
    for _ in range(200):
        offset_id, add_offset = chance.choice([0, *left]), chance.randint(-12, 12)
        limit = chance.randint(1, 15)
        min_id, max_id = chance.choice([0, 5]), chance.choice([0, 35])
        newest_first = sorted(left, reverse=True)
        place = sum(1 for one in newest_first if offset_id and one >= offset_id) + add_offset
        expected = [
            one
            for one in newest_first[max(place, 0) : max(place + limit, 0)]
            if one > min_id and (not max_id or one < max_id)
        ]
        peer = input_peer(sandbox, me, chat)
        found = await client(
            functions.messages.GetHistoryRequest(peer, offset_id, None, add_offset, limit, max_id, min_id, 0)
        )
        assert [message.id for message in found.messages] == expected


async def test_dialogs_page_through_every_chat_once_with_its_top_message_and_pts(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    world = sandbox.world
    chats = [world.add_channel(f"C{number}", [friend, me]) for number in range(7)]
    chats += [world.add_group("G", [me, friend]), world.private(me, friend)]
    for number, chat in enumerate(chats):
        world.post(chat, "x", date=int(time.time()) - number % 3)
    seen: list[Any] = []
    offset: Any = types.InputPeerEmpty()
    while True:
        found = await client(functions.messages.GetDialogsRequest(None, 0, offset, 2, 0))
        seen += found.dialogs
        if len(found.dialogs) < 2:
            break
        last = found.dialogs[-1].peer
        offset = next(
            input_peer(sandbox, me, chat) for chat in chats if client_peer(chat, me) == last.to_dict()
        )
    assert len(seen) == len(chats)
    tops = {str(dialog.peer): (dialog.top_message, dialog.pts) for dialog in seen}
    assert tops[str(types.PeerChannel(chats[0].id))] == (1, 2)
    assert tops[str(types.PeerUser(friend.id))] == (2, None)


def client_peer(chat: Chat, viewer: User) -> Any:
    if chat.is_channel:
        return types.PeerChannel(chat.id).to_dict()
    peer = types.PeerChat(chat.id) if chat.kind == "group" else types.PeerUser(chat.other(viewer).id)
    return peer.to_dict()


async def test_sending_twice_with_one_random_id_sends_once(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    private = sandbox.world.private(me, friend)
    elsewhere = Client(sandbox, me, key=8)
    request = functions.messages.SendMessageRequest(input_peer(sandbox, me, private), "oi", random_id=99)
    first, second = await client(request), await client(request)
    assert first.id == second.id
    assert len(private.messages) == 1
    assert client.pushed == []
    assert [update.message.message for update in elsewhere.updates()] == ["oi"]


def test_plain_texts_travel_short_once_the_session_has_met_the_people(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    private = sandbox.world.private(me, friend)
    for text in ("first", "second"):
        sandbox.world.post(private, text)
    sandbox.world.post(private, "with media", media="photo")
    assert [type(updates).__name__ for updates in client.pushed] == [
        "Updates",
        "UpdateShortMessage",
        "Updates",
    ]
    assert client.pushed[0].users


def test_an_album_is_one_push_with_one_group(sandbox: Sandbox, channel: Chat, client: Client) -> None:
    messages = sandbox.world.post_album(channel, ["legenda", "", ""])
    assert len(client.pushed) == 1
    assert {update.message.grouped_id for update in client.updates()} == {messages[0].grouped_id}
    assert [update.message.id for update in client.updates()] == [1, 2, 3]


def test_migration_closes_the_group_and_goes_on_in_a_supergroup(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    group = sandbox.world.add_group("Grupo", [me, friend])
    chat = sandbox.world.migrate(group)
    actions = [u.message.action for u in client.updates() if hasattr(u, "message")]
    assert [type(action).__name__ for action in actions] == [
        "MessageActionChatMigrateTo",
        "MessageActionChannelMigrateFrom",
    ]
    assert (actions[0].channel_id, actions[1].chat_id) == (chat.id, group.id)
    with pytest.raises(ValueError, match="post there"):
        sandbox.world.post(group, "too late")
    assert sandbox.world.post(chat, "here").id == 2


def test_truth_is_what_the_account_could_see_while_it_was_a_member(
    sandbox: Sandbox, me: User, friend: User
) -> None:
    world = sandbox.world
    channel = world.add_channel("Canal", [friend])
    world.post(channel, "before")
    world.join(channel, me)
    world.post(channel, "during")
    world.leave(channel, me)
    world.post(channel, "after")
    assert [event.text for event in sandbox.truth(me)] == ["during"]
    assert [event.text for event in sandbox.truth(friend)] == ["before", "during", "after"]


def test_truth_identifies_each_change_as_the_gateway_does(
    sandbox: Sandbox, me: User, friend: User, channel: Chat
) -> None:
    world = sandbox.world
    private = world.private(me, friend)
    posted = world.post(channel, "x", media=Media.photo())
    edited = world.edit(channel, posted, "y")
    world.react(channel, posted)
    world.delete(channel, posted)
    world.post(private, "z")
    ref = str(channel.marked_id)
    new, edit, reaction, gone, secret = sandbox.truth(me)
    assert (new.id, new.caption, new.text, new.media) == (new_id(0, ref, 1), "x", None, "photo")
    assert edited.edit_date is not None
    when = datetime.fromtimestamp(edited.edit_date, UTC)
    assert edit_id(0, ref, 1, when, "hash") == f"{edit.id}:hash"
    assert (edit.reaction, reaction.reaction, reaction.caption) == (False, True, "y")
    assert (gone.id, gone.kind) == (delete_id(0, ref, 1), "message.deleted")
    assert (secret.id, secret.account_scope) == (new_id(me.id, str(friend.id), 1), me.id)


def test_truth_tells_replies_topics_and_services(sandbox: Sandbox, me: User, friend: User) -> None:
    world = sandbox.world
    forum = world.add_supergroup("Fórum", [me, friend], forum=True)
    topic = world.add_topic(forum, "Ações")
    first = world.post(forum, "a", topic=topic)
    world.post(forum, "b", topic=topic, reply_to=first)
    world.post(forum, "c")
    world.pin(forum, first)
    told = [(e.action, e.thread_id, e.reply_to_msg_id) for e in sandbox.truth(me)]
    assert told == [
        ("channel_create", None, None),
        ("topic_create", None, None),
        (None, topic.id, topic.id),
        (None, topic.id, first.id),
        (None, None, None),
        ("pin_message", None, first.id),
    ]


async def test_traffic_makes_exactly_its_count_and_truth_holds_all_of_it(
    sandbox: Sandbox, me: User, friend: User
) -> None:
    every_kind_of_chat(sandbox, me, friend)
    since = sandbox.world.position
    assert await sandbox.traffic.run(100_000, count=1234, mix=MIXED) == 1234
    assert len(sandbox.truth(me, since)) == 1234
    assert sum(sandbox.traffic.by_kind.values()) == 1234
    assert set(sandbox.traffic.by_kind) >= {"new", "edits", "deletions", "albums", "media", "reactions"}


@pytest.mark.parametrize("rate", [20.0, 1000.0])
async def test_traffic_is_not_faster_than_its_rate(
    sandbox: Sandbox, me: User, friend: User, rate: float
) -> None:
    every_kind_of_chat(sandbox, me, friend)
    count = int(rate / 2) + 1
    started = time.monotonic()
    await sandbox.traffic.run(rate, count=count)
    # How much slower it is depends on the machine; `make bench ARGS=sandbox` measures that.
    assert time.monotonic() - started >= (count - 1) / rate


def test_a_second_world_in_a_directory_keeps_logins_but_no_message_ids(tmp_path: Path) -> None:
    ids: list[tuple[int, ...]] = []
    for _ in range(2):
        sandbox = Sandbox(state_dir=tmp_path)
        me = sandbox.world.add_user("Ana", phone="+55")
        if not ids:
            Client(sandbox, me)
        assert sandbox.accounts.keys_of(me) == [7]
        message = sandbox.world.post(sandbox.world.private(me, sandbox.world.add_user("Bruno")), "x")
        channel = sandbox.world.add_channel("C", [me])
        ids.append((message.id_for(me.id), channel.id, me.log.pts))
    assert all(before < after for before, after in zip(*ids, strict=True))


async def test_the_date_of_a_channel_is_when_the_account_joined_it(
    tmp_path: Path,
) -> None:
    seconds = [1_700_000_000.0]
    sandbox = Sandbox(state_dir=tmp_path, clock=lambda: seconds[0])
    me, friend = sandbox.world.add_user("Ana", phone="+55"), sandbox.world.add_user("Bruno")
    channel = sandbox.world.add_channel("Canal", [friend], username="canal")
    client = Client(sandbox, me)
    request = functions.channels.GetChannelsRequest([input_channel(sandbox, me, channel)])
    assert (await client(request)).chats[0].date.timestamp() == 1_700_000_000
    seconds[0] += 3600
    sandbox.world.join(channel, me)
    assert (await client(request)).chats[0].date.timestamp() == 1_700_003_600
    seconds[0] += 60
    sandbox.world.leave(channel, me)
    sandbox.world.join(channel, me)
    assert (await client(request)).chats[0].date.timestamp() == 1_700_003_660
    dialogs = await client(functions.messages.GetDialogsRequest(None, 0, types.InputPeerEmpty(), 20, 0))
    assert [chat.date.timestamp() for chat in dialogs.chats] == [1_700_003_660]
    assert sandbox.delivery.view(friend).chat(channel).date == 1_700_000_000


async def test_deleted_and_skipped_ids_are_holes(
    sandbox: Sandbox, me: User, channel: Chat, client: Client
) -> None:
    world = sandbox.world
    world.post_many(channel, ["one", "two", "three"])
    world.delete(channel, 2)
    world.skip_ids(channel, 2)
    assert world.post(channel, "six").id == 6
    peer = input_channel(sandbox, me, channel)
    ids = [types.InputMessageID(message_id) for message_id in range(1, 8)]
    found = (await client(functions.channels.GetMessagesRequest(peer, ids))).messages
    assert [message.id for message in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [m.id for m in found if isinstance(m, types.MessageEmpty)] == [2, 4, 5, 7]
    history = functions.messages.GetHistoryRequest(input_peer(sandbox, me, channel), 0, None, 0, 500, 0, 0, 0)
    assert [message.id for message in (await client(history)).messages] == [6, 3, 1]


async def test_a_request_gives_at_most_a_hundred_messages(
    sandbox: Sandbox, me: User, friend: User, channel: Chat, client: Client
) -> None:
    sandbox.world.post_many(channel, [str(number) for number in range(150)])
    peer = input_peer(sandbox, me, channel)
    page = await client(functions.messages.GetHistoryRequest(peer, 0, None, 0, 1000, 0, 0, 0))
    assert [message.id for message in page.messages] == list(range(150, 50, -1))
    ascending = await client(functions.messages.GetHistoryRequest(peer, 21, None, -100, 100, 0, 20, 0))
    assert [message.id for message in ascending.messages] == list(range(120, 20, -1))
    named = input_channel(sandbox, me, channel)
    for request in (
        functions.channels.GetMessagesRequest(named, []),
        functions.messages.GetMessagesRequest([]),
    ):
        with pytest.raises(RpcError, match="MESSAGE_IDS_EMPTY"):
            await client(request)
    ids = [types.InputMessageID(message_id) for message_id in range(1, 102)]
    for request in (
        functions.channels.GetMessagesRequest(named, ids),
        functions.messages.GetMessagesRequest(ids),
    ):
        with pytest.raises(RpcError, match="LIMIT_INVALID"):
            await client(request)


@pytest.mark.parametrize("error", [None, "USER_BANNED_IN_CHANNEL"])
async def test_who_is_banned_from_a_channel_finds_nothing_of_it_until_coming_back(
    sandbox: Sandbox, me: User, friend: User, client: Client, error: str | None
) -> None:
    world = sandbox.world
    channel = world.add_supergroup("Mesa", [friend, me], username="mesa")
    world.post(channel, "before", sender=friend)
    named, peer = input_channel(sandbox, me, channel), input_peer(sandbox, me, channel)
    world.ban(channel, me, error=error)
    pushed = client.pushed[-1]
    assert isinstance(pushed.updates[0], types.UpdateChannel)
    assert isinstance(pushed.chats[0], types.ChannelForbidden)
    world.post(channel, "meanwhile", sender=friend)
    assert client.pushed[-1] is pushed
    everything = types.ChannelMessagesFilterEmpty()
    history = functions.messages.GetHistoryRequest(peer, 0, None, 0, 100, 0, 0, 0)
    for request in (
        history,
        functions.channels.GetMessagesRequest(named, [types.InputMessageID(1)]),
        functions.updates.GetChannelDifferenceRequest(named, everything, 1, 100),
        functions.channels.JoinChannelRequest(named),
    ):
        with pytest.raises(RpcError, match=error or "CHANNEL_PRIVATE"):
            await client(request)
    dialogs = functions.messages.GetDialogsRequest(None, 0, types.InputPeerEmpty(), 20, 0)
    assert (await client(dialogs)).dialogs == []
    difference = await client(
        functions.updates.GetDifferenceRequest(me.log.pts, datetime.fromtimestamp(0, UTC), 0)
    )
    assert isinstance(difference.chats[0], types.ChannelForbidden)
    with pytest.raises(ValueError, match="unban first"):
        world.join(channel, me)
    world.unban(channel, me)
    world.join(channel, me)
    assert [m.message for m in (await client(history)).messages if isinstance(m, types.Message)] == [
        "meanwhile",
        "before",
    ]
    assert "meanwhile" not in {event.text for event in sandbox.truth(me)}


async def test_who_is_banned_from_a_basic_group_is_told_and_kept_out(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    world = sandbox.world
    group = world.add_group("Grupo", [friend, me])
    before = world.post(group, "before", sender=friend)
    world.ban(group, me)
    assert isinstance(client.updates()[-1].message.action, types.MessageActionChatDeleteUser)
    assert isinstance(client.pushed[-1].chats[0], types.ChatForbidden)
    with pytest.raises(RpcError, match="403 CHAT_FORBIDDEN"):
        await client(
            functions.messages.GetHistoryRequest(types.InputPeerChat(group.id), 0, None, 0, 9, 0, 0, 0)
        )
    by_id = functions.messages.GetMessagesRequest([types.InputMessageID(before.id_for(me.id))])
    assert isinstance((await client(by_id)).messages[0], types.MessageEmpty)
    world.unban(group, me)
    world.join(group, me)
    assert (await client(by_id)).messages[0].message == "before"


async def test_a_supergroup_can_hide_what_was_before_a_member_came(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    world = sandbox.world
    chat = world.add_supergroup("Mesa", [friend], hidden_history=True)
    world.post(chat, "hidden")
    world.join(chat, me)
    world.post(chat, "seen")
    named, peer = input_channel(sandbox, me, chat), input_peer(sandbox, me, chat)
    history = await client(functions.messages.GetHistoryRequest(peer, 0, None, 0, 100, 0, 0, 0))
    assert [message.id for message in history.messages] == [3, 2]
    ids = [types.InputMessageID(message_id) for message_id in (1, 2, 3)]
    found = (await client(functions.channels.GetMessagesRequest(named, ids))).messages
    assert [isinstance(message, types.MessageEmpty) for message in found] == [True, False, False]
    everything = types.ChannelMessagesFilterEmpty()
    difference = await client(functions.updates.GetChannelDifferenceRequest(named, everything, 1, 100))
    assert [message.id for message in difference.new_messages] == [2, 3]
    assert len(chat.ids_for(friend)) == 3


async def test_who_is_no_member_is_kept_out_once_a_chat_is_private(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    channel = sandbox.world.add_channel("Canal", [friend], username="canal")
    request = functions.channels.GetChannelsRequest([input_channel(sandbox, me, channel)])
    assert (await client(request)).chats[0].username == "canal"
    sandbox.world.make_private(channel)
    with pytest.raises(RpcError, match="CHANNEL_PRIVATE"):
        await client(request)


async def test_the_top_message_of_every_kind_of_dialog_is_its_newest_that_is_left(
    sandbox: Sandbox, me: User, friend: User, client: Client
) -> None:
    chats = every_kind_of_chat(sandbox, me, friend)
    expected = {}
    for chat in chats:
        left = sandbox.world.post(chat, "stays", sender=friend)
        sandbox.world.delete(chat, sandbox.world.post(chat, "goes", sender=friend))
        expected[str(client_peer(chat, me))] = left.id_for(me.id)
    request = functions.messages.GetDialogsRequest(None, 0, types.InputPeerEmpty(), 100, 0)
    found = await client(request)
    assert {str(dialog.peer.to_dict()): dialog.top_message for dialog in found.dialogs} == expected
    assert {str(message.peer_id.to_dict()): message.id for message in found.messages} == expected
