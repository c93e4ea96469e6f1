"""An unmodified Telethon client lives in the sandbox's world: only the address and the public key differ."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from telethon import TelegramClient, errors, events
from telethon.crypto import rsa
from telethon.sessions import MemorySession, SQLiteSession
from telethon.tl import functions, types

from gateway.sandbox import Chat, ControlClient, ControlError, Entity, Sandbox, TruthEvent, User

PHONE = "+5511999990001"


@dataclass
class Stage:
    """A small world with one account, Ana, to log in as."""

    sandbox: Sandbox
    me: User
    friend: User
    channel: Chat
    forum: Chat
    group: Chat
    private: Chat

    def new_client(self, session: Any = None, **options: Any) -> TelegramClient:
        session = session or MemorySession()
        session.set_dc(2, self.sandbox.host, self.sandbox.port)
        retries = {"request_retries": 2, "retry_delay": 0.1, "connection_retries": 100}
        return TelegramClient(session, 1, "sandbox", **retries, **options)

    async def log_in(self, client: TelegramClient) -> TelegramClient:
        await client.connect()
        await client.send_code_request(PHONE)
        await client.sign_in(PHONE, "12345")
        return client


class Seen:
    """What a client's raw updates and message events showed."""

    def __init__(self, client: TelegramClient) -> None:
        self.updates: list[Any] = []
        self.messages: list[Any] = []
        self._arrived = asyncio.Event()
        client.add_event_handler(self._on_update, events.Raw)
        client.add_event_handler(self._on_message, events.NewMessage)

    async def _on_update(self, update: Any) -> None:
        self.updates.append(update)
        self._arrived.set()

    async def _on_message(self, event: Any) -> None:
        self.messages.append(event.message)
        self._arrived.set()

    async def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                self._arrived.clear()
                await self._arrived.wait()

    async def texts(self, expected: list[str]) -> None:
        """Waits for these texts, in any order, and for no text twice."""
        await self.until(lambda: len(self.messages) >= len(expected))
        assert sorted(message.message for message in self.messages) == sorted(expected)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Sandbox(state_dir=tmp_path / "sandbox", control_port=0, seed=1) as sandbox:
        rsa.add_key(sandbox.public_key_path.read_text(), old=False)
        world = sandbox.world
        me, friend = world.add_user("Ana", phone=PHONE), world.add_user("Bruno", username="bruno_b3")
        yield Stage(
            sandbox,
            me,
            friend,
            world.add_channel("Sinais", [friend, me], username="sinais"),
            world.add_supergroup("Fórum", [friend, me], forum=True),
            world.add_group("Grupo", [me, friend]),
            world.private(me, friend),
        )


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[TelegramClient]:
    client = await stage.log_in(stage.new_client())
    yield client
    await client.disconnect()


async def test_login_by_code_refuses_a_wrong_one(stage: Stage) -> None:
    client = stage.new_client()
    await client.connect()
    assert not await client.is_user_authorized()
    await client.send_code_request(PHONE)
    with pytest.raises(errors.PhoneCodeInvalidError):
        await client.sign_in(PHONE, "99999")
    assert (await client.sign_in(PHONE, "12345")).first_name == "Ana"
    assert await client.is_user_authorized()
    assert await client.log_out()


async def test_login_asks_for_the_two_step_password_and_checks_it(stage: Stage) -> None:
    stage.sandbox.world.add_user("Carla", phone="+5511999990002", password="segredo")
    client = stage.new_client()
    await client.connect()
    await client.send_code_request("+5511999990002")
    with pytest.raises(errors.SessionPasswordNeededError):
        await client.sign_in("+5511999990002", "12345")
    with pytest.raises(errors.PasswordHashInvalidError):
        await client.sign_in(password="errado")
    assert (await client.sign_in(password="segredo")).first_name == "Carla"
    await client.disconnect()


async def test_login_as_a_bot(stage: Stage) -> None:
    bot = stage.sandbox.world.add_user("Robô", bot_token="42:token", username="robo_bot")
    stage.sandbox.world.join(stage.group, bot)
    client = stage.new_client()
    await client.start(bot_token="42:token")
    assert (await client.get_me()).bot
    seen = Seen(client)
    stage.sandbox.world.post(stage.group, "oi, robô")
    await seen.texts(["oi, robô"])
    await client.disconnect()


