"""Reads the journal's file: for sinks that are behind its tail, and (`open_reader`) for other processes.

Each method is one statement that answers with one row. SQLite gives the interpreter lock away once a row,
and on a busy event loop getting it back for each of a thousand rows would take longer than the reading.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import apsw
import msgspec

from gateway.errors import JournalError
from gateway.journal.moments import moment
from gateway.journal.position import Position, read_position
from gateway.journal.quarantine import Quarantined, count_quarantined, next_quarantined
from gateway.journal.records import AccountState, ChatLedger, Gap, JournalStats, Record, SinkStats
from gateway.journal.schema import connect, io_failure, read_bounds, read_cursors, require_schema
from gateway.journal.switches import ChatId, load_switched_off

# A body is JSON on one line: the encoder escapes line breaks inside strings.
_READ = """
SELECT group_concat(seq, ' '), CAST(group_concat(body, char(10)) AS BLOB)
FROM (SELECT seq, body FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?)
"""
_ACCOUNT = "SELECT pts, qts, date, seq FROM account_state WHERE account = ?"
_CHANNELS = """
SELECT json_group_array(json_array(channel_id, pts, access_hash)) FROM channel_state WHERE account = ?
"""
_CHATS = """
SELECT json_group_array(json_array(message_id, CAST(chat AS TEXT), chat_type)) FROM peer_index
WHERE scope = ? AND message_id IN (SELECT value FROM json_each(?))
"""
_HELD = """
SELECT json_group_array(json_array(value ->> 0, value ->> 1)) FROM json_each(?2) WHERE EXISTS (
    SELECT 1 FROM events
    WHERE scope = ?1 AND chat = value ->> 0 AND message_id = value ->> 1 AND revision = ''
)
"""
_GAPS = """
SELECT json_group_array(json_array(
    id, account, chat, first_id, last_id, source, reread, state, why, opened_at, closed_at
)) FROM (
    SELECT * FROM gaps
    WHERE (?1 IS NULL OR account = ?1) AND (?2 IS NULL OR chat = ?2) AND (?3 IS NULL OR state = ?3)
    ORDER BY id DESC LIMIT ?4
)
"""
# In the order in which they are fetched: what is missing, then what may have changed, then history; the
# newest first, each from its start.
_NEXT_GAPS = """
SELECT json_group_array(json_array(
    id, account, chat, first_id, last_id, source, reread, state, why, opened_at, closed_at
)) FROM (
    SELECT * FROM gaps
    WHERE account = ?1 AND state = 'open' AND chat NOT IN (SELECT value FROM json_each(?2))
    ORDER BY source IN ('history', 'hand'), reread, opened_at DESC, last_id DESC, first_id LIMIT ?3
)
"""
_LEDGER = """
SELECT json_group_array(json_array(
    chat, base, top,
    coalesce((
        SELECT min(first_id) - 1 FROM gaps g
        WHERE g.account = l.account AND g.chat = l.chat AND state = 'open' AND NOT reread
    ), top),
    since, compared,
    EXISTS (
        SELECT 1 FROM gaps g
        WHERE g.account = l.account AND g.chat = l.chat AND state = 'absent' AND why = 'no_access'
    )
)) FROM ledger l WHERE account = ?
"""
_RECEIVED = "SELECT received_at FROM events WHERE seq >= ? ORDER BY seq LIMIT 1"


class Reader:
    """The one reading connection of the process that owns the journal, used on one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path, apsw.SQLITE_OPEN_READONLY)
        self._execute = self._connection.execute

    def close(self) -> None:
        with contextlib.suppress(apsw.Error):  # it has nothing to lose
            self._connection.close()

    def require_schema(self) -> None:
        """Raises JournalError unless the file is a journal of the version this program knows."""
        require_schema(self._connection, self._path)

    def read(self, after: int, last: int, limit: int) -> list[Record]:
        """Up to `limit` records above `after` and not above `last`, in order."""
        seqs, bodies = self._execute(_READ, (after, last, limit)).get
        if seqs is None:
            return []
        return [Record(int(seq), body) for seq, body in zip(seqs.split(), bodies.split(b"\n"), strict=True)]

    def last_seq(self) -> int:
        """The number of the newest durable record, 0 when there never was one."""
        return read_bounds(self._connection)[1]

    def load_state(self, account: str) -> tuple[AccountState | None, dict[int, int]]:
        """The account's update state, None when it has none yet, and its access hashes."""
        with self._snapshot():
            channels = msgspec.json.decode(self._execute(_CHANNELS, (account,)).get)
            found = self._execute(_ACCOUNT, (account,)).get
        hashes = {channel: access_hash for channel, _, access_hash in channels if access_hash is not None}
        if found is None:
            return None, hashes
        pts, qts, date, seq = found
        known = {channel: channel_pts for channel, channel_pts, _ in channels if channel_pts}
        return AccountState(pts=pts, qts=qts, date=moment(date), seq=seq, channels=known), hashes

    def position(self, account: str) -> tuple[Position, int] | None:
        """Where the account stands, and the last record before that; None before its first state."""
        with self._snapshot():
            return read_position(self._connection, account)

    def chat_of(self, scope: int, message_ids: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Chat and chat type of those of an account's messages that are known."""
        ids = msgspec.json.encode(list(message_ids)).decode()
        found = self._execute(_CHATS, (scope, ids)).get
        return {message_id: (chat, chat_type) for message_id, chat, chat_type in msgspec.json.decode(found)}

    def held(self, scope: int, messages: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of `messages` (marked chat id, message id) whose first revision the journal still holds."""
        found = self._execute(_HELD, (scope, msgspec.json.encode(messages).decode())).get
        return {(chat, message_id) for chat, message_id in msgspec.json.decode(found)}

    def gaps(
        self,
        account: str | None = None,
        chat: int | None = None,
        state: str | None = "open",
        limit: int = -1,
    ) -> list[Gap]:
        """Gaps, the newest first; None means all."""
        rows = msgspec.json.decode(self._execute(_GAPS, (account, chat, state, limit)).get)
        return [_gap(*row) for row in rows]

    def next_gaps(self, account: str, paused: Sequence[int], limit: int) -> list[Gap]:
        """The account's open gaps in the order in which to fetch them, without those of `paused` chats."""
        found = self._execute(_NEXT_GAPS, (account, msgspec.json.encode(paused).decode(), limit)).get
        return [_gap(*row) for row in msgspec.json.decode(found)]

    def ledger(self, account: str) -> dict[int, ChatLedger]:
        """What is known of each of an account's chats, by marked id."""
        rows = msgspec.json.decode(self._execute(_LEDGER, (account,)).get)
        return {
            chat: ChatLedger(base, top, mark, moment(since), bool(compared), bool(no_access))
            for chat, base, top, mark, since, compared, no_access in rows
        }

    def switched_off(self) -> set[ChatId]:
        """The chats that people had switched off when that was last known."""
        return load_switched_off(self._connection)

    def count_quarantined(self) -> dict[str, int]:
        """How many records each sink has in quarantine; sinks without any are left out."""
        return count_quarantined(self._connection)

    def next_quarantined(self, after: tuple[str, int] = ("", 0)) -> Quarantined | None:
        """The first record in quarantine behind (sink, seq)."""
        return next_quarantined(self._connection, after)

    def stats(self, cursors: Mapping[str, int]) -> JournalStats:
        """The counts, with `cursors` for where the sinks are. A handful of point look-ups."""
        first, last = read_bounds(self._connection)
        size = 0
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            try:
                size += path.stat().st_size
            except FileNotFoundError:
                continue
        sinks = {}
        for sink, cursor in cursors.items():
            lag = max(0, last - max(cursor, first - 1))
            sinks[sink] = SinkStats(cursor, lag, self._received(cursor + 1) if lag else None)
        return JournalStats(
            rows=last - first + 1,
            bytes=size,
            first_seq=first,
            last_seq=last,
            oldest_received=self._received(first),
            sinks=sinks,
        )

    def stored_stats(self) -> JournalStats:
        """The counts, with the cursors as they are on disk."""
        with self._snapshot():
            return self.stats(read_cursors(self._connection))

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._execute("BEGIN")
        try:
            yield
        finally:
            self._execute("ROLLBACK")

    def _received(self, seq: int) -> datetime | None:
        found = self._execute(_RECEIVED, (seq,)).get
        return None if found is None else moment(found)


@contextlib.contextmanager
def open_reader(path: Path) -> Iterator[Reader]:
    """A reader of a journal that another process may have open.

    Raises JournalError when there is none, or it cannot be read, also while it is used.
    """
    if not path.exists():
        raise JournalError(f"there is no journal at {path}; it is made when the daemon first runs")
    try:
        reader = Reader(path)
        try:
            reader.require_schema()
            yield reader
        finally:
            reader.close()
    except apsw.Error as error:
        raise io_failure(path, error) from error


def read_stats(path: Path) -> JournalStats:
    """The counts of a journal that another process may have open; cursors are up to 0.2 s behind there.

    Raises JournalError as `open_reader` does.
    """
    with open_reader(path) as reader:
        return reader.stored_stats()


def _gap(
    id_: int,
    account: str,
    chat: int,
    first: int,
    last: int,
    source: str,
    reread: int,
    state: str,
    why: str | None,
    opened_at: int,
    closed_at: int | None,
) -> Gap:
    closed = None if closed_at is None else moment(closed_at)
    return Gap(id_, account, chat, first, last, source, bool(reread), state, why, moment(opened_at), closed)
