"""Every statement that writes to the journal's file.

Everything here runs on the writer thread (`gateway.journal.writer`); reading is in `gateway.journal.reader`.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path

import apsw
import msgspec

from gateway.errors import JournalError
from gateway.event import Event, encode
from gateway.journal.ledger import Ledger
from gateway.journal.moments import microseconds
from gateway.journal.records import AccountState
from gateway.journal.schema import (
    connect,
    create_file,
    read_bounds,
    read_cursors,
    require_schema,
    upgrade,
)

ROWS_PER_STATEMENT = 64
_KINDS = {"message.new": 0, "message.edited": 1, "message.deleted": 2}
# One statement for many rows: SQLite gives the interpreter lock away at each, and a busy loop keeps it.
_INSERT = """
INSERT INTO events (scope, chat, message_id, revision, kind, content_hash, edited_at, received_at, body)
VALUES """
_SET_ACCOUNT = """
INSERT INTO account_state (account, pts, qts, date, seq) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (account) DO UPDATE SET
    pts = excluded.pts, qts = excluded.qts, date = excluded.date, seq = excluded.seq
"""
_SET_CHANNELS = """
INSERT INTO channel_state (account, channel_id, pts, access_hash)
SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true
ON CONFLICT (account, channel_id) DO UPDATE SET
    pts = coalesce(excluded.pts, pts), access_hash = coalesce(excluded.access_hash, access_hash)
