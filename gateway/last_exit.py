"""How the daemon ended, left for whoever watches it: after a dead session it exits, and nobody restarts it.

The daemon leaves a small file in the runtime directory, which outlives it, and takes it away when it starts.
The API, another process of another user, shows what stands there as metrics.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger()

_SUFFIX = ".exit.json"
_P = "telegram_gateway_api_daemon_last_exit_"
_LABELS = ("account", "error")


class LastExit(msgspec.Struct, frozen=True):
    """`error` is the class of what ended the daemon, empty after a clean stop. Nothing here is secret."""

    accounts: tuple[str, ...]
    code: int
    error: str
    at: float


class ExitRecord:
    """One daemon's file in `directory`; without the directory, which systemd makes, nothing is left."""

    def __init__(self, directory: Path, accounts: tuple[str, ...]) -> None:
        self._accounts = accounts
        self._file = directory / f"{','.join(accounts)[:200]}{_SUFFIX}"

    def clear(self) -> None:
        """The daemon runs."""
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("exit_record_kept", file=str(self._file), reason=error.strerror)

    def leave(self, code: int, error: Exception | None = None) -> None:
        """The daemon ends with `code` because of `error`."""
        if not self._file.parent.is_dir():
            return
        name = type(error).__name__ if error else ""
        left = LastExit(self._accounts, code, name, time.time())
        draft = self._file.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(left))
            draft.chmod(0o644)
            os.replace(draft, self._file)
        except OSError as failure:
            log.warning("exit_not_recorded", file=str(self._file), reason=failure.strerror)


class LastExits(Collector):
    """What the daemons of this host have left in `directory`, read anew for every scrape."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        code = GaugeMetricFamily(
            f"{_P}code", "The exit code of a daemon of this host that does not run now.", labels=_LABELS
        )
        at = GaugeMetricFamily(f"{_P}timestamp_seconds", "When it ended.", labels=_LABELS)
        for left in self._read():
            for account in left.accounts:
                code.add_metric((account, left.error), left.code)
                at.add_metric((account, left.error), left.at)
        return code, at

    def _read(self) -> Iterable[LastExit]:
        for file in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                yield msgspec.json.decode(file.read_bytes(), type=LastExit)
            except FileNotFoundError:
                continue  # the daemon has just started
            except (OSError, msgspec.DecodeError) as error:
                log.warning("exit_record_unreadable", file=str(file), reason=str(error))
