"""The mark that the last good backup leaves beside each journal; the daemon exports it as two metrics."""

from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from gateway import metrics
from gateway.telegram import session_file

log = structlog.get_logger()

NAME = "backup.json"


class Stamp(msgspec.Struct, frozen=True):
    """When the newest good backup was finished, how large it is and where it lies."""

    finished_at: datetime
    bytes: int
    path: str


def write_stamp(state_dir: Path, stamp: Stamp) -> None:
    """Replaces the mark in `state_dir`. Raises OSError."""
    session_file.write(state_dir / NAME, msgspec.json.encode(stamp) + b"\n")


def read_stamp(state_dir: Path) -> Stamp | None:
    """The mark in `state_dir`; None when there never was a good backup, or the mark cannot be read."""
    file = state_dir / NAME
    try:
        return msgspec.json.decode(file.read_bytes(), type=Stamp)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("backup_stamp_unreadable", file=str(file), reason=str(error))
        return None


def export_stamp(state_dir: Path) -> None:
    """Has both metrics read the mark at each scrape: the command that writes it is another process."""

    def finished_at() -> float:
        stamp = read_stamp(state_dir)
        return stamp.finished_at.timestamp() if stamp else 0.0

    def size() -> float:
        stamp = read_stamp(state_dir)
        return float(stamp.bytes) if stamp else 0.0

    metrics.BACKUP_LAST_SUCCESS.set_function(finished_at)
    metrics.BACKUP_SIZE.set_function(size)
