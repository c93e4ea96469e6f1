"""The keys that outlive a restart of the sandbox: the server's RSA key and every client's authorization key.

The handshake (`handshake.py`) makes them; connections look them up.
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from telethon.tl import TLObject

from gateway.errors import ConfigurationError
from gateway.sandbox.wire.crypto import AuthKey, sha1

_RSA_BITS = 2048
_AUTH_KEY_BYTES = 256


def write_private(path: Path, content: bytes) -> None:
    """Puts `content` at `path`, whole or not at all, readable by its owner only."""
    partial = path.with_suffix(".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    partial.replace(path)


class ServerKey:
    """The RSA key by which clients know that they talk to this server; made at the first start."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = _load_or_create(state_dir / "server_key.pem")
        numbers = private.private_numbers()
        self._p, self._q = numbers.p, numbers.q
        self._dp, self._dq, self._q_inverse = numbers.dmp1, numbers.dmq1, numbers.iqmp
        public = private.public_key()
        self.modulus = public.public_numbers().n
        self.exponent = public.public_numbers().e
        self.fingerprint = _fingerprint(self.modulus, self.exponent)
        # PKCS#1 is the form that Telethon and Telegram's own documentation use.
        self.public_pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.PKCS1
        ).decode()
        self.public_path = state_dir / "server_public_key.pem"
        write_private(self.public_path, self.public_pem.encode())

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Plain RSA: MTProto brings its own padding."""
        value = int.from_bytes(ciphertext, "big") % self.modulus
        a, b = pow(value, self._dp, self._p), pow(value, self._dq, self._q)
        return (b + (a - b) * self._q_inverse % self._p * self._q).to_bytes(_RSA_BITS // 8, "big")


def _load_or_create(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except ValueError as error:
            raise ConfigurationError(
                f"{path} is not a private key in PEM form ({error}); delete it to get a new one"
            ) from error
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != _RSA_BITS:
            raise ConfigurationError(
                f"{path} must hold a {_RSA_BITS}-bit RSA key; delete it to get a new one"
            )
        return key
    key = rsa.generate_private_key(65537, _RSA_BITS)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, pem)
    return key


def _fingerprint(modulus: int, exponent: int) -> int:
    parts = (number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (modulus, exponent))
    digest = sha1(b"".join(TLObject.serialize_bytes(part) for part in parts))
    return int.from_bytes(digest[-8:], "little", signed=True)


class AuthKeys:
    """Every authorization key the server knows, one file each, so that a killed sandbox keeps its logins."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._keys: dict[int, AuthKey] = {}
        for path in directory.glob("*.key"):
            secret = path.read_bytes()
            if len(secret) == _AUTH_KEY_BYTES:
                key = AuthKey.of(secret)
                self._keys[key.id] = key

    def __contains__(self, key_id: int) -> bool:
        return key_id in self._keys

    def get(self, key_id: int) -> AuthKey | None:
        return self._keys.get(key_id)

    def add(self, key: AuthKey) -> None:
        write_private(self._path(key.id), key.secret)
        self._keys[key.id] = key

    def remove(self, key_id: int) -> bool:
        """Forgets a key for good; False when it was not known."""
        self._path(key_id).unlink(missing_ok=True)
        return self._keys.pop(key_id, None) is not None

    def _path(self, key_id: int) -> Path:
        return self._directory / f"{key_id:016x}.key"
