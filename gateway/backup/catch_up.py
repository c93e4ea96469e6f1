"""Gives a restored journal what a newer database has already.

A message that was edited since the backup comes from Telegram in its new words. If the journal took those for
the first ones, nobody would learn that they had changed. So it gets what was delivered meanwhile, which costs
readers of RabbitMQ a repeat, and those messages are read again for changes.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import apsw
import msgspec

from gateway.event import Event, utc_now
from gateway.journal.ledger import ACCOUNT_IDS, REREAD_LIMIT
from gateway.journal.moments import microseconds, moment
from gateway.journal.schema import io_failure
from gateway.journal.store import Row, Store

OVERLAP = timedelta(minutes=1)  # events of one moment may have been committed in another order
_ROWS = 1000
_SOURCE = "restore"
_NEWEST = "SELECT received_at FROM events ORDER BY seq DESC LIMIT 1"
_ACCOUNTS = "SELECT json_group_array(account) FROM account_state"
_REREAD = """
INSERT INTO gaps (account, chat, first_id, last_id, source, reread, state, opened_at)
SELECT account, chat, max(?3, ?4 - ?5 + 1), ?4, ?6, true, 'open', ?7
FROM ledger WHERE account = ?1 AND chat = ?2
"""


class CatchUp:
    """Adds events to a restored journal and has their messages read again. The daemon must be stopped."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self._path = state_dir / name
        self._rows: list[Row] = []
        self._seen: dict[tuple[str, int], tuple[int, int]] = {}
        self._added = 0

    def __enter__(self) -> Self:
        try:
            self._store = Store(self._path)
            received = self._store.connection.execute(_NEWEST).get
            self._accounts = set(msgspec.json.decode(self._store.connection.execute(_ACCOUNTS).get))
        except apsw.Error as error:
            raise io_failure(self._path, error) from error
        self._newest = None if received is None else moment(received)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._store.close()
        if isinstance(error, apsw.Error):
            raise io_failure(self._path, error) from error

    @property
    def since(self) -> datetime | None:
        """From when on the database may have more than the journal; None when the journal is empty."""
        return self._newest and self._newest - OVERLAP

    async def take(self, events: AsyncIterator[Event]) -> int:
        """Adds those of this journal's accounts that it lacks; returns how many these were."""
        async for event in events:
            if event.account in self._accounts:
                self._rows.append(Row(event))
                if len(self._rows) == _ROWS:
                    self._flush()
        self._finish()
        return self._added

    def _finish(self) -> None:
        self._flush()
        execute = self._store.connection.execute
        opened_at = microseconds(utc_now())
        self._store.begin()
        for (account, chat), (first, last) in self._seen.items():
            execute(_REREAD, (account, chat, first, last, REREAD_LIMIT, _SOURCE, opened_at))
        self._store.ledger.load()
        self._store.commit()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        self._store.begin()
        added = self._store.insert(rows)
        self._store.add_peers(row.event for row in added)
        self._store.commit()
        self._added += len(added)
        for event in (row.event for row in added if row.event.kind == "message.new"):
            chat = ACCOUNT_IDS if event.account_scope else int(event.channel_id)
            first, last = self._seen.get((event.account, chat), (event.message_id, event.message_id))
            self._seen[event.account, chat] = min(first, event.message_id), max(last, event.message_id)
