"""The servers' passwords, each in a file, and the few files that must hold one in a server's own form."""

import base64
import hashlib
import os
import secrets as random_secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.errors import ConfigurationError

_HASH_PLACEHOLDER = "@TELEGRAM_RABBITMQ_PASSWORD_HASH@"


@dataclass(frozen=True, repr=False)
class Passwords:
    """One random password per server; never printed."""

    db: str
    redis: str
    redis_sentinel: str
    rabbitmq: str

    @classmethod
    def load_or_generate(cls, directory: Path, prefix: str = "telegram_") -> Self:
        """Reads the files `telegram_…_password`, which double as systemd credentials; makes missing ones."""
        values = {}
        for name in ("db", "redis", "redis_sentinel", "rabbitmq"):
            file = directory / f"{prefix}{name}_password"
            try:
                values[name] = file.read_text().strip()
            except FileNotFoundError:
                values[name] = random_secrets.token_hex(24)
                write_private(file, values[name])
            if not values[name].isalnum():
                raise ConfigurationError(
                    f"{file} must hold one line of letters and digits; remove it to have one generated"
                )
        return cls(**values)


def write_private(file: Path, text: str) -> None:
    """Writes a file that only its owner may read, from its first moment on."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)


def rabbitmq_password_hash(password: str, salt: bytes | None = None) -> str:
    """RabbitMQ's form of a password: base64 of a four-byte salt and SHA-256 over salt and password."""
    salt = salt or random_secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def server_files(passwords: Passwords, config_dir: Path, salt: bytes | None = None) -> dict[str, str]:
    """The files that hold a password in a server's own form, by name.

    `userlist.txt` for PgBouncer, `redis-passwords.conf` and `sentinel-passwords.conf` for `--include`,
    `definitions.json` for RabbitMQ.
    """
    template = (config_dir / "rabbitmq" / "definitions.json").read_text()
    return {
        "userlist.txt": f'"telegram" "{passwords.db}"\n',
        "redis-passwords.conf": f"requirepass {passwords.redis}\nmasterauth {passwords.redis}\n",
        "sentinel-passwords.conf": (
            f"requirepass {passwords.redis_sentinel}\nsentinel auth-pass telegram {passwords.redis}\n"
        ),
        "definitions.json": template.replace(
            _HASH_PLACEHOLDER, rabbitmq_password_hash(passwords.rabbitmq, salt)
        ),
    }


def write_secrets(directory: Path, config_dir: Path) -> Passwords:
    """Fills `directory` with what the shipped configuration reads; existing passwords stay as they are."""
    passwords = Passwords.load_or_generate(directory)
    for name, text in server_files(passwords, config_dir).items():
        write_private(directory / name, text)
    return passwords
