"""Another Telegram server than Telegram's own: the sandbox, or Telegram's test servers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from telethon.crypto import rsa

from gateway.errors import ConfigurationError
from gateway.settings import Settings
from gateway.telegram.session import StoredSession


@dataclass(frozen=True)
class ServerAddress:
    """Where to connect instead of the address in the session file."""

    host: str
    port: int
    dc_id: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The server that the settings name, its public key made known to Telethon; None for Telegram itself.

        Raises ConfigurationError when the key cannot be read.
        """
        if settings.server is None or settings.server_public_key is None:
            return None
        _trust(settings.server_public_key)
        return cls(*settings.server, settings.server_dc)

    def redirect(self, stored: StoredSession) -> StoredSession:
        """The same login at this address."""
        return replace(stored, dc_id=self.dc_id, server_address=self.host, port=self.port)


def _trust(file: Path) -> None:
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"TELEGRAM_SERVER_PUBLIC_KEY: cannot read {file} ({error.strerror}); name the server's PEM file"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"TELEGRAM_SERVER_PUBLIC_KEY: {file} is not a PEM public key") from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigurationError(f"TELEGRAM_SERVER_PUBLIC_KEY: {file} is not an RSA key")
    rsa.add_key(key.public_bytes(Encoding.PEM, PublicFormat.PKCS1), old=False)
