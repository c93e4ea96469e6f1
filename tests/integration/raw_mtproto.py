"""An MTProto client one layer below a library: it chooses every message id, salt and container itself.

It speaks the padded intermediate transport and the current RSA padding, neither of which Telethon uses;
message encryption is Telethon's own client side.
"""

import asyncio
import os
import struct
from collections import defaultdict
from hashlib import sha1, sha256
from typing import Any, Self

from telethon.crypto import AES, AuthKey, Factorization, rsa
from telethon.extensions import BinaryReader
from telethon.helpers import generate_key_data_from_nonce
from telethon.network.mtprotostate import MTProtoState
from telethon.tl import functions, types
from telethon.tl.core import GzipPacked, MessageContainer, RpcResult

from gateway.sandbox.wire import WireServer
from gateway.sandbox.wire.crypto import AuthKey as ServerAuthKey

Received = tuple[int, int, Any]


class TransportError(Exception):
    """The server sent four bytes instead of a message."""


class RawClient:
    """One connection and one session."""

    def __init__(self, wire: WireServer, key: bytes | None = None) -> None:
        self._wire = wire
        self._key = key
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.state: Any = None
        self.sequence = 0
        self.inbox: list[Received] = []

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._wire.host, self._wire.port)
        self._writer.write(b"\xdd\xdd\xdd\xdd")
        loggers: Any = defaultdict(lambda: _Silent())
        self.state = MTProtoState(AuthKey(self._key), loggers)
        if self._key is not None:
            self.state.salt = self.salt()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    @property
    def key_id(self) -> int:
        return int(self.state.auth_key.key_id)

    @property
    def key(self) -> bytes:
        return bytes(self.state.auth_key.key)

    def salt(self) -> int:
        key = self._wire.auth_keys.get(int(AuthKey(self._key).key_id))
        return self._wire.salts.current(key) if key is not None else 0

    def new_id(self) -> int:
        return int(self.state._get_new_msg_id())

    async def exchange_keys(self, *, temporary: bool = False, take_first_key: bool = False) -> None:
        """Gets an authorization key; `take_first_key` makes the server know the first key tried already."""
        rsa.add_key(self._wire.public_key_pem, old=False)
        nonce = int.from_bytes(os.urandom(16), "little", signed=True)
        pq = await self._plain(functions.ReqPqMultiRequest(nonce))
        p, q = (number.to_bytes(4, "big") for number in Factorization.factorize(int.from_bytes(pq.pq, "big")))
        new_nonce = int.from_bytes(os.urandom(32), "little", signed=True)
        fields: dict[str, Any] = {"pq": pq.pq, "p": p, "q": q, "nonce": nonce, "new_nonce": new_nonce}
        fields |= {"server_nonce": pq.server_nonce, "dc": 2}
        inner = (
            types.PQInnerDataTempDc(expires_in=3600, **fields) if temporary else types.PQInnerDataDc(**fields)
        )
        fingerprint = pq.server_public_key_fingerprints[0]
        block = _rsa_pad(bytes(inner), rsa._server_keys[fingerprint][0])
        offer = await self._plain(
            functions.ReqDHParamsRequest(nonce, pq.server_nonce, p, q, fingerprint, block)
        )
        key, iv = generate_key_data_from_nonce(pq.server_nonce, new_nonce)
        dh = BinaryReader(AES.decrypt_ige(offer.encrypted_answer, key, iv)[20:]).tgread_object()
        prime, g_a = int.from_bytes(dh.dh_prime, "big"), int.from_bytes(dh.g_a, "big")
        while True:
            b = int.from_bytes(os.urandom(256), "big")
            secret = pow(g_a, b, prime).to_bytes(256, "big")
            if take_first_key:
                self._wire.auth_keys.add(ServerAuthKey.of(secret))
            g_b = pow(dh.g, b, prime).to_bytes(256, "big")
            answer = bytes(types.ClientDHInnerData(nonce, pq.server_nonce, 0, g_b))
            plain = sha1(answer).digest() + answer
            done = await self._plain(
                functions.SetClientDHParamsRequest(nonce, pq.server_nonce, AES.encrypt_ige(plain, key, iv))
            )
            if not take_first_key:
                break
            assert isinstance(done, types.DhGenRetry)
            assert done.new_nonce_hash2 == AuthKey(secret).calc_new_nonce_hash(new_nonce, 2)
            take_first_key = False
        assert isinstance(done, types.DhGenOk)
        assert done.new_nonce_hash1 == AuthKey(secret).calc_new_nonce_hash(new_nonce, 1)
        self._key = secret
        self.state.auth_key = AuthKey(secret)
        self.state.salt = self.salt()

    async def _plain(self, request: Any) -> Any:
        body = bytes(request)
        await self.send_packet(struct.pack("<qqi", 0, self.new_id(), len(body)) + body)
        packet = await self.read_packet()
        if len(packet) < 20:
            raise TransportError(struct.unpack("<i", packet[:4])[0])
        return BinaryReader(packet[20:]).tgread_object()

    async def send_packet(self, packet: bytes) -> None:
        self._writer.write(struct.pack("<i", len(packet)) + packet)
        await self._writer.drain()

    async def read_packet(self) -> bytes:
        (length,) = struct.unpack("<i", await self._reader.readexactly(4))
        packet = await self._reader.readexactly(length)
        return packet[: length & ~3]

    async def send(self, body: Any, *, message_id: int | None = None, content: bool = True) -> int:
        """Sends one message under any id."""
        data = body if isinstance(body, bytes) else bytes(body)
        message_id = self.new_id() if message_id is None else message_id
        sequence = self.sequence * 2 + content
        self.sequence += content
        header = struct.pack("<qii", message_id, sequence, len(data))
        await self.send_packet(self.state.encrypt_message_data(header + data))
        return message_id

    async def send_container(self, *bodies: bytes, gzipped: bool = False) -> list[int]:
        """Sends several messages at once; returns their ids."""
        ids = [self.new_id() for _ in bodies]
        parts = []
        for message_id, body in zip(ids, bodies, strict=True):
            data = bytes(GzipPacked(body)) if gzipped else body
            parts.append(struct.pack("<qii", message_id, self.sequence * 2 + 1, len(data)) + data)
            self.sequence += 1
        container = struct.pack("<Ii", MessageContainer.CONSTRUCTOR_ID, len(bodies)) + b"".join(parts)
        await self.send(container, content=False)
        return ids

    async def receive(self, kind: type | None = None, *, answers: int | None = None) -> Received:
        """The next message (message id, sequence number, object) of `kind`, or the answer to a request.

        Everything passed over is kept in `inbox` for the next look.
        """
        while True:
            for index, message in enumerate(self.inbox):
                body = message[2]
                if (kind is None or isinstance(body, kind)) and (
                    answers is None or getattr(body, "req_msg_id", None) == answers
                ):
                    return self.inbox.pop(index)
            packet = await self.read_packet()
            if len(packet) == 4:
                raise TransportError(struct.unpack("<i", packet)[0])
            message = self.state.decrypt_message_data(packet)
            if message is None:
                raise AssertionError("the server repeated or misdated a message id")
            if isinstance(message.obj, MessageContainer):
                inner = message.obj.messages
                assert all(part.msg_id < message.msg_id for part in inner)
                self.inbox += [(part.msg_id, part.seq_no, part.obj) for part in inner]
            else:
                self.inbox.append((message.msg_id, message.seq_no, message.obj))

    async def call(self, request: Any) -> Any:
        """The answer to a request: the object, or the RpcError."""
        return await self.answer(await self.send(request))

    async def answer(self, message_id: int) -> Any:
        _, _, result = await self.receive(RpcResult, answers=message_id)
        return result.error or BinaryReader(result.body).tgread_object()

    async def closed(self) -> None:
        """Returns once the server closed the connection."""
        try:
            while await self._reader.read(1 << 20):
                pass
        except ConnectionError:
            pass


def _rsa_pad(data: bytes, key: Any) -> bytes:
    padded = data + os.urandom(192 - len(data))
    while True:
        temporary = os.urandom(32)
        body = padded[::-1] + sha256(temporary + padded).digest()
        encrypted = AES.encrypt_ige(body, temporary, bytes(32))
        mask = sha256(encrypted).digest()
        block = bytes(a ^ b for a, b in zip(temporary, mask, strict=True)) + encrypted
        value = int.from_bytes(block, "big")
        if value < key.n:
            return int(pow(value, key.e, key.n)).to_bytes(256, "big")


class _Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None