@pytest.mark.parametrize("by", ["another client", "control"])
async def test_login_by_qr_code(stage: Stage, by: str) -> None:
    client = stage.new_client()
    await client.connect()
    code = await client.qr_login()
    waiting = asyncio.ensure_future(code.wait(60))
    if by == "control":
        async with ControlClient(stage.sandbox.control_url) as control:
            await control.call("accept_login", token=code.url, user=stage.me.id)
    else:
        phone = await stage.log_in(stage.new_client())
        await phone(functions.auth.AcceptLoginTokenRequest(code.token))
        await phone.disconnect()
    assert (await waiting).first_name == "Ana"
    await client.disconnect()


async def test_a_login_survives_a_restart_of_the_server(stage: Stage, client: TelegramClient) -> None:
    await client.get_dialogs()
    seen = Seen(client)
    await stage.sandbox.restart(down_seconds=0.2)
    async with asyncio.timeout(60):
        await stage.sandbox.delivery.connected(stage.me)
    stage.sandbox.world.post(stage.channel, "de volta")
    await seen.texts(["de volta"])


async def test_every_kind_of_message_arrives_as_it_was_posted(stage: Stage, client: TelegramClient) -> None:
    world = stage.sandbox.world
    await client.get_dialogs()
    seen = Seen(client)
    since = world.position
    bold = (Entity("bold", 0, 6), Entity("text_url", 7, 5, url="https://example.org"))
    first = world.post(stage.channel, "COMPRA PETR4: 25,50 A 26,00", entities=bold)
    world.post(stage.channel, "resposta", reply_to=first)
    for media in ("photo", "document", "webpage"):
        world.post(stage.channel, f"com {media}", media=media)
    world.post_album(stage.channel, ["álbum", "", ""])
    topic = world.add_topic(stage.forum, "Ações")
    world.post(stage.forum, "no tópico", topic=topic, sender=stage.friend)
    world.post(stage.forum, "admin anônimo")
    world.post(stage.forum, "encaminhada", forward_from=first, sender=stage.friend)
    world.post(stage.group, "no grupo")
    world.post(stage.group, "de novo no grupo")
    world.post(stage.private, "em particular")
    world.post(stage.private, "em particular, responde", reply_to=1)
    world.edit(stage.channel, first, "COMPRA PETR4: 25,40")
    world.react(stage.channel, first)
    world.pin(stage.channel, first)
    world.set_title(stage.group, "Grupo novo")
    world.delete(stage.channel, 2)
    world.delete(stage.group, 1)
    world.migrate(stage.group)

    truth = stage.sandbox.truth(stage.me, since)
    wanted = [event for event in truth if event.kind == "message.new"]

    def named(word: str) -> list[Any]:
        return [update for update in seen.updates if word in type(update).__name__]

    await seen.until(lambda: len(_new(seen)) >= len(wanted))
    await seen.until(lambda: len(named("Edit")) >= 2 and len(named("Delete")) >= 2)
    assert sorted(_described(seen)) == sorted(_truth(wanted))
    edits = [update.message for update in named("Edit")]
    assert [edit.message for edit in edits] == ["COMPRA PETR4: 25,40"] * 2
    assert edits[1].reactions.results[0].count == 1
    assert [update.messages for update in named("Delete")] == [[2], [1]]

    by_text = {update.message.message: update.message for update in _new(seen) if _full(update)}
    assert [type(entity).__name__ for entity in by_text["COMPRA PETR4: 25,50 A 26,00"].entities] == [
        "MessageEntityBold",
        "MessageEntityTextUrl",
    ]
    assert by_text["admin anônimo"].from_id == types.PeerChannel(stage.forum.id)
    assert by_text["encaminhada"].fwd_from.channel_post == first.id
    assert by_text["álbum"].post
    assert by_text["no tópico"].reply_to.forum_topic


def _full(update: Any) -> bool:
    return hasattr(update.message, "message") and update.message.message is not None


def _new(seen: Seen) -> list[Any]:
    return [u for u in seen.updates if "New" in type(u).__name__ or "Short" in type(u).__name__]


def _described(seen: Seen) -> list[tuple[str, int, str]]:
    found = []
    for update in _new(seen):
        if isinstance(update, types.UpdateShortMessage):
            found.append((str(update.user_id), update.id, update.message))
        elif isinstance(update, types.UpdateShortChatMessage):
            found.append((str(-update.chat_id), update.id, update.message))
        else:
            message = update.message
            chat = message.chat_id or 0
            found.append((str(chat), message.id, getattr(message, "message", None) or ""))
    return found


