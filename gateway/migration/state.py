"""What the phases need to know of each other: the plan, and what each came to. One file in the state
directory.

Losing it costs the operator the options again, and nothing else: what is left to do is seen in the databases.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import ConfigurationError
from gateway.event import utc_now
from gateway.settings import Settings
from gateway.telegram import session_file

DEFAULT_CONSUMER = "tp-capital"
REJECTED_FILE = "rejected.jsonl"


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the operator said; no secret is in it."""

    old_dsn: str | None = None
    consumer: str = DEFAULT_CONSUMER
    account: str = "main"
    volume: str | None = None
    user_id: int | None = None
    since: datetime | None = None
    stop_old: str | None = None
    start_old: str | None = None
    stop_new: str | None = None
    start_new: str | None = None


class Done(msgspec.Struct, frozen=True):
    """That a phase ended well, when, and what it found."""

    at: datetime
    found: dict[str, Any]


class State(msgspec.Struct, kw_only=True):
    plan: Plan = msgspec.field(default_factory=Plan)
    phases: dict[str, Done] = msgspec.field(default_factory=dict)


class StateFile:
    """The migration's directory, TELEGRAM_STATE_DIR/migration: the state, and the rows that could not be
    taken."""

    def __init__(self, settings: Settings) -> None:
        self.directory = settings.state_dir / "migration"
        self._file = self.directory / "state.json"
        try:
            self.state = msgspec.json.decode(self._file.read_bytes(), type=State)
        except FileNotFoundError:
            self.state = State()
        except (msgspec.DecodeError, OSError) as error:
            raise ConfigurationError(
                f"{self._file} cannot be read ({error}); move it away and give the options of migrate again"
            ) from None

    @property
    def rejected(self) -> Path:
        return self.directory / REJECTED_FILE

    def plan(self, given: dict[str, Any], *, keep: bool) -> Plan:
        """The plan with what is given now, remembered with `keep`."""
        changes = {name: value for name, value in given.items() if value is not None}
        self.state.plan = msgspec.structs.replace(self.state.plan, **changes)
        if keep and changes:
            self._write()
        return self.state.plan

    def done(self, phase: str, **found: Any) -> None:
        """Notes that a phase ended well."""
        self.state.phases[phase] = Done(utc_now(), found)
        self._write()

    def undone(self, *phases: str) -> None:
        """Forgets what no longer holds."""
        before = len(self.state.phases)
        for phase in phases:
            self.state.phases.pop(phase, None)
        if len(self.state.phases) != before:
            self._write()

    def write(self, name: str, content: bytes) -> Path:
        """A private file beside the state, replaced atomically."""
        session_file.create_private(self.directory, "migration's directory")
        session_file.write(self.directory / name, content)
        return self.directory / name

    def _write(self) -> None:
        content = json.dumps(msgspec.to_builtins(self.state), indent=2).encode()
        self.write(self._file.name, content + b"\n")