"""
_ADD_PEERS = """
INSERT INTO peer_index (scope, message_id, chat, chat_type)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?) WHERE true
ON CONFLICT DO NOTHING
"""
_SET_CURSOR = """
INSERT INTO cursors (sink, seq) VALUES (?, ?)
ON CONFLICT (sink) DO UPDATE SET seq = excluded.seq
"""
_QUARANTINE = """
INSERT INTO quarantine (sink, seq, reason, at, body) SELECT ?, seq, ?, ?, body FROM events WHERE seq = ?
ON CONFLICT (sink, seq) DO UPDATE SET reason = excluded.reason, at = excluded.at
"""
_INSERTED_AFTER = """
SELECT json_group_array(json_array(scope, chat, message_id, revision)) FROM (
    SELECT scope, chat, message_id, revision FROM events WHERE seq > ? ORDER BY seq
)
"""
# The first row of a chunk that must stay, or nothing when the whole chunk is old enough.
_FIRST_YOUNG = "SELECT min(seq) FROM events WHERE seq BETWEEN ? AND ? AND received_at >= ?"
_LIVE_PAGES = "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count"
_DELETE = "DELETE FROM events WHERE seq < ?"


class Row:
    """One event, ready to be bound to the insert statement."""

    __slots__ = ("body", "event", "values")

    def __init__(self, event: Event) -> None:
        identity = f"{event.account_scope}:{event.channel_id}:{event.message_id}"
        self.event = event
        self.body = encode(event)
        self.values = (
            event.account_scope,
            int(event.channel_id),
            event.message_id,
            # The chat and message stand before it in the index, which keeps a chat's rows side by side.
            event.id.removeprefix(identity),
            _KINDS[event.kind],
            None if event.kind == "message.deleted" else event.content_digest,
            0 if event.edit_date is None else microseconds(event.edit_date),
            microseconds(event.received_at),
            self.body,
        )


@cache
def _insert(rows: int) -> str:
    return _INSERT + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?)"] * rows) + " ON CONFLICT DO NOTHING"


class Store:
    """The one writing connection."""

    def __init__(self, path: Path) -> None:
        if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < (3, 51, 3):
            raise JournalError(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt a WAL journal; install apsw 3.51.3 or newer"
            )
        self.path = path
        self.wal_pages = 0
        if path.exists():
            path.chmod(0o600)
        else:
            create_file(path)
        self.connection = connect(path, apsw.SQLITE_OPEN_READWRITE)
        self._execute = self.connection.execute
        if self.connection.pragma("journal_mode", "wal") != "wal":
            raise JournalError(f"{path} cannot use write-ahead logging; put it on a local file system")
        upgrade(self.connection)
        require_schema(self.connection, path)
        self.page_bytes: int = self.connection.pragma("page_size")
        self.first_seq, self.last_seq = read_bounds(self.connection)
        self.cursors = read_cursors(self.connection)
        self.ledger = Ledger(self._execute)
        self.connection.set_wal_hook(self._count_wal_pages)

    def _count_wal_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def close(self) -> None:
        self.connection.close()

    def begin(self) -> None:
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.ledger.flush()
        self._execute("COMMIT")

    def rollback(self) -> None:
        if self.connection.in_transaction:
            self._execute("ROLLBACK")
        self.first_seq, self.last_seq = read_bounds(self.connection)
        self.ledger.opened.clear()
        self.ledger.closed.clear()
        self.ledger.load()

    def is_disk_full(self, error: apsw.Error) -> bool:
        """Whether the same transaction will pass once there is room again: a failed fsync never is that."""
        if isinstance(error, apsw.FullError):
            return True
        if not isinstance(error, apsw.IOError):
            return False
        return getattr(error, "extendedresult", None) in (
            apsw.SQLITE_IOERR_WRITE,
            apsw.SQLITE_IOERR_SHMSIZE,
        ) and self.connection.system_errno in (errno.ENOSPC, errno.EDQUOT)

    def insert(self, rows: Sequence[Row]) -> list[Row]:
        """Inserts what the journal does not hold yet; returns those rows in the order of their numbers.

        They are numbered from the former `last_seq` + 1 without holes.
        """
        before = self.last_seq
        offset, left = 0, len(rows)
        while left:
            size = min(ROWS_PER_STATEMENT, 1 << (left.bit_length() - 1))
            part = rows[offset : offset + size]
            self._execute(_insert(size), tuple(chain.from_iterable([row.values for row in part])))
            self.last_seq += self.connection.changes()
            offset += size
            left -= size
        if self.last_seq - before == len(rows):
            return list(rows)
        by_key = {row.values[:4]: row for row in reversed(rows)}
        inserted = msgspec.json.decode(self._execute(_INSERTED_AFTER, (before,)).get)
        return [by_key[tuple(key)] for key in inserted]

    def add_peers(self, events: Iterable[Event]) -> None:
        """Remembers the chat of messages whose ids count per account: their deletions do not name it."""
        peers = [
            (event.account_scope, event.message_id, int(event.channel_id), event.chat_type)
            for event in events
            if event.account_scope and event.kind != "message.deleted"
        ]
        if peers:
            self._execute(_ADD_PEERS, (msgspec.json.encode(peers).decode(),))

    def set_state(
        self, account: str, state: AccountState | None, channels: Mapping[int, int], hashes: Mapping[int, int]
    ) -> None:
        if state is not None:
            self._execute(_SET_ACCOUNT, (account, state.pts, state.qts, microseconds(state.date), state.seq))
        if channels or hashes:
            changes = [(key, channels.get(key), hashes.get(key)) for key in channels.keys() | hashes.keys()]
            self._execute(_SET_CHANNELS, (account, msgspec.json.encode(changes).decode()))

    def set_cursors(self, cursors: Mapping[str, int]) -> None:
        for sink, seq in cursors.items():
            self._execute(_SET_CURSOR, (sink, seq))
            self.cursors[sink] = seq

    def quarantine(self, sink: str, seq: int, reason: str, at: datetime) -> None:
        self._execute(_QUARANTINE, (sink, reason, microseconds(at), seq))

    def prune(self, end: int, before: datetime | None) -> int:
        """Deletes from the oldest row up to `end` (exclusive) but none received since `before`.

        Returns how many. The newest row always stays: its number is where the next one's comes from.
        """
        end = min(end, self.last_seq)
        if end > self.first_seq and before is not None:
            young = self._execute(_FIRST_YOUNG, (self.first_seq, end - 1, microseconds(before))).get
            end = end if young is None else young
        if end <= self.first_seq:
            return 0
        self._execute(_DELETE, (end,))
        removed = end - self.first_seq
        self.first_seq = end
        return removed

    def live_bytes(self) -> int:
        """Bytes of pages in use; deleted pages that SQLite fills again do not count."""
        pages: int = self._execute(
            "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count"
        ).get
        return pages * self.page_bytes

    def wal_bytes(self) -> int:
        """Bytes of the WAL that hold commits of its current round."""
        return self.wal_pages * self.page_bytes

    def checkpoint(self, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE) -> None:
        """Moves committed pages from the WAL into the database, as far as readers and the disk let it."""
        try:
            self.connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            return
        except apsw.Error as error:
            # The WAL has it all; the next commit finds out whether there is room there.
            if self.is_disk_full(error):
                return
            raise
        if mode == apsw.SQLITE_CHECKPOINT_TRUNCATE:
            self.wal_pages = 0
