"""Encryption of session files and their backups at rest, with a key that only the service is given.

A sealed file is MAGIC, a salt, a nonce, and the session's SQLite database under AES-256-GCM. The key comes
from the passphrase TELEGRAM_SESSION_KEY by scrypt; the account's name is bound in, so that one account's
file is not taken for another's.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.errors import SessionError

MAGIC = b"TGSESS1\n"
SALT_BYTES = 16
NONCE_BYTES = 12
KEY_BYTES = 32
SCRYPT_COST = 1 << 15  # with a block size of 8: 32 MB and about 0.1 s a try


class SessionCipher:
    """Seals and opens session files with one passphrase."""

    def __init__(self, passphrase: str) -> None:
        self._passphrase = passphrase.encode()

    def seal(self, image: bytes, account: str) -> bytes:
        """The encrypted file of `account` that holds `image`."""
        salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
        return MAGIC + salt + nonce + AESGCM(self._key(salt)).encrypt(nonce, image, _bound_to(account))

    def open(self, sealed: bytes, account: str, name: object) -> bytes:
        """What was sealed. Raises SessionError when key, account or content are not what it was made with."""
        body = sealed[len(MAGIC) :]
        salt, nonce = body[:SALT_BYTES], body[SALT_BYTES : SALT_BYTES + NONCE_BYTES]
        try:
            return AESGCM(self._key(salt)).decrypt(
                nonce, body[SALT_BYTES + NONCE_BYTES :], _bound_to(account)
            )
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise SessionError(
                f"{name} cannot be decrypted: TELEGRAM_SESSION_KEY is not the key it was written with, "
                f"it is another account's than {account!r}, or it is damaged"
            ) from None

    def _key(self, salt: bytes) -> bytes:
        return Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_COST, r=8, p=1).derive(self._passphrase)


def is_sealed(content: bytes) -> bool:
    """Whether a file that begins with `content` is an encrypted session."""
    return content.startswith(MAGIC)


def _bound_to(account: str) -> bytes:
    return MAGIC + account.encode()
