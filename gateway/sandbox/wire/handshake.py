"""The key exchange by which a client gets its authorization key (plain messages, before any encryption).

One `Handshake` per connection; the key it makes goes into `AuthKeys`, after which the client encrypts.
"""

import secrets
import time
from hashlib import sha256
from typing import Any

from telethon.crypto import AES
from telethon.crypto import AuthKey as ClientAuthKey
from telethon.helpers import generate_key_data_from_nonce
from telethon.tl import functions, types

from gateway.sandbox.backend import RpcError
from gateway.sandbox.wire import tl
from gateway.sandbox.wire.crypto import AuthKey, sha1
from gateway.sandbox.wire.keys import AuthKeys, ServerKey

# Telegram's published group. Clients may insist on this very prime instead of testing an unknown one.
DH_PRIME = int(
    "c71caeb9c6b1c9048e6c522f70f13f73980d40238e3e21c14934d037563d930f48198a0aa7c14058229493d22530f4db"
    "fa336f6e0ac925139543aed44cce7c3720fd51f69458705ac68cd4fe6b6b13abdc9746512969328454f18faf8c595f64"
    "2477fe96bb2a941d5bcd1d4ac8cc49880708fa9b378e3c4f3a9060bee67cf9a4a4a695811051907e162753b56b0f6b41"
    "0dba74d8a84b2a14b3144e0ef1284754fd17ed950d5965b4b9dd46582db1178d169c6bc465b0d6ff9ca3928fef5b9ae4"
    "e418fc15e83ebea0f87fa9ff5eed70050ded2849f47bf959d956850ce929851f0d8115f635b105ee2e4e15d04b2454bf"
    "6f4fadf034b10403119cd8e3b92fcc5b",
    16,
)
DH_GENERATOR = 3
_DH_MARGIN = 1 << (2048 - 64)
# A short exponent keeps the exchange off the event loop's back; 512 bits is twice what the group gives.
_EXPONENT_BITS = 512
_PRIME_BITS = 31  # pq must fit 63 bits, and each factor four bytes

_INNER_DATA = (
    types.PQInnerData,
    types.PQInnerDataDc,
    types.PQInnerDataTemp,
    types.PQInnerDataTempDc,
)


class HandshakeError(Exception):
    """The client broke the key exchange; Telegram answers with transport error -404."""


