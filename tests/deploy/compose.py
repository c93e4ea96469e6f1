"""The compose files as the tests read them: plain YAML, so that no tool's idea of it stands in between."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.localstack.stack import CONFIG_DIR

STORES = CONFIG_DIR / "compose.yaml"
MONITORING = CONFIG_DIR / "compose.monitoring.yaml"
FILES = (STORES, MONITORING)


@dataclass(frozen=True)
class Mount:
    """One entry of `volumes:`: a file or a directory of deploy/, or a named volume."""

    source: str
    target: str
    read_only: bool

    @property
    def shipped(self) -> Path | None:
        """Where it is in the repository; None for a named volume."""
        return (CONFIG_DIR / self.source).resolve() if self.source.startswith("./") else None


@dataclass(frozen=True)
class Service:
    """One service, with what the tests ask about it."""

    name: str
    raw: dict[str, Any]

    @property
    def mounts(self) -> list[Mount]:
        entries = [entry.split(":") for entry in self.raw.get("volumes", [])]
        return [Mount(source, target, flags == ["ro"]) for source, target, *flags in entries]

    @property
    def secrets(self) -> list[str]:
        return list(self.raw.get("secrets", []))

    @property
    def uid(self) -> int:
        return int(self.raw["user"].partition(":")[0])

    @property
    def gid(self) -> int:
        return int(self.raw["user"].partition(":")[2])

    @property
    def argv(self) -> list[str]:
        """What follows the image's own entry point, or replaces it."""
        return [*self.raw.get("entrypoint", []), *self.raw.get("command", [])]

    @property
    def environment(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.raw.get("environment", {}).items()}

    @property
    def health(self) -> list[str]:
        """The health check as a command line, with Compose's doubled dollar signs undone."""
        kind, *words = self.raw["healthcheck"]["test"]
        words = [word.replace("$$", "$") for word in words]
        return ["sh", "-c", *words] if kind == "CMD-SHELL" else words


@cache
def document(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


def services(*files: Path) -> list[Service]:
    return [Service(name, raw) for file in files or FILES for name, raw in document(file)["services"].items()]


def service(name: str) -> Service:
    (found,) = [one for one in services() if one.name == name]
    return found


def secret_files(file: Path) -> dict[str, str]:
    """The secrets that a file declares: name -> the file below the directory of secrets."""
    declared = {}
    for name, raw in document(file).get("secrets", {}).items():
        match = re.fullmatch(
            r"\$\{TELEGRAM_CONTAINER_SECRETS:-/etc/telegram-gateway/containers\}/([\w-]+)", raw["file"]
        )
        assert match, f"{file.name}: {raw['file']} is not in the directory that deploy/bin/secrets fills"
        declared[name] = match[1]
    return declared
