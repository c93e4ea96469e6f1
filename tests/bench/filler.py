"""Fills a journal with rows as the gateway writes them, long delivered and not yet old enough to be pruned.

In a process of its own, while the gateway is stopped, and without its durability: it is about the rows.
"""

import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw

from gateway.event import Event, Sender, new_id, utc_now
from gateway.journal.moments import microseconds
from gateway.journal.store import Row
from tests.bench import stamp
from tests.bench.child import run, serve

SINKS = ("timescaledb", "redis", "rabbitmq")
SPREAD = timedelta(days=6)  # inside the usual retention
ROWS_PER_TRANSACTION = 500_000
CACHE_KIB = 2 << 20  # the index is written in the order of chats, all over the file
_PLACE = 987_654_321  # stands for the message id in what is the same for all rows of a chat
_INSERT = """
INSERT INTO events (scope, chat, message_id, revision, kind, content_hash, edited_at, received_at, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def fill(journal: Path, chats: Sequence[int], rows: int) -> None:
    """Writes `rows` rows, those of the chats in turn, each chat's ids from 1 on; every sink has them."""
    connection = apsw.Connection(str(journal))
    connection.execute(f"PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB}").fetchall()
    events = _events(chats, rows)
    for start in range(0, rows, ROWS_PER_TRANSACTION):
        with connection:
            part = (next(events) for _ in range(min(ROWS_PER_TRANSACTION, rows - start)))
            connection.executemany(_INSERT, part)
    with connection:
        connection.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?)", [(s, rows) for s in SINKS])
    connection.execute("PRAGMA synchronous = FULL").fetchall()
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


def _events(chats: Sequence[int], rows: int) -> Iterator[tuple[Any, ...]]:
    templates = [_template(chat) for chat in chats]
    place = str(_PLACE).encode()
    now, spread = microseconds(utc_now()), int(SPREAD.total_seconds() * 1e6)
    for number in range(rows):
        scope, chat, _, revision, kind, digest, edited_at, _, body = templates[number % len(chats)]
        message_id = 1 + number // len(chats)
        received_at = now - spread + spread * number // rows
        body = body.replace(place, b"%d" % message_id)
        yield scope, chat, message_id, revision, kind, digest, edited_at, received_at, body


def _template(chat: int) -> tuple[Any, ...]:
    now = utc_now()
    event = Event(
        id=new_id(0, str(chat), _PLACE),
        kind="message.new",
        account="main",
        account_scope=0,
        channel_id=str(chat),
        chat_type="channel",
        chat_title="Sinais",
        message_id=_PLACE,
        sender=Sender(id=chat, name="Sinais"),
        text=stamp.write(1),
        telegram_date=now,
        received_at=now,
        source="mtproto",
        message_type="channel_post",
    )
    return Row(event).values


async def main(journal: Path) -> None:
    async def fill_it(chats: list[int], rows: int) -> dict[str, Any]:
        fill(journal, chats, rows)
        return {}

    await serve({}, {"fill": fill_it})


if __name__ == "__main__":
    run(main(Path(sys.argv[1])))