def _truth(events: list[TruthEvent]) -> list[tuple[str, int, str]]:
    return [(event.channel_id, event.message_id, event.text or event.caption or "") for event in events]


async def test_what_was_missed_offline_comes_by_difference_in_slices(stage: Stage, tmp_path: Path) -> None:
    stage.sandbox.world.difference_limit = 5
    session = SQLiteSession(str(tmp_path / "ana"))
    client = await stage.log_in(stage.new_client(session))
    await client.get_dialogs()
    seen = Seen(client)
    stage.sandbox.world.post(stage.channel, "antes")
    stage.sandbox.world.post(stage.private, "antes")
    await seen.until(lambda: len(seen.messages) == 2)
    await client.disconnect()

    missed = [f"canal {number}" for number in range(17)]
    stage.sandbox.world.post_many(stage.channel, missed)
    missed += [stage.sandbox.world.post(stage.private, f"privado {n}").text for n in range(13)]
    client = stage.new_client(SQLiteSession(str(tmp_path / "ana")), catch_up=True)
    seen = Seen(client)
    await client.connect()
    await client.get_me()
    await seen.texts(missed)
    await client.disconnect()


async def test_a_lost_push_is_seen_as_a_gap_and_recovered(stage: Stage, client: TelegramClient) -> None:
    await client.get_dialogs()
    seen = Seen(client)
    stage.sandbox.world.post(stage.channel, "1")
    await seen.until(lambda: len(seen.messages) == 1)
    stage.sandbox.faults.fault_pushes("swallow", times=3)
    stage.sandbox.world.post_many(stage.channel, ["2", "3", "4", "5"])
    await seen.texts(["1", "2", "3", "4", "5"])


async def test_too_long_gives_the_new_state_and_the_history_the_rest(
    stage: Stage, client: TelegramClient
) -> None:
    await client.get_dialogs()
    seen = Seen(client)
    stage.sandbox.faults.fault_pushes("swallow", times=4)
    stage.sandbox.world.post_many(stage.channel, ["1", "2", "3", "4"])
    stage.sandbox.faults.too_long(stage.channel)
    async with asyncio.timeout(60):
        while stage.sandbox.faults.injected["too_long"] == 0:
            await asyncio.sleep(0.02)
    # The state is past what was lost: the next message is in order, and the others are in the history.
    async with asyncio.timeout(60):
        while not any(message.message == "5" for message in seen.messages):
            if not stage.channel.ids[-1] > 4:
                stage.sandbox.world.post(stage.channel, "5")
            await asyncio.sleep(0.05)
    assert [message.message for message in seen.messages] == ["5"]
    history = await client.get_messages(stage.channel.marked_id, limit=10)
    assert [message.message for message in history] == ["5", "4", "3", "2", "1"]


async def test_dialogs_and_history_and_single_messages(stage: Stage, client: TelegramClient) -> None:
    world = stage.sandbox.world
    world.import_history(stage.channel, 250, text="h{}")
    world.post(stage.private, "oi")
    dialogs = await client.get_dialogs()
    by_id = {dialog.id: dialog for dialog in dialogs}
    assert set(by_id) == {
        stage.channel.marked_id,
        stage.forum.marked_id,
        stage.group.marked_id,
        stage.friend.id,
    }
    assert (by_id[stage.channel.marked_id].message.id, by_id[stage.friend.id].message.message) == (250, "oi")
    newest = await client.get_messages("sinais", limit=None, wait_time=0)
    assert [message.id for message in newest] == list(range(250, 0, -1))
    oldest = [message.id async for message in client.iter_messages("sinais", reverse=True, min_id=240)]
    assert oldest == list(range(241, 251))
    three, missing = await client.get_messages("sinais", ids=[3, 999])
    assert (three.message, missing) == ("h3", None)
    found = await client.get_messages("sinais", search="h77", limit=5)
    assert [message.id for message in found] == [77]


async def test_forum_topics_are_listed_with_their_newest_message(
    stage: Stage, client: TelegramClient
) -> None:
    topic = stage.sandbox.world.add_topic(stage.forum, "Futuros")
    last = stage.sandbox.world.post(stage.forum, "WINFUT", topic=topic)
    peer = await client.get_input_entity((await client.get_dialogs())[0].entity)
    peer = await client.get_input_entity(stage.forum.marked_id)
    found = await client(functions.messages.GetForumTopicsRequest(peer, None, 0, 0, 10))
    assert [(t.id, t.title, t.top_message) for t in found.topics] == [
        (topic.id, "Futuros", last.id),
        (1, "General", 1),
    ]
    thread = await client.get_messages(peer, reply_to=topic.id, limit=5)
    assert [message.message for message in thread] == ["WINFUT"]


