"""The ledger: which message ids each account's chats should have brought, and which of them did.

It is written in the transaction of the events that it accounts for (on the journal's writer thread). Channels
and supergroups number their messages without holes, so a hole is a message that did not arrive. Chat 0 stands
for the ids of private chats and basic groups, which an account's chats share: there a jump means nothing.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec

from gateway import metrics
from gateway.event import utc_now
from gateway.journal.moments import microseconds
from gateway.journal.records import LedgerChanges, Missing, Settled

ACCOUNT_IDS = 0  # the chat that stands for ids that count per account
REREAD_LIMIT = 10_000  # the newest messages of a chat that are looked at again after unseen changes
NO_ACCESS = "no_access"
NEW, DELETED = 0, 2

_LOAD_CHATS = "SELECT json_group_array(json_array(account, chat, base, top, compared)) FROM ledger"
_LOAD_GAPS = """
SELECT json_group_array(json_array(account, chat, id, first_id, last_id, source, reread, opened_at))
FROM (SELECT * FROM gaps WHERE state = 'open' ORDER BY first_id)
"""
_LOAD_HELD = "SELECT json_group_array(chat) FROM switched_off WHERE scope <> 0"
_SET_CHATS = """
INSERT INTO ledger (account, chat, base, top, compared, since)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, ?1 FROM json_each(?2) WHERE true
ON CONFLICT (account, chat) DO UPDATE
SET base = excluded.base, top = excluded.top, compared = excluded.compared
"""
_OPEN = """
INSERT INTO gaps (account, chat, first_id, last_id, source, reread, state, opened_at)
VALUES (?, ?, ?, ?, ?, ?, 'open', ?) RETURNING id
"""
_RESIZE = "UPDATE gaps SET first_id = ?, last_id = ? WHERE id = ?"
_DELETE = "DELETE FROM gaps WHERE id = ?"
# Ranges that are closed one after the other for the same reason stay one row.
_EXTEND_CLOSED = """
UPDATE gaps SET last_id = ?1, closed_at = ?2
WHERE account = ?3 AND chat = ?4 AND last_id = ?5 - 1
    AND state = ?6 AND why IS ?7 AND source = ?8 AND reread = ?9
