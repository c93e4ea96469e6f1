"""The sandbox is MTProto and not merely what Telethon accepts: kurigram, another implementation, agrees.

kurigram is left as it is; only the server's public key and the address it connects to are ours.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pyrogram import Client, raw
from pyrogram.connection import Connection
from pyrogram.connection.transport import TCPAbridged, TCPFull, TCPIntermediate
from pyrogram.crypto import rsa
from pyrogram.crypto.rsa import PublicKey
from pyrogram.errors import PhoneCodeInvalid, SessionPasswordNeeded

from gateway.sandbox import Sandbox
from gateway.sandbox.wire import WireServer
from tests.integration.wire_backend import TinyBackend

PHONE = "5511900000001"

functions: Any = raw.functions


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(state_dir=tmp_path) as sandbox:
        yield sandbox


def kurigram(wire: WireServer, **options: Any) -> Any:
    """A client with no session yet, whose connections all go to the wire."""
    rsa.server_public_keys[wire.server_key.fingerprint] = PublicKey(
        wire.server_key.modulus, wire.server_key.exponent
    )

    class ToWire(Connection):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings | {"server_address": wire.host, "port": wire.port})

    return Client(
        "independent",
        api_id=1,
        api_hash="hash",
        in_memory=True,
        workers=1,
        connection_factory=ToWire,
        **options,
    )


class Inbox:
    """What a client's own dispatcher handed to a message handler."""

    def __init__(self, client: Any) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        client.on_message()(self._on_message)
        client.on_edited_message()(self._on_message)

    async def _on_message(self, _: Any, message: Any) -> None:
        self._messages.put_nowait(message)

    async def next(self) -> Any:
        return await asyncio.wait_for(self._messages.get(), 60)


@pytest.mark.parametrize("transport", [TCPAbridged, TCPFull, TCPIntermediate], ids=lambda t: t.__name__)
async def test_an_independent_client_gets_a_key_and_an_answer(tmp_path: Path, transport: Any) -> None:
    backend = TinyBackend()
    async with WireServer(backend, state_dir=tmp_path) as wire:
        backend.wire = wire
        client = kurigram(wire, protocol_factory=transport)
        await client.connect()
        config = await client.invoke(functions.help.GetConfig())
        assert [(option.ip_address, option.port) for option in config.dc_options] == [(wire.host, wire.port)]
        # Larger than any framing's short form, and compressed on the way.
        ids = list(range(3_000))
        documents = await client.invoke(functions.messages.GetCustomEmojiDocuments(document_id=ids))
        assert [document.id for document in documents] == ids
        await client.disconnect()


async def test_an_independent_client_logs_in_and_receives_messages(sandbox: Sandbox) -> None:
    world = sandbox.world
    ana, bia = world.add_user("Ana", phone=PHONE), world.add_user("Bia")
    channel = world.add_channel("Sinais", [bia, ana])
    group = world.add_supergroup("Mesa", [bia, ana])
    chat = world.private(ana, bia)
    client = kurigram(sandbox.wire, phone_number=PHONE, phone_code="12345")
    inbox = Inbox(client)
    await client.start()
    try:
        assert client.me is not None
        assert (client.me.id, client.me.first_name) == (ana.id, "Ana")

        posted = world.post(channel, "Compra PETR4 38,50 🚀")
        received = await inbox.next()
        assert (received.id, received.text, received.chat.title) == (posted.id, posted.text, "Sinais")
        assert received.chat.id == int(f"-100{channel.id}")

        world.post(chat, "Bom dia, Ana", sender=bia)
        received = await inbox.next()
        assert (received.text, received.from_user.first_name) == ("Bom dia, Ana", "Bia")

        posted = world.post(group, "Entrada agora", sender=bia)
        received = await inbox.next()
        assert (received.id, received.text, received.from_user.id) == (posted.id, "Entrada agora", bia.id)

        world.edit(group, posted, "Entrada cancelada")
        assert (await inbox.next()).text == "Entrada cancelada"

        texts = [f"alvo {number}" for number in range(50)]
        world.post_many(channel, texts)
        assert [(await inbox.next()).text for _ in texts] == texts

        sent = await client.send_message(bia.id, "Obrigada")
        assert sent.text == "Obrigada"
    finally:
        await client.stop()


async def test_an_independent_client_reads_dialogs_and_history(sandbox: Sandbox) -> None:
    world = sandbox.world
    ana = world.add_user("Ana", phone=PHONE)
    channel = world.add_channel("Sinais", [world.add_user("Bia"), ana])
    world.post_many(channel, [f"sinal {number}" for number in range(150)])
    client = kurigram(sandbox.wire, phone_number=PHONE, phone_code="12345", no_updates=True)
    await client.start()
    try:
        titles = [dialog.chat.title async for dialog in client.get_dialogs()]
        assert titles == ["Sinais"]
        history = [
            message.text async for message in client.get_chat_history(int(f"-100{channel.id}"), limit=150)
        ]
        assert history == [f"sinal {number}" for number in reversed(range(150))]
    finally:
        await client.stop()


async def test_an_independent_client_gets_through_the_two_step_password(sandbox: Sandbox) -> None:
    sandbox.world.add_user("Ana", phone=PHONE, password="segredo", code="54321")
    client = kurigram(sandbox.wire, no_updates=True)
    await client.connect()
    try:
        code = await client.send_phone_number_code(PHONE)
        with pytest.raises(PhoneCodeInvalid):
            await client.sign_in(PHONE, code.phone_code_hash, "00000")
        with pytest.raises(SessionPasswordNeeded):
            await client.sign_in(PHONE, code.phone_code_hash, "54321")
        me = await client.check_password("segredo")
        assert me.first_name == "Ana"
    finally:
        await client.disconnect()


async def test_an_independent_client_recovers_from_a_lost_connection(sandbox: Sandbox) -> None:
    world = sandbox.world
    ana = world.add_user("Ana", phone=PHONE)
    channel = world.add_channel("Sinais", [world.add_user("Bia"), ana])
    client = kurigram(sandbox.wire, phone_number=PHONE, phone_code="12345")
    inbox = Inbox(client)
    await client.start()
    reconnected = asyncio.Event()

    async def on_connect(*_: Any) -> None:
        reconnected.set()

    client.on_connect()(on_connect)
    try:
        assert sandbox.drop_connections(ana) == 1
        await asyncio.wait_for(reconnected.wait(), 60)
        assert (await client.get_me()).id == ana.id
        world.post(channel, "De volta")
        assert (await inbox.next()).text == "De volta"
    finally:
        await client.stop()