async def test_a_client_sends_edits_forwards_and_deletes(stage: Stage, client: TelegramClient) -> None:
    await client.get_dialogs()
    elsewhere = await stage.log_in(stage.new_client())
    seen = Seen(elsewhere)
    sent = await client.send_message("bruno_b3", "**oi**, Bruno")
    assert (sent.message, sent.out, type(sent.entities[0]).__name__) == (
        "oi, Bruno",
        True,
        "MessageEntityBold",
    )
    answer = await client.send_message(stage.forum.marked_id, "sim", reply_to=1)
    assert answer.id == 2
    edited = await client.edit_message(sent, "oi, Bruno!")
    assert edited.edit_date is not None
    file = await client.send_file(stage.group.marked_id, b"a;b\n1;2\n", caption="tabela")
    assert await client.download_media(file, bytes) == b"a;b\n1;2\n"
    forwarded = await client.forward_messages(stage.group.marked_id, sent)
    assert forwarded.fwd_from is not None
    await client.delete_messages(None, [sent.id])
    await seen.until(lambda: any(isinstance(u, types.UpdateDeleteMessages) for u in seen.updates))
    assert [message.message for message in seen.messages] == ["oi, Bruno", "sim", "tabela", "oi, Bruno!"]
    told = [(event.kind, event.out) for event in stage.sandbox.truth(stage.me)]
    assert told[1:] == [
        ("message.new", True),
        ("message.new", True),
        ("message.edited", True),
        ("message.new", True),
        ("message.new", True),
        ("message.deleted", False),
    ]
    await elsewhere.disconnect()


async def test_media_of_a_channel_downloads(stage: Stage, client: TelegramClient) -> None:
    await client.get_dialogs()
    posted = stage.sandbox.world.post(stage.channel, "gráfico", media="photo")
    message = await client.get_messages(stage.channel.marked_id, ids=posted.id)
    assert posted.media is not None
    assert await client.download_media(message, bytes) == posted.media.data


async def test_joining_and_leaving_change_what_arrives(stage: Stage, client: TelegramClient) -> None:
    news = stage.sandbox.world.add_channel("Notícias", [stage.friend], username="noticias")
    seen = Seen(client)
    stage.sandbox.world.post(news, "não vejo")
    await client(functions.channels.JoinChannelRequest("noticias"))
    await client.get_dialogs()
    stage.sandbox.world.post(news, "vejo")
    await seen.texts(["vejo"])
    await client(functions.channels.LeaveChannelRequest("noticias"))
    stage.sandbox.world.post(news, "não vejo mais")
    stage.sandbox.world.post(stage.channel, "fim")
    await seen.texts(["vejo", "fim"])
    assert [event.text for event in stage.sandbox.truth(stage.me) if event.pushed] == ["vejo", "fim"]


async def test_an_ended_login_is_refused_when_the_client_next_asks(
    stage: Stage, client: TelegramClient
) -> None:
    assert stage.sandbox.faults.auth_key_unregistered(stage.me) == 1
    with pytest.raises(errors.AuthKeyUnregisteredError):
        await client(functions.updates.GetStateRequest())


async def test_a_duplicated_key_is_refused(stage: Stage, client: TelegramClient) -> None:
    stage.sandbox.faults.auth_key_duplicated(stage.me)
    with pytest.raises(errors.AuthKeyDuplicatedError):
        await client(functions.updates.GetStateRequest())


async def test_mixed_traffic_over_control_arrives_as_the_truth_tells(
    stage: Stage, client: TelegramClient
) -> None:
    await client.get_dialogs()
    seen = Seen(client)
    async with ControlClient(stage.sandbox.control_url) as control:
        since = (await control.stats())["position"]
        stats = await control.traffic(500, count=400, wait=True)
        truth = await control.truth(stage.me.id, since)
    assert (stats["made"], len(truth)) == (400, 400)
    assert 0 < stats["rate"] <= 550  # a busy machine may be slower, never faster
    wanted = [event for event in truth if event.kind == "message.new"]
    await seen.until(lambda: len(_new(seen)) >= len(wanted))
    assert sorted(_described(seen)) == sorted(_truth(wanted))


