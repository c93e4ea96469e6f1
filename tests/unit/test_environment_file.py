"""The configuration file that `install` puts in place: every setting is in it, and what it shows is so."""

import re
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings

FILE = Path(__file__).parents[2] / "deploy/telegram-gateway.env"
LINE = re.compile(r"^# (e\.g\. )?TELEGRAM_([A-Z_]+)=(.*)$", re.MULTILINE)
# Their place is a file in the directory of credentials.
SECRETS = {"api_hash", "session_key"}
# systemd's, and what a migration is told where it is run.
OTHERS = {"runtime_dir", "old_db_dsn"}


def shown() -> dict[str, tuple[str, bool]]:
    """Each setting with the value that stands there, and whether that is called its default."""
    return {name.lower(): (value, not example) for example, name, value in LINE.findall(FILE.read_text())}


def test_every_setting_that_is_no_secret_is_in_the_file_and_no_secret_is() -> None:
    secret = {name for name in Settings.model_fields if name.endswith("_password")} | SECRETS
    assert shown().keys() == Settings.model_fields.keys() - secret - OTHERS
    assert "PASSWORD=" not in FILE.read_text()


def test_what_is_called_a_default_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings()
    for name, (value, default) in shown().items():
        if default:
            monkeypatch.setenv(f"TELEGRAM_{name.upper()}", value)
    assert load_settings() == defaults


def test_every_example_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (value, _) in shown().items():
        monkeypatch.setenv(f"TELEGRAM_{name.upper()}", value)
    load_settings()
