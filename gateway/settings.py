"""The one reader of the environment: validates every setting, and hands each part only its own piece.

Values come from `TELEGRAM_…` variables (systemd's EnvironmentFile) or from systemd credentials: files in
`$CREDENTIALS_DIRECTORY` with the same names in lower case. A credential wins over no value, an
environment variable over a credential.
"""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.errors import ConfigurationError
from gateway.urls import url_per_host

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*$", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
CHAT = re.compile(r"-?\d+|@\w{4,32}")
_SESSION_KEY_CHARACTERS = 16
MEDIA_TYPES = ("photo", "document", "video", "video_note", "audio", "voice", "animation", "sticker")
_ACCOUNT_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError(f"{value!r} is not a duration; write a number and ms, s, m, h or d, such as 7d")
        return timedelta(seconds=float(match[1]) * _DURATION_UNITS[match[2]])
    return value


def parse_duration(text: str) -> timedelta:
    """`text` such as 7d or 90s. Raises ValueError, with what to write instead."""
    value = _duration(text)
    assert isinstance(value, timedelta)
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            raise ValueError(f"{value!r} is not a size; write a number and K, M, G or T, such as 20G")
        return int(float(match[1]) * _SIZE_UNITS[match[2].upper()])
    return value


def _comma_list(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _address(value: Any) -> Any:
    if isinstance(value, str):
        host, separator, port = value.rpartition(":")
        if not separator or not host or not port.isdigit() or not 0 <= int(port) < 65536:
            raise ValueError(f"{value!r} is not an address; write host:port, such as 127.0.0.1:4006")
        return host.strip("[]"), int(port)
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
ByteSize = Annotated[int, BeforeValidator(_size)]
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
Address = Annotated[tuple[str, int], NoDecode, BeforeValidator(_address)]


class Settings(BaseSettings):
    """All settings, by their environment name without the `TELEGRAM_` prefix, in lower case."""

    model_config = SettingsConfigDict(
        env_prefix="TELEGRAM_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    api_id: int | None = Field(default=None, gt=0)
    api_hash: SecretStr | None = None
    accounts: CommaList = ("main",)
    session_dir: Path = Path("/opt/telegram-gateway/.session")
    state_dir: Path = Path("/var/lib/telegram-gateway")
    runtime_dir: Path = Path("/run/telegram-gateway")  # how the daemon ended, for the API to show
    session_backup_dir: Path | None = None  # session_backups says where that is
    session_key: SecretStr | None = None

    server: Address | None = None
    server_dc: int = Field(default=2, ge=1, le=5)
    server_public_key: Path | None = None

    enable_db: bool = True
    enable_cache: bool = True
    enable_queue: bool = True
    db_dsn: SecretStr = SecretStr("postgresql://telegram@127.0.0.1:6434/telegram_gateway")
    db_direct_dsn: SecretStr = SecretStr("postgresql://telegram@127.0.0.1:5434/telegram_gateway")
    db_password: SecretStr | None = None
    old_db_dsn: SecretStr | None = None  # the database of the stack before this one: telegram-gateway migrate
    old_db_password: SecretStr | None = None
    lease: bool | None = None  # unset: as enable_db
    db_retention: Duration | None = timedelta(days=90)
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_password: SecretStr | None = None
    redis_sentinels: CommaList = ()
    redis_sentinel_password: SecretStr | None = None
    redis_master: str = "telegram"
    rabbitmq_url: SecretStr = SecretStr("amqp://telegram@127.0.0.1:5672/telegram")
    rabbitmq_password: SecretStr | None = None

    chats: CommaList = ()
    journal_retention: Duration = timedelta(days=7)
    journal_max_bytes: ByteSize = 20 << 30
    drain_limit: Duration = timedelta(seconds=10)

    backup_dir: Path = Path("/var/backups/telegram-gateway")
    backup_retention: Duration = timedelta(days=30)
    backup_db_user: str | None = None  # who makes and restores the database's backups; unset: as the DSN says
    backup_db_password: SecretStr | None = None

    media_dir: Path | None = None
    media_max_bytes: ByteSize = 50 << 20
    media_min_free: ByteSize = 1 << 30
    media_types: CommaList = MEDIA_TYPES

    metrics_addr: Address = ("127.0.0.1", 4006)
    api_addr: Address = ("127.0.0.1", 4010)
    api_rate_limit: int = Field(default=600, ge=0)  # requests a minute and token; 0: no limit
    api_failed_limit: int = Field(default=60, ge=1)  # requests a minute and address without a good token
    log_level: str = "INFO"
    tracing_endpoint: str | None = None  # an OTLP/HTTP collector; unset: no traces
    tracing_ratio: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: Any) -> Any:
        # As with variables: an empty credential stands in for a file that a unit names and nobody wrote.
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value != ""}

    @field_validator("db_retention", mode="before")
    @classmethod
    def _retention_off(cls, value: Any) -> Any:
        return None if isinstance(value, str) and value.strip().lower() in {"off", "none", "0"} else value

    @field_validator("chats", mode="after")
    @classmethod
    def _chats_all(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if tuple(item.lower() for item in value) == ("all",):
            return ()
        for item in value:
            if not CHAT.fullmatch(item):
                raise ValueError(
                    f"{item!r} is neither a chat id nor an @name; list ids and @names, or write all"
                )
        return value

    @field_validator("redis_sentinels", mode="after")
    @classmethod
    def _sentinel_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for sentinel in value:
            _address(sentinel)
        return value

    @field_validator("accounts", mode="after")
    @classmethod
    def _account_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one account")
        for name in value:
            if not _ACCOUNT_NAME.match(name):
                raise ValueError(f"{name!r} is not an account name; use letters, digits, '.', '_' and '-'")
        if len(set(value)) != len(value):
            raise ValueError("an account is named twice")
        return value

    @field_validator("session_key", mode="after")
    @classmethod
    def _session_key_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        passphrase = value.get_secret_value().strip()
        if len(passphrase) < _SESSION_KEY_CHARACTERS:
            raise ValueError(
                f"must have at least {_SESSION_KEY_CHARACTERS} characters; "
                "make one with: openssl rand -base64 32"
            )
        return SecretStr(passphrase)

    @field_validator("media_types", mode="after")
    @classmethod
    def _media_type_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if tuple(item.lower() for item in value) == ("all",):
            return MEDIA_TYPES
        for name in value:
            if name not in MEDIA_TYPES:
                raise ValueError(f"{name!r} is no type of file; list some of {', '.join(MEDIA_TYPES)}")
        return value

    @field_validator("log_level", mode="after")
    @classmethod
    def _log_level_name(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError(f"{value!r} is not a level; write DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("tracing_endpoint", mode="after")
    @classmethod
    def _tracing_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("must be a URL that starts with http:// or https:// and names a host")
        if url.username is not None or url.password is not None:
            raise ValueError("must not hold a password; put the collector's into OTEL_EXPORTER_OTLP_HEADERS")
        return value if url.path.strip("/") else f"{value.rstrip('/')}/v1/traces"

    @field_validator("db_dsn", "db_direct_dsn", "redis_url", "rabbitmq_url", mode="after")
    @classmethod
    def _url_scheme(cls, value: SecretStr, info: Any) -> SecretStr:
        schemes = {
            "db_dsn": ("postgresql", "postgres"),
            "db_direct_dsn": ("postgresql", "postgres"),
            "redis_url": ("redis", "rediss"),
            "rabbitmq_url": ("amqp", "amqps"),
        }[info.field_name]
        url = value.get_secret_value()
        # Only of brokers there may be several to choose from: a cluster's nodes.
        urls = url_per_host(url) if info.field_name == "rabbitmq_url" else [urlsplit(url)]
        if urls[0].scheme not in schemes or not all(each.hostname for each in urls):
            raise ValueError(f"must be a URL that starts with {schemes[0]}:// and names a host")
        try:
            _ = [each.port for each in urls]
        except ValueError:
            # The error itself quotes what stands there, which after a forgotten @ is the password.
            raise ValueError("its port must be a number below 65536") from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.server is None) != (self.server_public_key is None):
            raise ValueError(
                "TELEGRAM_SERVER and TELEGRAM_SERVER_PUBLIC_KEY go together: "
                "set both for another Telegram server, or neither for Telegram itself"
            )
        return self

    @property
    def journal_path(self) -> Path:
        """The journal's file, in the state directory."""
        return self.state_dir / "journal.db"

    @property
    def session_backups(self) -> Path:
        """The directory of session backups, by default in the state directory."""
        return self.session_backup_dir or self.state_dir / "session-backups"

    @property
    def lease_enabled(self) -> bool:
        """Whether a lease in PostgreSQL keeps each account on one host."""
        return self.enable_db if self.lease is None else self.lease

    @property
    def media_list_path(self) -> Path:
        """The list of wanted files, in the state directory: the media's disk may be full."""
        return self.state_dir / "media.db"

    def require_api_credentials(self) -> tuple[int, str]:
        """The application's id and hash. Raises ConfigurationError when either is missing."""
        if self.api_id is None or self.api_hash is None:
            raise ConfigurationError(
                "TELEGRAM_API_ID and TELEGRAM_API_HASH are not set; "
                "create an application at https://my.telegram.org and put both into the environment file"
            )
        return self.api_id, self.api_hash.get_secret_value()


def load_settings(**overrides: Any) -> Settings:
    """Reads the environment and the systemd credentials.

    `overrides` are field values that win over both. Raises ConfigurationError with one line per bad
    setting, naming the variable and never its secret value.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    directory = Path(credentials) if credentials else None
    try:
        if directory is None:
            return Settings(**overrides)
        # pydantic-settings looks for files that carry the environment prefix, which is CONTRACT's name too.
        return Settings(_secrets_dir=directory, **overrides)  # type: ignore[call-arg]  # pydantic-settings' own
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = "".join(str(part) for part in problem["loc"][:1])
        reason = problem["msg"].removeprefix("Value error, ")
        lines.append(f"TELEGRAM_{name.upper()}: {reason}" if name else reason)
    return "; ".join(lines)
