"""Settings: what the operator gets wrong is named, with what to write instead; secrets are never shown."""

from datetime import timedelta
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.settings import load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TELEGRAM_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


def test_defaults_are_the_documented_ones() -> None:
    settings = load_settings()
    assert settings.accounts == ("main",)
    assert settings.metrics_addr == ("127.0.0.1", 4006)
    assert settings.journal_retention == timedelta(days=7)
    assert settings.db_retention == timedelta(days=90)
    assert (settings.enable_db, settings.enable_cache, settings.enable_queue) == (True, True, True)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("JOURNAL_RETENTION", "36h", timedelta(hours=36)),
        ("DB_RETENTION", "off", None),
        ("JOURNAL_MAX_BYTES", "20G", 20 << 30),
        ("ACCOUNTS", "a, b", ("a", "b")),
        ("CHATS", "all", ()),
        ("CHATS", "-1001649127710,@sinais", ("-1001649127710", "@sinais")),
        ("METRICS_ADDR", "0.0.0.0:9100", ("0.0.0.0", 9100)),
    ],
)
def test_values_are_read_in_their_units(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object
) -> None:
    monkeypatch.setenv(f"TELEGRAM_{name}", value)
    assert getattr(load_settings(), name.lower()) == expected


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("JOURNAL_RETENTION", "a week", "7d"),
        ("JOURNAL_MAX_BYTES", "lots", "20G"),
        ("METRICS_ADDR", "4006", "host:port"),
        ("API_ID", "abc", "integer"),
        ("ACCOUNTS", "../etc", "account name"),
        ("ACCOUNTS", "a,a", "twice"),
        ("CHATS", "Sinais", "@name"),
        ("LOG_LEVEL", "loud", "INFO"),
        ("DB_DSN", "mysql://x/y", "postgresql://"),
        ("RABBITMQ_URL", "localhost", "amqp://"),
        ("RABBITMQ_URL", "amqp://telegram@one,,three/telegram", "names a host"),
        ("RABBITMQ_URL", "amqp://telegram@one:5672,two:66666/telegram", "port"),
        ("DB_DSN", "postgresql://telegram@one:5432,two:5432/telegram", "port"),
    ],
)
def test_a_bad_value_is_named_with_what_to_write(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(f"TELEGRAM_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert f"TELEGRAM_{name}" in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_server_without_its_key_is_a_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEGRAM_SERVER", "127.0.0.1:4430")
    with pytest.raises(ConfigurationError, match="TELEGRAM_SERVER_PUBLIC_KEY"):
        load_settings()


def test_a_missing_application_says_where_to_get_one() -> None:
    with pytest.raises(ConfigurationError, match=r"my\.telegram\.org"):
        load_settings().require_api_credentials()


def test_a_bad_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEGRAM_DB_DSN", "mysql://user:hunter2@host/db")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_credentials_are_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "telegram_api_hash").write_text("from-credential\n")
    (tmp_path / "telegram_db_password").write_text("credential")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("TELEGRAM_DB_PASSWORD", "environment")
    settings = load_settings()
    assert settings.api_hash is not None
    assert settings.api_hash.get_secret_value() == "from-credential"
    assert settings.db_password is not None
    assert settings.db_password.get_secret_value() == "environment"
