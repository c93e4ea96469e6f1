"""The list of wanted files, in an SQLite file of its own: what is still to be fetched, and what became of it.

The journal may forget a message before its file is there: the message's id in this list is enough to ask
Telegram for both again. So downloads hold up no pruning, however far behind they are.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw

from gateway.errors import MediaUnavailable
from gateway.event import Event

BUSY_TIMEOUT_MS = 5000
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS wanted (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    chat_key TEXT NOT NULL,
    message_id INTEGER NOT NULL,
    media_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued',
    attempts INTEGER NOT NULL DEFAULT 0,
    queued_at REAL NOT NULL,
    due REAL NOT NULL,
    reason TEXT,
    sha256 TEXT,
    UNIQUE (chat_key, message_id, media_id)
);
CREATE INDEX IF NOT EXISTS wanted_due ON wanted (account, due, id) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS wanted_done ON wanted (media_id) WHERE state = 'done';
"""

_DUE = """
SELECT id, chat_key, message_id, media_id, kind, attempts FROM wanted
WHERE state = 'queued' AND account = ? AND due <= ? AND chat_key = (
    SELECT chat_key FROM wanted WHERE state = 'queued' AND account = ? AND due <= ? ORDER BY due, id LIMIT 1
)
ORDER BY due, id LIMIT ?
"""

State = Literal["done", "gone", "skipped", "failed"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WantedFile:
    """One message's media. `attempts` counts failures since the download last came any further."""

    id: int
    chat_key: str
    message_id: int
    media_id: int
    kind: str
    attempts: int

    @property
    def chat(self) -> int:
        """The chat's marked id."""
        return int(self.chat_key.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A file that is `gone` (its message is, or has another one now), or `failed` at every attempt."""

    account: str
    chat_key: str
    message_id: int
    media_id: int
    kind: str
    state: str
    reason: str
    queued_at: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What an account still has to fetch. `oldest` is when the first of it was asked for, in Unix time."""

    files: int
    oldest: float


class MediaQueue:
    """Opened on first use, and anew after an error; any thread may call it.

    Everything raises MediaUnavailable when the file cannot be read or written now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None

    def add(self, events: Iterable[Event]) -> None:
        """Asks for the media of `events`; what has been asked for before stays as it is."""
        now = time.time()
        rows = [
            (event.account, event.chat_key, event.message_id, event.media["id"], event.media_type, now, now)
            for event in events
            if event.media is not None
        ]
        insert = (
            "INSERT OR IGNORE INTO wanted (account, chat_key, message_id, media_id, kind, queued_at, due) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)"
        )

        def write(connection: apsw.Connection) -> None:
            with connection:
                connection.executemany(insert, rows)

        self._with_connection(write)

    def due(self, account: str, limit: int) -> Sequence[WantedFile]:
        """The file that has been due longest, and more of the same chat."""
        now = time.time()
        return self._with_connection(
            lambda connection: [
                WantedFile(*row) for row in connection.execute(_DUE, (account, now, account, now, limit))
            ]
        )

    def next_due(self, account: str) -> float | None:
        """When the account's next file is due, in Unix time; None when nothing is queued."""
        query = "SELECT min(due) FROM wanted WHERE state = 'queued' AND account = ?"
        due: Any = self._with_connection(lambda connection: connection.execute(query, (account,)).get)
        return due if due is None else float(due)

    def postpone(self, file: WantedFile, attempts: int, due: float, reason: str | None) -> None:
        """Puts a file behind those that are due earlier."""
        update = "UPDATE wanted SET attempts = ?, due = ?, reason = ? WHERE id = ?"
        self._with_connection(lambda connection: connection.execute(update, (attempts, due, reason, file.id)))

    def settle(
        self, file: WantedFile, state: State, *, reason: str | None = None, sha256: str | None = None
    ) -> None:
        """Records what became of a file; it is not asked for again."""
        update = "UPDATE wanted SET state = ?, reason = ?, sha256 = ? WHERE id = ?"
        self._with_connection(lambda connection: connection.execute(update, (state, reason, sha256, file.id)))

    def digest_of(self, media_id: int) -> str | None:
        """The content of a media id that has been fetched before, for another message."""
        query = "SELECT sha256 FROM wanted WHERE state = 'done' AND media_id = ? LIMIT 1"
        digest: Any = self._with_connection(lambda connection: connection.execute(query, (media_id,)).get)
        return digest if digest is None else str(digest)

    def given_up(self) -> Sequence[GivenUp]:
        """What was asked for in vain, oldest first."""
        query = (
            "SELECT account, chat_key, message_id, media_id, kind, state, reason, queued_at FROM wanted "
            "WHERE state IN ('failed', 'gone') ORDER BY id"
        )
        return self._with_connection(
            lambda connection: [GivenUp(*row) for row in connection.execute(query)],
        )

    def retry(self) -> int:
        """Asks once more for what Telegram refused or did not answer; returns for how many files."""
        update = "UPDATE wanted SET state = 'queued', attempts = 0, due = ? WHERE state = 'failed'"

        def write(connection: apsw.Connection) -> int:
            connection.execute(update, (time.time(),))
            return connection.changes()

        return self._with_connection(write)

    def backlog(self) -> dict[str, Backlog]:
        """What each account has still to fetch."""
        query = "SELECT account, count(*), min(queued_at) FROM wanted WHERE state = 'queued' GROUP BY account"
        rows: list[Any] = self._with_connection(lambda connection: connection.execute(query).fetchall())
        return {account: Backlog(files, oldest) for account, files, oldest in rows}

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _with_connection(self, work: Callable[[apsw.Connection], T]) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                return work(self._connection)
            except apsw.Error as error:
                self._drop()
                raise MediaUnavailable(
                    f"cannot use the list of wanted files {self._path} ({type(error).__name__}: {error}); "
                    "check the disk and the file's owner"
                ) from error

    def _open(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", f"user_version = {SCHEMA_VERSION}"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute(_SCHEMA)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close(True)
            self._connection = None