class Handshake:
    """The server's side of one client's key exchange, step by step."""

    def __init__(self, server_key: ServerKey, auth_keys: AuthKeys) -> None:
        self._server_key = server_key
        self._auth_keys = auth_keys
        self._nonce = self._server_nonce = self._new_nonce = 0
        self._p = self._q = 0
        self._exponent = 0

    def answer(self, body: bytes) -> bytes:
        """The answer to the plain message `body`. Raises HandshakeError."""
        request = _read(body)
        if isinstance(request, functions.ReqPqMultiRequest | functions.ReqPqRequest):
            return bytes(self._start(request))
        if isinstance(request, functions.ReqDHParamsRequest):
            self._check_nonces(request)
            return bytes(self._offer(request))
        if isinstance(request, functions.SetClientDHParamsRequest):
            self._check_nonces(request)
            return bytes(self._finish(request))
        if isinstance(request, types.MsgsAck):
            return b""
        raise HandshakeError(f"{type(request).__name__} needs an authorization key")

    def _start(self, request: Any) -> Any:
        self._nonce = request.nonce
        self._server_nonce = int.from_bytes(secrets.token_bytes(16), "little", signed=True)
        self._exponent = 0
        self._p, self._q = sorted((_random_prime(), _random_prime()))
        return types.ResPQ(
            nonce=self._nonce,
            server_nonce=self._server_nonce,
            pq=(self._p * self._q).to_bytes(8, "big"),
            server_public_key_fingerprints=[self._server_key.fingerprint],
        )

    def _offer(self, request: Any) -> Any:
        if request.public_key_fingerprint != self._server_key.fingerprint:
            raise HandshakeError("the client used another server's key")
        inner = _read(_unpad(self._server_key.decrypt(request.encrypted_data)))
        if not isinstance(inner, _INNER_DATA):
            raise HandshakeError(f"{type(inner).__name__} is not p_q_inner_data")
        self._check_nonces(inner)
        factors = tuple(int.from_bytes(factor, "big") for factor in (inner.p, inner.q))
        if factors != (self._p, self._q):
            raise HandshakeError("pq was not factorised")
        self._new_nonce = inner.new_nonce
        self._exponent = secrets.randbits(_EXPONENT_BITS) | 1 << (_EXPONENT_BITS - 1)
        answer = bytes(
            types.ServerDHInnerData(
                nonce=self._nonce,
                server_nonce=self._server_nonce,
                g=DH_GENERATOR,
                dh_prime=DH_PRIME.to_bytes(256, "big"),
                g_a=pow(DH_GENERATOR, self._exponent, DH_PRIME).to_bytes(256, "big"),
                server_time=int(time.time()),
            )
        )
        plain = sha1(answer) + answer
        plain += secrets.token_bytes(-len(plain) % 16)
        return types.ServerDHParamsOk(
            self._nonce, self._server_nonce, AES.encrypt_ige(plain, *self._temporary_key())
        )

    def _finish(self, request: Any) -> Any:
        if not self._exponent:
            raise HandshakeError("set_client_DH_params came before req_DH_params")
        if not request.encrypted_data or len(request.encrypted_data) % 16:
            raise HandshakeError("the client's Diffie-Hellman answer is not whole AES blocks")
        plain = AES.decrypt_ige(request.encrypted_data, *self._temporary_key())
        inner = _read(plain[20:])
        if not isinstance(inner, types.ClientDHInnerData):
            raise HandshakeError(f"{type(inner).__name__} is not client_DH_inner_data")
        if sha1(plain[20 : 20 + len(bytes(inner))]) != plain[:20]:
            raise HandshakeError("the client's Diffie-Hellman answer is damaged")
        self._check_nonces(inner)
        g_b = int.from_bytes(inner.g_b, "big")
        if not _DH_MARGIN <= g_b <= DH_PRIME - _DH_MARGIN:
            raise HandshakeError("g_b is out of range")
        secret = pow(g_b, self._exponent, DH_PRIME).to_bytes(256, "big")
        key = AuthKey.of(secret)
        hashes = ClientAuthKey(secret)
        if key.id in self._auth_keys:
            # Two keys must never share an id: the client is to choose another exponent.
            retry = hashes.calc_new_nonce_hash(self._new_nonce, 2)
            return types.DhGenRetry(self._nonce, self._server_nonce, retry)
        self._auth_keys.add(key)
        self._exponent = 0
        done = hashes.calc_new_nonce_hash(self._new_nonce, 1)
        return types.DhGenOk(self._nonce, self._server_nonce, done)

    def _check_nonces(self, message: Any) -> None:
        if not self._p or (message.nonce, message.server_nonce) != (self._nonce, self._server_nonce):
            raise HandshakeError("the nonces are not those of this exchange")

    def _temporary_key(self) -> tuple[bytes, bytes]:
        key: tuple[bytes, bytes] = generate_key_data_from_nonce(self._server_nonce, self._new_nonce)
        return key


def _unpad(block: bytes) -> bytes:
    """What the client put into an RSA block, in the current padding or the one before it."""
    encrypted_key, encrypted = block[:32], block[32:]
    mask = sha256(encrypted).digest()
    key = bytes(a ^ b for a, b in zip(encrypted_key, mask, strict=True))
    plain: bytes = AES.decrypt_ige(encrypted, key, bytes(32))
    padded = plain[191::-1]
    if sha256(key + padded).digest() == plain[192:]:
        return padded
    # sha1(data) + data + random bytes: Telethon and others still send this. The length of the data is
    # only known once it is parsed, so the hash is checked against what was read.
    digest, data = block[1:21], block[21:]
    if block[0] == 0 and sha1(data[: len(bytes(_read(data)))]) == digest:
        return data
    raise HandshakeError("the RSA block is damaged")


def _read(data: bytes) -> Any:
    try:
        return tl.read(data)
    except RpcError as error:
        raise HandshakeError(f"not a TL object: {error.message}") from None


def _random_prime() -> int:
    while True:
        candidate = secrets.randbits(_PRIME_BITS) | 1 << (_PRIME_BITS - 1) | 1
        if _is_prime(candidate):
            return candidate


def _is_prime(number: int) -> bool:
    """Miller-Rabin with the bases that decide every 32-bit number."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 7, 61):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if all((power := power * power % number) != number - 1 for _ in range(twos - 1)):
            return False
    return True