async def test_control_builds_a_world_and_changes_it(stage: Stage) -> None:
    async with ControlClient(stage.sandbox.control_url) as control:
        ana = stage.me.id
        bot = (await control.call("add_user", first_name="Robô", bot_token="1:x"))["id"]
        made = await control.call("add_chat", kind="channel", title="Novo", members=[bot, ana])
        chat = made["chat"]
        first = await control.post(chat, "um", entities=[{"type": "bold", "offset": 0, "length": 2}])
        second = await control.post(chat, "dois", media="photo", reply_to=first)
        assert await control.post_many(chat, ["três", "quatro"], per_push=2) == [3, 4]
        await control.edit(chat, first, "um!")
        await control.call("react", chat=chat, message_id=first)
        await control.call("pin", chat=chat, message_id=second)
        assert await control.delete(chat, [3, 4, 99]) == [3, 4]
        truth = await control.truth(ana)
        assert [(e.kind, e.message_id, e.text or e.caption) for e in truth if e.channel_id == chat] == [
            ("message.new", 1, "um"),
            ("message.new", 2, "dois"),
            ("message.new", 3, "três"),
            ("message.new", 4, "quatro"),
            ("message.edited", 1, "um!"),
            ("message.edited", 1, "um!"),
            ("message.new", 5, None),
            ("message.deleted", 3, None),
            ("message.deleted", 4, None),
        ]
        described = await control.describe()
        assert [one["messages"] for one in described["chats"] if one["chat"] == chat] == [3]
        with pytest.raises(ControlError, match="there is no chat '-1'"):
            await control.post("-1", "para ninguém")
        with pytest.raises(ControlError, match="there is no command 'explode'"):
            await control.call("explode")


async def test_control_injects_faults_and_restarts(stage: Stage, client: TelegramClient) -> None:
    await client.get_dialogs()
    seen = Seen(client)
    async with ControlClient(stage.sandbox.control_url) as control:
        await control.fault(
            "fail_calls", user=stage.me.id, method="GetUsersRequest", code=400, message="NO", times=1
        )
        with pytest.raises(errors.BadRequestError):
            await client(functions.users.GetUsersRequest([types.InputUserSelf()]))
        await control.fault("fault_pushes", kind="duplicate", times=1)
        await control.post(str(stage.channel.marked_id), "uma vez")
        await seen.texts(["uma vez"])
        assert await control.drop_connections(stage.me.id) == 1
        await control.restart(0.1)
        await stage.sandbox.delivery.connected(stage.me)
        await control.post(str(stage.channel.marked_id), "de volta")
        await seen.texts(["uma vez", "de volta"])
        with pytest.raises(ControlError, match="no fault of the wire"):
            await control.fault("gravity")


async def test_the_command_serves_a_world_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "gateway", "sandbox", "--port", "0", "--control-port", "0")
    options = ("--state-dir", str(tmp_path), "--accounts", "2", "--rate", "50")
    process = await asyncio.create_subprocess_exec(*command, *options, stdout=asyncio.subprocess.PIPE)
    try:
        shown = await _printed(process)
        client = await _client_of(shown)
        seen = Seen(client)
        # Three channels, a supergroup, a forum and a group; private chats from their first message on.
        assert len(await client.get_dialogs()) >= 6
        await seen.until(lambda: len(seen.messages) >= 5)
        async with ControlClient(shown["Control"].split()[0]) as control:
            assert (await control.stats())["running"]
        await client.disconnect()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _printed(process: asyncio.subprocess.Process) -> dict[str, str]:
    """What the command says, by name: its exported variables, and its remarks up to the control URL."""
    assert process.stdout is not None
    shown: dict[str, str] = {}
    async with asyncio.timeout(60):
        while "Control" not in shown:
            line = (await process.stdout.readline()).decode()
            assert line, "it ended before it was up"
            separator = "=" if line.startswith("export") else ": "
            name, _, value = line.removeprefix("export ").removeprefix("# ").strip().partition(separator)
            shown[name] = value
    return shown


async def _client_of(shown: dict[str, str]) -> TelegramClient:
    host, _, port = shown["TELEGRAM_SERVER"].partition(":")
    rsa.add_key(Path(shown["TELEGRAM_SERVER_PUBLIC_KEY"]).read_text(), old=False)
    session = MemorySession()
    session.set_dc(2, host, int(port))
    client = TelegramClient(session, int(shown["TELEGRAM_API_ID"]), shown["TELEGRAM_API_HASH"])
    await client.connect()
    await client.send_code_request("+5511999990002")
    await client.sign_in("+5511999990002", "12345")
    return client
