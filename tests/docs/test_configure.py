"""docs/configure.md has every setting, with the default and the unit that the code gives it."""

import re
import types
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from gateway.settings import Settings
from gateway.tp_capital.settings import TPCapitalSettings
from tests.docs.pages import ROOT, tables

_CONFIGURE = ROOT / "docs" / "configure.md"
_TP_CAPITAL = ROOT / "docs" / "tp-capital.md"
_NONE = "–"


def _rows(page: Path, prefix: str) -> dict[str, list[str]]:
    """The rows of the page's tables that begin with the name of a setting, or of several of one kind."""
    found: dict[str, list[str]] = {}
    for table in tables(page):
        for cells in table:
            names = re.findall(rf"`{prefix}(\w+)`", cells[0])
            if not names or not cells[0].startswith(f"`{prefix}"):
                continue
            for index, name in enumerate(names):
                assert name.lower() not in found, f"{prefix}{name} is there twice"
                defaults = cells[1].split(", ")
                default = defaults[index] if len(defaults) == len(names) else cells[1]
                found[name.lower()] = [default, *cells[2:]]
    return found


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _unit(settings: type[BaseSettings], name: str) -> set[str]:
    field = settings.model_fields[name]
    validators = [getattr(extra, "func", None) for extra in field.metadata]
    kinds = {getattr(validator, "__name__", "") for validator in validators}
    annotation: Any = field.annotation
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is not None:
        options = [option for option in get_args(annotation) if option is not type(None)]
        if len(options) == 1:
            annotation = options[0]
            kinds |= {getattr(getattr(extra, "func", None), "__name__", "") for extra in get_args(annotation)}
            annotation = get_args(annotation)[0] if get_args(annotation) else annotation
    by_validator = {"_duration": "duration", "_size": "size", "_comma_list": "list", "_address": "address"}
    units = {by_validator[kind] for kind in kinds if kind in by_validator}
    by_type = {
        bool: {"switch"},
        int: {"number"},
        float: {"number"},
        str: {"text", "URL"},
        Path: {"path"},
        SecretStr: {"secret", "URL"},
        timedelta: {"duration"},
    }
    return units or by_type[annotation]


@pytest.mark.parametrize(
    ("page", "prefix", "settings"),
    [(_CONFIGURE, "TELEGRAM_", Settings), (_TP_CAPITAL, "TP_CAPITAL_", TPCapitalSettings)],
    ids=["gateway", "tp-capital"],
)
class TestSettings:
    def test_every_setting_is_described_and_nothing_else(
        self, page: Path, prefix: str, settings: type[BaseSettings]
    ) -> None:
        assert set(_rows(page, prefix)) == set(settings.model_fields)

    def test_every_default_is_the_codes(
        self, page: Path, prefix: str, settings: type[BaseSettings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in settings.model_fields:
            monkeypatch.delenv(f"{prefix}{name.upper()}", raising=False)
        by_default = settings()
        wrong = {}
        for name, (default, *_) in _rows(page, prefix).items():
            written = default.strip("`")
            actual = _plain(getattr(by_default, name))
            if written == _NONE:
                said: Any = () if isinstance(actual, tuple) else None
            else:
                with monkeypatch.context() as environment:
                    environment.setenv(f"{prefix}{name.upper()}", written)
                    said = _plain(getattr(settings(), name))
            if said != actual:
                wrong[name] = f"{written} instead of {actual}"
        assert not wrong


def test_every_unit_is_the_codes() -> None:
    rows = _rows(_CONFIGURE, "TELEGRAM_")
    wrong = {name: cells[1] for name, cells in rows.items() if cells[1] not in _unit(Settings, name)}
    assert not wrong


def test_every_setting_says_what_it_does() -> None:
    assert all(len(cells) == 3 and len(cells[2]) > 10 for cells in _rows(_CONFIGURE, "TELEGRAM_").values())


@pytest.mark.parametrize("unit", sorted((ROOT / "systemd").glob("*.service")), ids=lambda path: path.name)
def test_the_files_that_the_units_read_are_named(unit: Path) -> None:
    page = _CONFIGURE.read_text()
    for line in unit.read_text().splitlines():
        if line.startswith("EnvironmentFile="):
            file = line.removeprefix("EnvironmentFile=").lstrip("-").replace("%i", "ACCOUNT")
            assert f"`{file}`" in page