RETURNING 1
"""
_CLOSE = """
INSERT INTO gaps (account, chat, first_id, last_id, source, reread, state, why, opened_at, closed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_REOPEN = """
UPDATE gaps SET state = 'open', why = NULL, closed_at = NULL
WHERE account = ? AND chat = ? AND state = 'absent' AND why = 'no_access'
"""
_PRUNE = "DELETE FROM gaps WHERE state = 'captured' AND closed_at < ?"


@dataclass(slots=True, eq=False)
class _Gap:
    id: int
    first: int
    last: int
    source: str
    reread: bool
    opened_at: int


@dataclass(slots=True, eq=False)
class _Chat:
    """Gaps are open ones, ordered by id; those to reread may overlap the others."""

    account: str
    id: int
    base: int
    top: int
    compared: bool = False
    gaps: list[_Gap] = field(default_factory=list)


class Ledger:
    """What is not closed, in memory too. Gaps are written as they change, the rest by `flush`."""

    def __init__(self, execute: Callable[..., Any]) -> None:
        self._execute = execute
        self._chats: dict[tuple[str, int], _Chat] = {}
        # Counted as they change: going through 10 000 chats takes a while.
        self._open_gaps: dict[str, int] = {}
        self._dirty: set[_Chat] = set()
        # Whether gaps were opened or closed since the caller last set it to False.
        self.changed = True
        # What the transaction under way does to gaps, for the log once it is durable.
        self.opened: list[dict[str, Any]] = []
        self.closed: list[dict[str, Any]] = []
        self.load()

    def load(self) -> None:
        """Forgets what is not committed."""
        self._dirty.clear()
        self._held = set(msgspec.json.decode(self._execute(_LOAD_HELD).get))
        self._chats = {
            (account, chat): _Chat(account, chat, base, top, bool(compared))
            for account, chat, base, top, compared in msgspec.json.decode(self._execute(_LOAD_CHATS).get)
        }
        self._open_gaps = dict.fromkeys((account for account, _ in self._chats), 0)
        for account, chat, *gap in msgspec.json.decode(self._execute(_LOAD_GAPS).get):
            self._chats[account, chat].gaps.append(_Gap(*gap))
            self._open_gaps[account] += 1

    def misses(self, account: str, chat: int, message_id: int) -> bool:
        """Whether the account waits for this message to be fetched."""
        entry = self._chats.get((account, chat))
        return entry is not None and any(
            gap.first <= message_id <= gap.last for gap in entry.gaps if not gap.reread
        )

    def apply(self, account: str, rows: Sequence[Any], changes: LedgerChanges) -> None:
        """Enters a batch's events (their bound values) and what it says of the ledger itself."""
        if changes:
            for chat in changes.reopened:
                self._reopen(account, chat)
            for chat in changes.reread:
                self._open_reread(account, chat)
            for missing in changes.missing:
                self._open_missing(account, missing)
            for chat, newest in changes.tracked.items():
                entry = self._chats.get((account, chat)) or self._track(account, chat, newest)
                if not entry.compared and newest < entry.base and chat != ACCOUNT_IDS:
                    # The first push that came was not the first behind what the dialogs showed.
                    self._open_unopened(entry, newest + 1, entry.base, "hole")
                    entry.base = newest
                entry.compared = True
                self._dirty.add(entry)
        self._observe(account, rows, changes.fetched)
        for settled in changes.settled:
            self._settle(account, settled)

    def flush(self) -> None:
        """Writes the chats that moved; comes before the transaction's commit."""
        if self._dirty:
            rows = [(c.account, c.id, c.base, c.top, int(c.compared)) for c in self._dirty]
            self._execute(_SET_CHATS, (microseconds(utc_now()), msgspec.json.encode(rows).decode()))
            self._dirty.clear()

    def hold(self, chat_id: int) -> None:
        """Notes how far a chat whose ids count per account was captured, in every account that may be in it.

        What is still to be fetched of the account's ids will be fetched without this chat's messages.
        """
        for account, known in [(c.account, c) for c in self._chats.values() if c.id == ACCOUNT_IDS]:
            mark = min([known.top, *(gap.first - 1 for gap in known.gaps if not gap.reread)])
            entry = self._chats.get((account, chat_id)) or self._track(account, chat_id, mark)
            if mark < entry.top:
                entry.top, entry.base = mark, min(entry.base, mark)
                self._dirty.add(entry)
        self._held.add(chat_id)

    def release(self, chat_id: int) -> None:
        """The chat is captured again, and what was missed until now has been entered."""
        self._held.discard(chat_id)

    def prune(self, before: int) -> None:
        """Removes what was captured before a time (microseconds); what is absent stays explained for ever."""
        self._execute(_PRUNE, (before,))

    def open_gaps(self) -> dict[str, int]:
        """How many gaps each account waits for."""
        return dict(self._open_gaps)

    def _observe(self, account: str, rows: Sequence[Any], fetched: int | None) -> None:
        filled: dict[_Chat, list[int]] = {}
        for row in rows:
            scope, chat_id, message_id, _, kind, *_ = row.values
            if kind not in (NEW, DELETED):
                continue
            key = fetched if fetched is not None else ACCOUNT_IDS if scope else chat_id
            chat = self._chats.get((account, key))
            if key == ACCOUNT_IDS and scope and kind == NEW:
                self._follow(account, chat_id, message_id)
            if kind == DELETED:
                if chat is not None:
                    self._fill(chat, filled.pop(chat, ()))
                    if message_id > chat.top and key != ACCOUNT_IDS:
                        self._advance(chat, message_id + 1)
                    self._close(chat, message_id, message_id, "absent", "deleted")
            elif chat is None:
                base = message_id if key == ACCOUNT_IDS else message_id - 1
                self._track(account, key, base).top = message_id
            elif message_id > chat.top:
                if key != ACCOUNT_IDS and message_id > chat.top + 1:
                    self._advance(chat, message_id)
                chat.top = message_id
                self._dirty.add(chat)
            elif chat.gaps:
                filled.setdefault(chat, []).append(message_id)
        for chat, ids in filled.items():
            self._fill(chat, ids)

    def _follow(self, account: str, chat_id: int, message_id: int) -> None:
        """A chat that has been switched off before knows how far it is captured now."""
        own = self._chats.get((account, chat_id))
        if own is not None and message_id > own.top and chat_id not in self._held:
            own.top = message_id
            self._dirty.add(own)

    def _fill(self, chat: _Chat, ids: Sequence[int]) -> None:
        for first, last in _runs(ids):
            self._close(chat, first, last, "captured", None)

    def _advance(self, chat: _Chat, message_id: int) -> None:
        """Opens what lies between the newest known id and `message_id`."""
        self._open(chat, chat.top + 1, message_id - 1, "hole", reread=False)
        chat.top = message_id - 1
        self._dirty.add(chat)

    def _track(self, account: str, chat_id: int, newest: int) -> _Chat:
        chat = self._chats[account, chat_id] = _Chat(account, chat_id, newest, newest)
        self._dirty.add(chat)
        return chat

    def _open_missing(self, account: str, missing: Missing) -> None:
        chat = self._chats.get((account, missing.chat))
        if chat is None:
            # Where nothing is known, only a given `first` tells what is missing.
            newest = missing.last if missing.first is None else missing.first - 1
            chat = self._track(account, missing.chat, newest)
        first = chat.top + 1 if missing.first is None else max(missing.first, 1)
        last, base, top = missing.last, chat.base, chat.top
        if first > last:
            return
        if missing.known_too:
            self._open_unopened(chat, first, min(last, top), missing.source)
        else:
            self._open_unopened(chat, first, min(last, base), missing.source)
        self._open_unopened(chat, top + 1, last, missing.source)
        chat.top = max(top, last)
        if last >= base:
            # What is fetched further back stays apart: between it and `base` nothing is known.
            chat.base = min(base, first - 1)
        self._dirty.add(chat)

    def _open_unopened(self, chat: _Chat, first: int, last: int, source: str) -> None:
        for gap in [gap for gap in chat.gaps if not gap.reread and gap.first <= last and gap.last >= first]:
            self._open(chat, first, gap.first - 1, source, reread=False)
            first = max(first, gap.last + 1)
        self._open(chat, first, last, source, reread=False)

    def _open_reread(self, account: str, chat_id: int) -> None:
        chat = self._chats.get((account, chat_id))
        if chat is None:
            return
        first = max(chat.base + 1, chat.top - REREAD_LIMIT + 1)
        before = [gap for gap in chat.gaps if gap.reread]
        first = min([first, *(gap.first for gap in before)])
        # Opened before the others go: SQLite would give it the number of one of them.
        self._open(chat, first, chat.top, "unseen_changes", reread=True)
        for gap in before:
            self._remove(chat, gap)

    def _open(self, chat: _Chat, first: int, last: int, source: str, *, reread: bool) -> None:
        if first > last:
            return
        gap = self._insert(chat, first, last, source, reread, microseconds(utc_now()))
        self.opened.append(_named(chat, gap) | {"source": source, "first": first, "last": last})
        metrics.GAPS_OPENED.labels(chat.account, source).inc()
        self.changed = True

    def _settle(self, account: str, settled: Settled) -> None:
        chat = self._chats.get((account, settled.chat))
        if chat is not None:
            state = "absent" if settled.reread is None else "captured"
            self._close(chat, settled.first, settled.last, state, settled.why, reread=settled.reread)

    def _close(
        self, chat: _Chat, first: int, last: int, state: str, why: str | None, *, reread: int | None = None
    ) -> None:
        """Closes what is open between `first` and `last`, or of the one gap to reread.

        By its number: what was read for one says nothing of changes that opened another since.
        """
        for gap in [g for g in chat.gaps if (not g.reread if reread is None else g.id == reread)]:
            start, end = max(gap.first, first), min(gap.last, last)
            if start > end:
                continue
            self._note_closed(chat, gap, start, end, state, why)
            if gap.last > end and gap.first < start:
                rest = (end + 1, gap.last, gap.source, gap.reread, gap.opened_at)
                self._resize(gap, gap.first, start - 1)
                self._insert(chat, *rest)
            elif gap.last > end:
                self._resize(gap, end + 1, gap.last)
            elif gap.first < start:
                self._resize(gap, gap.first, start - 1)
            else:
                self._remove(chat, gap)
                seconds = (microseconds(utc_now()) - gap.opened_at) // 1_000_000
                self.closed.append(_named(chat, gap) | {"state": state, "why": why, "seconds_open": seconds})
            self.changed = True

    def _note_closed(
        self, chat: _Chat, gap: _Gap, first: int, last: int, state: str, why: str | None
    ) -> None:
        now = microseconds(utc_now())
        if not gap.reread:
            metrics.BACKFILLED.labels(chat.account, state).inc(last - first + 1)
        kind = (state, why, gap.source, gap.reread)
        if self._execute(_EXTEND_CLOSED, (last, now, chat.account, chat.id, first, *kind)).get:
            return
        row = (chat.account, chat.id, first, last, gap.source, gap.reread, state, why, gap.opened_at, now)
        self._execute(_CLOSE, row)

    def _reopen(self, account: str, chat_id: int) -> None:
        chat = self._chats.get((account, chat_id))
        if chat is not None:
            self._execute(_REOPEN, (account, chat_id))
            self.flush()
            self.load()
            self.changed = True

    def _insert(self, chat: _Chat, first: int, last: int, source: str, reread: bool, opened_at: int) -> _Gap:
        row = (first, last, source, reread, opened_at)
        gap = _Gap(self._execute(_OPEN, (chat.account, chat.id, *row)).get, *row)
        self._open_gaps[chat.account] = self._open_gaps.get(chat.account, 0) + 1
        chat.gaps.insert(bisect_left(chat.gaps, gap.first, key=attrgetter("first")), gap)
        return gap

    def _resize(self, gap: _Gap, first: int, last: int) -> None:
        gap.first, gap.last = first, last
        self._execute(_RESIZE, (first, last, gap.id))

    def _remove(self, chat: _Chat, gap: _Gap) -> None:
        chat.gaps.remove(gap)
        self._open_gaps[chat.account] -= 1
        self._execute(_DELETE, (gap.id,))


def _named(chat: _Chat, gap: _Gap) -> dict[str, Any]:
    return {"account": chat.account, "chat": chat.id, "gap": gap.id, "reread": gap.reread}


def _runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges without holes that hold exactly these ids."""
    runs: list[tuple[int, int]] = []
    for message_id in sorted(set(ids)):
        if runs and runs[-1][1] == message_id - 1:
            runs[-1] = (runs[-1][0], message_id)
        else:
            runs.append((message_id, message_id))
    return runs
