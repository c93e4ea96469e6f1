"""Encryption of MTProto 2.0 messages, and the session salts that go into them.

Between packets (`transport.py`) and messages (`session.py`).
"""

import hashlib
import os
import struct
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256

from telethon.crypto import AES

_KEY_ID = struct.Struct("<Q")
_SALT_PERIOD = 1800.0  # seconds, as Telegram's


def sha1(data: bytes) -> bytes:
    """SHA-1, which MTProto still uses for identifiers and in the key exchange."""
    return hashlib.sha1(data, usedforsecurity=False).digest()


class DecryptionError(Exception):
    """A packet was not encrypted with the key it names, or is malformed inside."""


@dataclass(frozen=True, slots=True)
class AuthKey:
    """An authorization key: 256 bytes that client and server share."""

    secret: bytes = field(repr=False)
    id: int

    @classmethod
    def of(cls, secret: bytes) -> "AuthKey":
        """The key with the id that both sides compute from its bytes."""
        return cls(secret, _KEY_ID.unpack(sha1(secret)[-8:])[0])


def encrypt(key: AuthKey, plaintext: bytes) -> bytes:
    """The packet that carries `plaintext` (from the salt on) to the client."""
    padded = plaintext + os.urandom(12 + -(len(plaintext) + 12) % 16)
    msg_key = sha256(key.secret[96:128] + padded).digest()[8:24]
    aes_key, aes_iv = _derive(key.secret, msg_key, 8)
    ciphertext: bytes = AES.encrypt_ige(padded, aes_key, aes_iv)
    return _KEY_ID.pack(key.id) + msg_key + ciphertext


def decrypt(key: AuthKey, packet: bytes) -> bytes:
    """What the client encrypted into `packet`, padding included. Raises DecryptionError."""
    msg_key, ciphertext = packet[8:24], packet[24:]
    ciphertext = ciphertext[: len(ciphertext) & ~15]  # padded transports may leave a tail
    if len(ciphertext) < 48:
        raise DecryptionError("the packet is shorter than any message")
    aes_key, aes_iv = _derive(key.secret, msg_key, 0)
    plaintext: bytes = AES.decrypt_ige(ciphertext, aes_key, aes_iv)
    if sha256(key.secret[88:120] + plaintext).digest()[8:24] != msg_key:
        raise DecryptionError("the message key does not match")
    return plaintext


def _derive(secret: bytes, msg_key: bytes, x: int) -> tuple[bytes, bytes]:
    a = sha256(msg_key + secret[x : x + 36]).digest()
    b = sha256(secret[x + 40 : x + 76] + msg_key).digest()
    return a[:8] + b[8:24] + a[24:32], b[:8] + a[8:24] + b[24:32]


class Salts:
    """Server salts: one per key and half hour, the one before still accepted.

    They are computed from the key, so a restarted server accepts what clients hold.
    """

    def __init__(self) -> None:
        self._skipped = 0

    def rotate(self) -> None:
        """Makes every salt that clients hold now invalid, as if an hour had passed."""
        self._skipped += 2

    def current(self, key: AuthKey) -> int:
        return self._at(key, self._epoch())

    def accepts(self, key: AuthKey, salt: int) -> bool:
        epoch = self._epoch()
        return salt == self._at(key, epoch) or salt == self._at(key, epoch - 1)

    def future(self, key: AuthKey, count: int) -> list[tuple[datetime, datetime, int]]:
        """The next `count` salts as (valid since, valid until, salt)."""
        epoch = self._epoch()
        result = []
        for ahead in range(count):
            since = datetime.fromtimestamp((epoch - self._skipped + ahead) * _SALT_PERIOD, UTC)
            until = since + timedelta(seconds=2 * _SALT_PERIOD)
            result.append((since, until, self._at(key, epoch + ahead)))
        return result

    def _epoch(self) -> int:
        return int(time.time() / _SALT_PERIOD) + self._skipped

    @staticmethod
    @lru_cache(maxsize=4096)
    def _at(key: AuthKey, epoch: int) -> int:
        return int.from_bytes(sha256(key.secret + _KEY_ID.pack(epoch)).digest()[:8], "little", signed=True)
