"""The sandbox's wire, seen by Telethon and by a client that does what libraries do not do on purpose."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from telethon import TelegramClient, errors, events
from telethon.crypto import rsa
from telethon.network import ConnectionTcpAbridged, ConnectionTcpFull, ConnectionTcpIntermediate
from telethon.tl import functions, types
from telethon.tl.core import GzipPacked

from gateway.errors import ConfigurationError
from gateway.sandbox.backend import ClientSession
from gateway.sandbox.wire import WireServer
from tests.integration.raw_mtproto import RawClient, TransportError
from tests.integration.wire_backend import TinyBackend, telethon_client

RESOLVE = functions.contacts.ResolveUsernameRequest
STATUS = functions.account.UpdateStatusRequest(offline=False)
PATIENCE_SECONDS = 90.0  # 3 000 pushes are 3 000 acknowledgements of Telethon, on a machine that may be busy


@pytest.fixture
async def backend() -> TinyBackend:
    return TinyBackend()


@pytest.fixture
async def wire(backend: TinyBackend, tmp_path: Path) -> AsyncIterator[WireServer]:
    async with WireServer(backend, state_dir=tmp_path) as wire:
        backend.wire = wire
        yield wire


@pytest.fixture
async def client(wire: WireServer) -> AsyncIterator[TelegramClient]:
    client = telethon_client(wire)
    await client.connect()
    yield client
    await client.disconnect()


@pytest.fixture
async def raw(wire: WireServer) -> AsyncIterator[RawClient]:
    async with RawClient(wire) as raw:
        await raw.exchange_keys()
        yield raw


class Updates:
    """The numbers that a Telethon client was pushed, in the order it saw them."""

    def __init__(self, client: TelegramClient) -> None:
        self.numbers: list[int] = []
        self._arrived = asyncio.Event()
        client.add_event_handler(self._on_update, events.Raw(types.UpdateUserStatus))

    async def _on_update(self, update: types.UpdateUserStatus) -> None:
        self.numbers.append(update.user_id)
        self._arrived.set()

    async def until(self, count: int) -> list[int]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.numbers) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.numbers


def push(session: ClientSession, *numbers: int) -> None:
    for number in numbers:
        session.push(numbered(number))


def numbered(number: int) -> bytes:
    return bytes(types.UpdateShort(types.UpdateUserStatus(number, types.UserStatusEmpty()), time.time()))


# Clients as they come


@pytest.mark.parametrize(
    "transport",
    [ConnectionTcpFull, ConnectionTcpAbridged, ConnectionTcpIntermediate],
    ids=lambda t: t.__name__,
)
async def test_telethon_gets_a_key_and_an_answer_over_each_transport(
    wire: WireServer, transport: Any
) -> None:
    client = telethon_client(wire, connection=transport)
    await client.connect()
    config = await client(functions.help.GetConfigRequest())
    assert config.dc_options[0].port == wire.port
    # Packets beyond abridged's and gzip's first size, both ways.
    ids = list(range(3_000))
    documents = await client(functions.messages.GetCustomEmojiDocumentsRequest(ids))
    assert [document.id for document in documents] == ids
    await client.disconnect()


async def test_the_exported_public_key_is_what_clients_load(wire: WireServer) -> None:
    before = set(rsa._server_keys)
    rsa.add_key(wire.public_key_path.read_text(), old=False)
    added = set(rsa._server_keys) - before or {wire.server_key.fingerprint}
    assert added == {wire.server_key.fingerprint}
    assert wire.public_key_path.read_text() == wire.public_key_pem


async def test_a_login_survives_a_restart_of_the_server(backend: TinyBackend, tmp_path: Path) -> None:
    async with WireServer(backend, state_dir=tmp_path) as wire:
        backend.wire = wire
        # It tries until the server is there again.
        client = telethon_client(wire, retry_delay=0.05, connection_retries=1000)
        await client.connect()
        key_id = client.session.auth_key.key_id
        port = wire.port
        fingerprint = wire.server_key.fingerprint
    async with WireServer(backend, state_dir=tmp_path, port=port) as wire:
        backend.wire = wire
        await client(functions.help.GetConfigRequest())
        assert wire.server_key.fingerprint == fingerprint
        assert [session.auth_key_id for session in wire.sessions] == [key_id]
        await client.disconnect()


async def test_private_keys_are_readable_by_their_owner_only(client: TelegramClient, tmp_path: Path) -> None:
    private = [tmp_path / "server_key.pem", *(tmp_path / "auth_keys").iterdir()]
    assert len(private) >= 2
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


async def test_a_taken_port_is_reported_with_what_to_do(wire: WireServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="choose another port"):
        async with WireServer(TinyBackend(), state_dir=tmp_path, port=wire.port):
            pass


async def test_a_destroyed_key_is_not_found(
    wire: WireServer, backend: TinyBackend, client: TelegramClient
) -> None:
    await backend.until_open(1)
    wire.destroy_auth_key(client.session.auth_key.key_id)
    await asyncio.wait_for(backend.until_open(0), PATIENCE_SECONDS)
    with pytest.raises((errors.AuthKeyNotFound, ConnectionError)):
        await client(functions.help.GetConfigRequest())
    key = client.session.auth_key.key
    async with RawClient(wire, key) as raw:
        await raw.send(functions.PingRequest(1))
        with pytest.raises(TransportError, match="-404"):
            await raw.receive()


async def test_pushes_arrive_all_and_in_order(
    wire: WireServer, backend: TinyBackend, client: TelegramClient
) -> None:
    updates = Updates(client)
    await client(STATUS)
    (session,) = wire.sessions
    push(session, *range(1, 3_001))
    assert await updates.until(3_000) == list(range(1, 3_001))


async def test_errors_of_the_world_reach_the_caller(client: TelegramClient, raw: RawClient) -> None:
    with pytest.raises(errors.FloodWaitError) as flood:
        await client(functions.contacts.GetBlockedRequest(0, 1))
    assert flood.value.seconds == 77
    mistake = await raw.call(functions.help.GetNearestDcRequest())
    assert (mistake.error_code, mistake.error_message) == (500, "INTERNAL_SERVER_ERROR")
    assert await raw.call(STATUS) is True


async def test_the_server_runs_on_uvloop_too(tmp_path: Path) -> None:
    async def scenario() -> list[int]:
        backend = TinyBackend()
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            WireServer(backend, state_dir=tmp_path) as wire,
            RawClient(wire) as raw,
        ):
            await raw.exchange_keys()
            await raw.call(STATUS)
            (session,) = wire.sessions
            wire.faults.stall(0.05)
            push(session, 1, 2, 3)
            received = [(await raw.receive(types.UpdateShort))[2].update.user_id for _ in range(3)]
            wire.drop_connections()
            await raw.closed()
            return received

    assert await asyncio.to_thread(lambda: uvloop.run(scenario())) == [1, 2, 3]


async def test_rotated_salts_cost_no_request_and_repeat_none(
    wire: WireServer, backend: TinyBackend, client: TelegramClient
) -> None:
    for _ in range(3):
        wire.rotate_salts()
        assert await client(STATUS)
    assert backend.calls["UpdateStatusRequest"] == 3


async def test_a_client_with_a_wrong_clock_is_put_right(
    wire: WireServer, backend: TinyBackend, client: TelegramClient
) -> None:
    slow = telethon_client(wire, client.session)
    slow._sender._state.time_offset = -4_000
    await slow.connect()
    assert await slow(STATUS)
    assert abs(slow._sender._state.time_offset) < 60
    assert backend.calls["UpdateStatusRequest"] == 1
    await slow.disconnect()


async def test_the_layer_is_remembered_over_a_reconnect(
    wire: WireServer, backend: TinyBackend, raw: RawClient
) -> None:
    await raw.call(functions.InvokeWithLayerRequest(150, STATUS))
    async with RawClient(wire, raw.key) as again:
        await again.call(STATUS)
    assert backend.layers == [150, 150]


# The rules of MTProto


async def test_a_colliding_key_makes_the_client_choose_again(wire: WireServer) -> None:
    async with RawClient(wire) as raw:
        await raw.exchange_keys(take_first_key=True)
        assert isinstance(await raw.call(STATUS), bool)


async def test_a_client_that_does_not_know_the_servers_key_is_refused(wire: WireServer) -> None:
    async with RawClient(wire) as raw:
        request = await raw._plain(functions.ReqPqMultiRequest(5))
        with pytest.raises(TransportError, match="-404"):
            await raw._plain(
                functions.ReqDHParamsRequest(5, request.server_nonce, b"\1", b"\1", 1, bytes(256))
            )


async def test_each_session_is_announced_once(backend: TinyBackend, raw: RawClient) -> None:
    first = await raw.send(functions.PingRequest(1))
    _, sequence, created = await raw.receive(types.NewSessionCreated)
    assert created.first_msg_id == first
    assert sequence & 1
    await raw.call(STATUS)
    assert not [message for message in raw.inbox if isinstance(message[2], types.NewSessionCreated)]
    assert backend.opened_times == 1


async def test_a_session_that_comes_back_is_told_that_it_may_have_missed_something(
    wire: WireServer, backend: TinyBackend, raw: RawClient
) -> None:
    await raw.call(STATUS)
    wire.drop_connections()
    await backend.until_open(0)
    async with RawClient(wire, raw.key) as again:
        again.state.id = raw.state.id
        await again.call(STATUS)
        await again.receive(types.NewSessionCreated)
    assert backend.opened_times == 2


async def test_message_ids_of_the_server_rise_and_tell_answers_from_pushes(
    wire: WireServer, raw: RawClient
) -> None:
    answered = await raw.send(STATUS)
    answer_id, sequence, _ = await raw.receive(answers=answered)
    assert answer_id % 4 == 1
    assert sequence & 1
    (session,) = wire.sessions
    push(session, 1, 2, 3)
    pushed = [await raw.receive(types.UpdateShort) for _ in range(3)]
    assert [message[2].update.user_id for message in pushed] == [1, 2, 3]
    assert {message[0] % 4 for message in pushed} == {3}
    ids = [answer_id, *(message[0] for message in pushed)]
    assert ids == sorted(set(ids))
    sequences = [sequence, *(message[1] for message in pushed)]
    assert sequences == sorted(set(sequences))


async def test_a_request_that_comes_twice_runs_once(
    wire: WireServer, backend: TinyBackend, raw: RawClient
) -> None:
    backend.gate.clear()
    message_id = await raw.send(RESOLVE("first"))
    await raw.send(RESOLVE("first"), message_id=message_id)
    backend.gate.set()
    assert (await raw.answer(message_id)).peer.user_id == 5
    await raw.send(RESOLVE("first"), message_id=message_id)
    assert (await raw.answer(message_id)).peer.user_id == 5
    async with RawClient(wire, raw.key) as again:
        again.state.id = raw.state.id
        await again.send(RESOLVE("first"), message_id=message_id)
        assert (await again.answer(message_id)).peer.user_id == 5
    assert backend.calls["ResolveUsernameRequest"] == 1


async def test_an_answer_finds_the_client_on_its_next_connection(
    wire: WireServer, backend: TinyBackend, raw: RawClient
) -> None:
    backend.gate.clear()
    message_id = await raw.send(RESOLVE("late"))
    await raw.receive(types.MsgsAck)
    async with RawClient(wire, raw.key) as again:
        again.state.id = raw.state.id
        await again.send(functions.PingRequest(1))
        await again.receive(types.Pong)
        backend.gate.set()
        assert (await again.answer(message_id)).peer.user_id == 4


async def test_one_unknown_method_in_a_container_spoils_no_other(
    raw: RawClient, backend: TinyBackend
) -> None:
    unknown = struct.pack("<I", 0xDEADBEEF) + bytes(8)
    truncated = bytes(RESOLVE("name"))[:6] + bytes(2)
    ids = await raw.send_container(bytes(STATUS), unknown, truncated, bytes(RESOLVE("abc")))
    assert await raw.answer(ids[0]) is True
    error = await raw.answer(ids[1])
    assert (error.error_code, error.error_message) == (400, "INPUT_METHOD_INVALID_deadbeef")
    assert (await raw.answer(ids[2])).error_code == 400
    assert (await raw.answer(ids[3])).peer.user_id == 3


async def test_gzip_is_understood_and_used(raw: RawClient) -> None:
    (message_id,) = await raw.send_container(bytes(STATUS), gzipped=True)
    assert await raw.answer(message_id) is True
    ids = list(range(2_000))
    message_id = await raw.send(GzipPacked(bytes(functions.messages.GetCustomEmojiDocumentsRequest(ids))))
    packet = await raw.read_packet()
    assert len(packet) < 12 * len(ids)
    message = raw.state.decrypt_message_data(packet)
    assert message.obj.req_msg_id == message_id
    assert len(message.obj.body) == 8 + 12 * len(ids)


@pytest.mark.parametrize(("shift", "code"), [(-400 << 32, 16), (60 << 32, 17), (1, 18)])
async def test_message_ids_out_of_line_are_refused(raw: RawClient, shift: int, code: int) -> None:
    bad = (await raw.call(STATUS), raw.new_id() + shift)[1]
    await raw.send(STATUS, message_id=bad)
    _, _, notification = await raw.receive(types.BadMsgNotification)
    assert (notification.bad_msg_id, notification.error_code) == (bad, code)


async def test_a_damaged_container_is_refused(raw: RawClient) -> None:
    sent = await raw.send(struct.pack("<Iiqii", 0x73F1F8DC, 1, 4, 1, 400), content=False)
    _, _, notification = await raw.receive(types.BadMsgNotification)
    assert (notification.bad_msg_id, notification.error_code) == (sent, 64)


async def test_an_old_salt_is_replaced(wire: WireServer, raw: RawClient) -> None:
    await raw.call(STATUS)
    salts = (await _future_salts(raw, 5)).salts
    assert salts[0].salt == raw.state.salt
    wire.rotate_salts()
    sent = await raw.send(STATUS)
    _, _, bad = await raw.receive(types.BadServerSalt)
    assert (bad.bad_msg_id, bad.new_server_salt) == (sent, salts[2].salt)
    raw.state.salt = bad.new_server_salt
    assert await raw.call(STATUS) is True


async def _future_salts(raw: RawClient, count: int) -> types.FutureSalts:
    sent = await raw.send(functions.GetFutureSaltsRequest(count))
    salts = (await raw.receive(types.FutureSalts, answers=sent))[2]
    assert len(salts.salts) == count
    return salts


async def test_service_messages_are_answered(backend: TinyBackend, raw: RawClient) -> None:
    ping = await raw.send(functions.PingRequest(77))
    pong = (await raw.receive(types.Pong))[2]
    assert (pong.msg_id, pong.ping_id) == (ping, 77)
    known = await raw.send(STATUS)
    await raw.answer(known)
    asked = await raw.send(types.MsgsStateReq([known, known + 4]))
    states = (await raw.receive(types.MsgsStateInfo, answers=asked))[2]
    assert [ord(state) for state in states.info] == [4, 1]
    await raw.send(functions.DestroySessionRequest(12345))
    assert (await raw.receive(types.DestroySessionNone))[2].session_id == 12345
    await raw.send(types.HttpWait(0, 0, 0), content=False)
    assert await raw.call(STATUS) is True


async def test_a_dropped_answer_stays_away(backend: TinyBackend, raw: RawClient) -> None:
    backend.gate.clear()
    sent = await raw.send(RESOLVE("unwanted"))
    dropped = await raw.call(functions.RpcDropAnswerRequest(sent))
    assert isinstance(dropped, types.RpcAnswerDroppedRunning)
    backend.gate.set()
    assert await raw.call(STATUS) is True
    assert isinstance(await raw.call(functions.RpcDropAnswerRequest(sent + 4)), types.RpcAnswerUnknown)
    assert not [message for message in raw.inbox if getattr(message[2], "req_msg_id", None) == sent]


async def test_ping_delay_disconnect_closes_a_silent_connection(raw: RawClient) -> None:
    await raw.send(functions.PingDelayDisconnectRequest(1, disconnect_delay=0))
    await asyncio.wait_for(raw.closed(), PATIENCE_SECONDS)


async def test_requests_wait_for_those_they_name(backend: TinyBackend, raw: RawClient) -> None:
    backend.gate.clear()
    first = await raw.send(RESOLVE("first"))
    second = await raw.send(functions.InvokeAfterMsgRequest(first, STATUS))
    await raw.send(functions.PingRequest(1))
    await raw.receive(types.Pong)
    backend.gate.set()
    assert await raw.answer(second) is True
    assert backend.order == ["first", "status"]


async def test_a_session_that_wants_no_updates_says_so(wire: WireServer, raw: RawClient) -> None:
    await raw.call(functions.InvokeWithoutUpdatesRequest(STATUS))
    assert [session.receives_updates for session in wire.sessions] == [False]
    await raw.call(STATUS)
    assert [session.receives_updates for session in wire.sessions] == [True]


async def test_a_temporary_key_speaks_for_the_permanent_one(wire: WireServer, raw: RawClient) -> None:
    async with RawClient(wire) as temporary:
        await temporary.exchange_keys(temporary=True)
        assert (
            await temporary.call(
                functions.auth.BindTempAuthKeyRequest(
                    raw.key_id - (1 << 64) if raw.key_id >> 63 else raw.key_id, 1, 2**31 - 1, b"x"
                )
            )
            is True
        )
        assert [session.auth_key_id for session in wire.sessions] == [raw.key_id]


async def test_garbage_closes_its_own_connection_only(wire: WireServer, raw: RawClient) -> None:
    await raw.call(STATUS)
    key_id = struct.pack("<Q", raw.key_id)
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xef\x00",
        b"\xee\xee\xee\xee\xff\xff\xff\x7f",
        b"\xee\xee\xee\xee" + struct.pack("<i", 24) + bytes(24),
        b"\xee\xee\xee\xee" + struct.pack("<i", 88) + key_id + bytes(80),
        struct.pack("<ii", 16, 0) + bytes(8),
    ):
        reader, writer = await asyncio.open_connection(wire.host, wire.port)
        writer.write(garbage)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(64), PATIENCE_SECONDS)
        writer.close()
    assert await raw.call(STATUS) is True


async def test_a_client_that_does_not_read_is_disconnected(
    wire: WireServer, backend: TinyBackend, raw: RawClient
) -> None:
    await raw.call(STATUS)
    (session,) = wire.sessions
    for _ in range(60):
        session.push(
            bytes(types.UpdateShort(types.UpdateDcOptions([types.DcOption(1, "x" * (1 << 20), 1)]), 0))
        )
    await asyncio.wait_for(backend.until_open(0), PATIENCE_SECONDS)
    assert list(wire.sessions) == []
    session.push(numbered(1))  # to a session that is gone: nobody is told, nothing breaks


# Faults


async def test_a_dropped_client_comes_back_by_itself(
    wire: WireServer, backend: TinyBackend, client: TelegramClient
) -> None:
    await client(STATUS)
    key_id = client.session.auth_key.key_id
    async with RawClient(wire) as other:
        await other.exchange_keys()
        await other.call(STATUS)
        assert wire.drop_connections(key_id) == 1
        await backend.until_open(1)
        assert await other.call(STATUS) is True
    assert await client(STATUS)
    assert wire.drop_connections() >= 1


async def test_refused_connections_end_with_their_time(
    wire: WireServer, client: TelegramClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.sandbox.wire.faults.time", SimpleNamespace(monotonic=lambda: now))
    wire.faults.refuse_connections(0.3)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        async with RawClient(wire) as raw:
            await raw.exchange_keys()
    assert await client(STATUS), "connections that stand are left alone"
    now += 0.3
    async with RawClient(wire) as raw:
        await raw.exchange_keys()
    assert wire.faults.injected["refuse"] == 1


async def test_a_stalled_client_hears_nothing_and_then_everything(wire: WireServer, raw: RawClient) -> None:
    await raw.call(STATUS)
    wire.faults.stall(auth_key_id=raw.key_id)
    (session,) = wire.sessions
    push(session, 1, 2)
    asked = await raw.send(STATUS)
    async with RawClient(wire) as other:
        await other.exchange_keys()
        assert await other.call(STATUS) is True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(raw.receive(types.UpdateShort), 0.1)
    wire.faults.release(auth_key_id=raw.key_id)
    assert [(await raw.receive(types.UpdateShort))[2].update.user_id for _ in range(2)] == [1, 2]
    assert await raw.answer(asked) is True


async def test_a_stall_holds_for_connections_that_come_during_it(
    wire: WireServer, backend: TinyBackend, raw: RawClient
) -> None:
    wire.faults.stall(auth_key_id=raw.key_id)
    async with RawClient(wire, raw.key) as late:
        sent = [await late.send(STATUS) for _ in range(3)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(late.read_packet(), 0.1)
        # Whose connection it is only its first message tells; nothing after that is read.
        assert backend.calls["UpdateStatusRequest"] <= 1
        wire.faults.clear()
        assert [await late.answer(message_id) for message_id in sent] == [True] * 3


async def test_a_stall_ends_with_its_time(wire: WireServer, raw: RawClient) -> None:
    await raw.call(STATUS)
    began = time.monotonic()
    wire.faults.stall(0.2)
    assert await raw.call(STATUS) is True
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("swallow", [2, 3, 4]),
        ("duplicate", [1, 1, 2, 3, 4]),
        ("delay", [2, 3, 4, 1]),
        ("reorder", [2, 1, 3, 4]),
    ],
)
async def test_a_fault_strikes_the_next_push_only(
    wire: WireServer, client: TelegramClient, kind: Any, expected: list[int]
) -> None:
    updates = Updates(client)
    await client(STATUS)
    (session,) = wire.sessions
    wire.faults.fault_pushes(kind, times=1, delay=0.1, auth_key_id=session.auth_key_id)
    wire.faults.fault_pushes("swallow", auth_key_id=session.auth_key_id ^ 1)
    push(session, 1, 2, 3, 4)
    assert await updates.until(len(expected)) == expected
    assert wire.faults.injected == {kind: 1}


async def test_a_reordered_push_without_a_follower_is_late_not_lost(
    wire: WireServer, client: TelegramClient
) -> None:
    updates = Updates(client)
    await client(STATUS)
    (session,) = wire.sessions
    wire.faults.fault_pushes("reorder", times=1)
    push(session, 9)
    assert await updates.until(1) == [9]


async def test_chance_repeats_with_its_seed(wire: WireServer, client: TelegramClient) -> None:
    updates = Updates(client)
    await client(STATUS)
    (session,) = wire.sessions
    wire.faults.fault_pushes("swallow", probability=0.5)
    runs = []
    for _ in range(2):
        wire.faults.reseed(7)
        before = len(updates.numbers)
        push(session, *range(1, 41))
        wire.faults.clear()
        push(session, 99)
        while updates.numbers[-1:] != [99] or len(updates.numbers) == before:
            await updates.until(len(updates.numbers) + 1)
        runs.append(updates.numbers[before:])
        wire.faults.fault_pushes("swallow", probability=0.5)
    assert runs[0] == runs[1]
    assert 5 < len(runs[0]) < 36


async def test_named_requests_fail_as_told(
    wire: WireServer, backend: TinyBackend, client: TelegramClient, raw: RawClient
) -> None:
    key_id = client.session.auth_key.key_id
    wire.faults.fail_calls("UpdateStatusRequest", 420, "FLOOD_WAIT_99", times=1, auth_key_id=key_id)
    assert await raw.call(STATUS) is True
    with pytest.raises(errors.FloodWaitError):
        await client(STATUS)
    client._flood_waited_requests.clear()
    assert await client(STATUS)
    assert backend.calls["UpdateStatusRequest"] == 2
    wire.faults.lose_answers("UpdateStatusRequest", times=1)
    unanswered = asyncio.ensure_future(client(STATUS))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while backend.calls["UpdateStatusRequest"] < 3:
            await asyncio.sleep(0.01)
    assert await asyncio.wait({unanswered}, timeout=0.2) == (set(), {unanswered})
    unanswered.cancel()
    assert backend.calls["UpdateStatusRequest"] == 3
