"""The journal's file: its tables, how a connection to it is opened, and who may have it open."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import apsw

from gateway.errors import JournalError, JournalUnusable

SCHEMA_VERSION = 3
BUSY_TIMEOUT_MS = 5000
PAGE_CACHE_KIB = 8192
WAL_KEPT_BYTES = 16 << 20  # what the WAL file is cut back to once it starts over

# `seq` has no holes: a skipped row takes no number (the trigger and the conflict clause act before it is
# chosen), and pruning goes from the oldest row up and never takes the newest. So counting rows and lags is
# subtraction, and no number is ever used twice.
#
# `skip_unchanged` drops an edit whose content the message already had at that edit date: reactions and view
# counts arrive as edits, and a late one must not bring old words back.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL,
    chat INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    revision TEXT NOT NULL,
    kind INTEGER NOT NULL,
    content_hash TEXT,
    edited_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (scope, chat, message_id, revision)
);
CREATE TRIGGER skip_unchanged BEFORE INSERT ON events
WHEN new.kind = 1 AND new.content_hash IS (
    SELECT content_hash FROM events
    WHERE scope = new.scope AND chat = new.chat AND message_id = new.message_id
        AND content_hash IS NOT NULL AND edited_at <= new.edited_at
    ORDER BY edited_at DESC, seq DESC LIMIT 1
)
BEGIN
    SELECT RAISE(IGNORE);
END;
CREATE TABLE account_state (
    account TEXT PRIMARY KEY,
    pts INTEGER NOT NULL,
    qts INTEGER NOT NULL,
    date INTEGER NOT NULL,
    seq INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE channel_state (
    account TEXT NOT NULL,
    channel_id INTEGER NOT NULL,
    pts INTEGER,
    access_hash INTEGER,
    PRIMARY KEY (account, channel_id)
) WITHOUT ROWID;
CREATE TABLE peer_index (
    scope INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    chat INTEGER NOT NULL,
    chat_type TEXT NOT NULL,
    PRIMARY KEY (scope, message_id)
) WITHOUT ROWID;
CREATE TABLE cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE quarantine (
    sink TEXT NOT NULL,
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (sink, seq)
);
"""

# `chat` is a marked id, or 0 for the ids that an account's private chats and basic groups share. A gap's row
# holds what is still open of it; what is closed stands in rows of its own.
LEDGER = """
CREATE TABLE ledger (
    account TEXT NOT NULL,
    chat INTEGER NOT NULL,
    base INTEGER NOT NULL,
    top INTEGER NOT NULL,
    compared INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (account, chat)
) WITHOUT ROWID;
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    chat INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    reread INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'captured', 'absent')),
    why TEXT,
    opened_at INTEGER NOT NULL,
    closed_at INTEGER,
    CHECK (first_id <= last_id)
);
CREATE INDEX gaps_by_chat ON gaps (account, chat, last_id);
CREATE INDEX gaps_open ON gaps (first_id) WHERE state = 'open';
"""

# What people switched off, as last read from the database: `scope` is 0, or the user whose account numbers
# the chat's messages.
SWITCHES = """
CREATE TABLE IF NOT EXISTS switched_off (
    scope INTEGER NOT NULL,
    chat INTEGER NOT NULL,
    PRIMARY KEY (scope, chat)
) WITHOUT ROWID;
"""

# Version 1 had no ledger: each channel begins at the newest message that the journal holds of it, and so do
# the ids that an account's other chats share.
FIRST_LEDGER = """
INSERT INTO ledger (account, chat, base, top, compared, since)
SELECT s.account, e.chat, max(e.message_id), max(e.message_id), true, max(e.received_at)
FROM channel_state s JOIN events e ON e.scope = 0 AND e.chat = -1000000000000 - s.channel_id
WHERE e.kind = 0 GROUP BY s.account, e.chat;
INSERT INTO ledger (account, chat, base, top, compared, since)
SELECT account, 0, max(message_id), max(message_id), true, min(received_at)
FROM (
    SELECT CAST(body AS TEXT) ->> 'account' AS account, message_id, received_at
    FROM events WHERE scope <> 0 AND kind = 0
)
GROUP BY account;
"""

# What may be over by the time systemd starts us again; every other refusal to open a file stays.
_PASSING = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}


def connect(path: Path, flags: int) -> apsw.Connection:
    """A connection whose every commit is on the disk when it returns."""
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    for pragma in (
        "PRAGMA synchronous = FULL",
        "PRAGMA wal_autocheckpoint = 0",
        "PRAGMA temp_store = MEMORY",
        "PRAGMA mmap_size = 0",
        f"PRAGMA cache_size = -{PAGE_CACHE_KIB}",
        f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}",
    ):
        connection.execute(pragma).fetchall()
    if connection.pragma("synchronous") != 2:
        raise JournalError(f"SQLite refused synchronous=FULL on {path}; commits would not be durable")
    return connection


def upgrade(connection: apsw.Connection) -> None:
    """Creates the tables in an empty file, and brings a journal of an older version to the present one."""
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if not empty and connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get is None:
        return
    version = 0 if empty else connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").get
    steps = {0: SCHEMA + LEDGER + SWITCHES, 1: LEDGER + FIRST_LEDGER + SWITCHES, 2: SWITCHES}
    if version in steps:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(steps[version]).fetchall()
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,))
        connection.execute("COMMIT")


def require_schema(connection: apsw.Connection, path: Path) -> None:
    """Raises JournalUnusable unless the file holds a journal of the version this program reads and writes."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get:
        raise JournalUnusable(f"{path} is an SQLite file but not a journal; move it away or name another one")
    version = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").get
    if version != SCHEMA_VERSION:
        raise JournalUnusable(
            f"{path} has journal schema version {version}, this program knows version {SCHEMA_VERSION}; "
            "run the version of telegram-gateway that wrote it until its sinks have caught up, "
            "or move the file away"
        )


def read_bounds(connection: apsw.Connection) -> tuple[int, int]:
    """Numbers of the oldest and the newest row; 1 and 0 before the first."""
    # Two look-ups: asked for both in one, SQLite reads the whole table.
    first, last = connection.execute(
        "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)"
    ).get
    return first or 1, last or 0


def read_cursors(connection: apsw.Connection) -> dict[str, int]:
    """Every sink that was ever named, with the last record it has."""
    rows: list[Any] = connection.execute("SELECT sink, seq FROM cursors").fetchall()
    return dict(rows)


def io_failure(path: Path, error: BaseException) -> JournalError:
    """What the operator reads when the disk under the journal failed."""
    if isinstance(error, apsw.NotADBError | apsw.CorruptError):
        return JournalUnusable(
            f"the journal {path} is damaged ({error}); check the disk, then move the file away and "
            "start again: Telegram sends what it still holds, backfill brings the rest"
        )
    if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError) or (
        isinstance(error, OSError) and error.errno not in _PASSING
    ):
        return JournalUnusable(
            f"cannot use the journal {path} ({error}); check the disk and the file's owner: "
            "TELEGRAM_STATE_DIR must be a local directory that the gateway's user can write to"
        )
    return JournalError(
        f"the journal {path} failed ({type(error).__name__}: {error}); check the disk and the file's owner, "
        "then restart: whatever was not committed, Telegram sends again"
    )


def lock(path: Path) -> int:
    """Takes the lock beside `path`; returns its descriptor. Raises JournalUnusable when another holds it."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise JournalUnusable(
            f"the journal {path} is in use by process {holder or 'unknown'}; stop that one first"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def create_file(path: Path) -> None:
    """Makes an empty file that only its owner can read, and makes sure its name survives a power cut."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
