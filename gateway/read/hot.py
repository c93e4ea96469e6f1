"""The last hour of messages, from Redis: fast, and honest about what it does not hold.

The set of a chat's recent messages names every message dated within the last hour, unless Redis was emptied,
failed over or short of memory. So an answer is complete only when the set also names an older message than
the last one asked for: a set that was lost and begun again has none. Bodies that are gone make it incomplete,
too, and so does what was warmed. What a failover lost in the middle of the hour cannot be seen from here; who
must not miss a message asks `MessageReader.unprocessed`.

Whoever writes renews the chat's mark: a page that was read under the same mark need not be read again.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from gateway.event import Event, decode, encode
from gateway.read.errors import answering
from gateway.read.records import HotPage, MessageRef
from gateway.sinks.redis_script import (
    HOT_SECONDS,
    SCRIPT,
    mark_key,
    message_key,
    new_mark,
    recent_key,
    script_input,
    warmed_key,
)

# More than was asked for, since messages of one second stand in no order there.
SPARE = 20
CHUNK_EVENTS = 250
BODY_GONE = "a message's body is gone"  # why a page is not complete
# How long a page is kept at most: a gateway of a version without marks may write to the same Redis.
KEPT_SECONDS = 2.0
LARGEST_BYTES = 128 << 10  # of the bodies of one chat
KEPT_BYTES = 16 << 20  # of all that was read to be kept, until all is forgotten
KEPT_PAGES = 2  # of one chat


class Newest(NamedTuple):
    """The newest `limit` messages of a chat (its key), of those dated `since` then."""

    chat: str
    limit: int
    since: datetime | None = None


@dataclass(slots=True)
class _Window:
    """What Redis held of a chat's newest `limit` messages, and some more, under a mark."""

    mark: Any
    limit: int
    until: float  # monotonic seconds
    asked_at: float
    dated: list[tuple[datetime, Event, bytes]]  # newest first
    whole: bool
    warmed: int | None  # ms
    pages: dict[tuple[int, datetime | None], HotPage] = field(default_factory=dict)


class HotMessages:
    """Reads what the gateway's Redis sink wrote. `redis` may return bytes or text.

    Pages that are read again and again are for the most part the same: of so many bodies the events are
    `remembered`, and given to every reader, as are pages in which nothing has changed: for so many seconds
    they go `unasked` whether anything has.
    """

    def __init__(self, redis: Redis, *, remembered: int = 0, unasked: float = 0.0) -> None:
        self._redis = redis
        self._script = redis.register_script(SCRIPT)
        self._decoded = lru_cache(remembered)(_decoded) if remembered else _decoded
        self._keeps = bool(remembered)
        self._unasked = unasked
        self._kept: dict[str, _Window] = {}
        self._kept_bytes = 0

    async def newest(self, chat: str, limit: int, since: datetime | None = None) -> HotPage:
        """One page. Raises SinkUnavailable."""
        (page,) = await self.newest_of([Newest(chat, limit, since)])
        return page

    def kept(self, asked: Newest) -> HotPage | None:
        """The page, where it goes unasked."""
        window, asked_before = self._kept.get(asked.chat), time.monotonic() - self._unasked
        if window is None or window.limit < asked.limit or window.asked_at <= asked_before:
            return None
        return _page(window, asked.limit, asked.since)

    async def newest_of(self, asked: Sequence[Newest]) -> list[HotPage]:
        """A page for each, in one round trip, and a second one for chats that have changed.

        Raises SinkUnavailable.
        """
        now = time.monotonic()
        kept: dict[Newest, _Window] = {}
        for each in asked:
            window = self._kept.get(each.chat)
            if window is not None and window.limit >= each.limit and window.until > now:
                kept[each] = window
        marks, windows = await self._read(list(kept), [each for each in asked if each not in kept], now)
        changed = []
        for (each, window), mark in zip(kept.items(), marks, strict=True):
            if window.mark == mark:
                window.asked_at = now
            else:
                changed.append(each)
                self._kept.pop(each.chat, None)
        if changed:
            windows |= (await self._read((), changed, now))[1]
        windows = kept | windows
        return [_page(windows[each], each.limit, each.since) for each in asked]

    async def _read(
        self, known: Sequence[Newest], asked: Sequence[Newest], now: float
    ) -> tuple[list[Any], dict[Newest, _Window]]:
        """The marks of the chats that are known, and what there is of those that are asked for."""
        pipeline = self._redis.pipeline(transaction=False)
        # Marks first: what is written between a mark and its messages makes these newer than it, never older.
        pipeline.mget([mark_key(each.chat) for each in (*known, *asked)])
        for chat, limit, _ in asked:
            # Walks the set and fetches the bodies on the server: one command for a chat.
            pipeline.sort(
                recent_key(chat),
                start=0,
                num=limit + SPARE,
                by="nosort",
                desc=True,
                get=[message_key(chat, "*")],
            )
            pipeline.get(warmed_key(chat))
        with answering("Redis"):
            marks, *answers = await pipeline.execute()
        windows = {
            each: self._window(each, mark, bodies, warmed, now)
            for each, mark, bodies, warmed in zip(
                asked, marks[len(known) :], answers[::2], answers[1::2], strict=True
            )
        }
        return marks[: len(known)], windows

    def _window(self, asked: Newest, mark: Any, bodies: Sequence[Any], warmed: Any, now: float) -> _Window:
        found = [body if isinstance(body, bytes) else _bytes(body) for body in bodies]
        dated = [
            (event.telegram_date, event, body)
            for body in found
            if (event := self._decoded(body)) is not None and event.telegram_date
        ]
        dated.sort(key=lambda each: (each[0], each[1].message_id), reverse=True)
        window = _Window(
            mark=mark,
            limit=asked.limit,
            until=now + KEPT_SECONDS,
            asked_at=now,
            dated=dated,
            whole=len(dated) == len(found),
            warmed=int(warmed) if warmed is not None else None,
        )
        size = sum(map(len, found))
        if self._keeps and mark is not None and size <= LARGEST_BYTES:
            if self._kept_bytes + size > KEPT_BYTES:
                self._kept.clear()
                self._kept_bytes = 0
            self._kept[asked.chat] = window
            self._kept_bytes += size
        return window

    async def message(self, message: MessageRef) -> Event | None:
        """One message; None when it is not here, which says nothing about whether there is one.

        Raises SinkUnavailable.
        """
        with answering("Redis"):
            body = await self._redis.get(message_key(message.chat.key, message.message_id))
        return self._decoded(body if isinstance(body, bytes) else _bytes(body))

    async def warm(self, events: Iterable[Event]) -> int:
        """Writes messages read from the database back, as the sink would, and returns how many there were.

        Never over a newer revision, and nothing that is older than what is kept here. Where it adds a recent
        message, no page from before now is complete any more. Raises SinkUnavailable.
        """
        pairs = [(event, encode(event)) for event in events if event.kind != "message.deleted"]
        with answering("Redis"):
            for start in range(0, len(pairs), CHUNK_EVENTS):
                keys, arguments = script_input(pairs[start : start + CHUNK_EVENTS], warm=True)
                await self._script(keys=keys, args=arguments)
        return len(pairs)

    async def forget(self, message: MessageRef) -> None:
        """Removes a message until somebody warms it, or it is edited. Raises SinkUnavailable."""
        chat = message.chat.key
        self._kept.pop(chat, None)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(message_key(chat, message.message_id))
        pipeline.zrem(recent_key(chat), str(message.message_id))
        pipeline.set(mark_key(chat), new_mark(), ex=HOT_SECONDS)
        with answering("Redis"):
            await pipeline.execute()


def _page(window: _Window, limit: int, since: datetime | None) -> HotPage:
    page = window.pages.get((limit, since))
    if page is not None:
        return page
    dated = window.dated
    wanted = [each for each in dated if since is None or each[0] >= since][:limit]
    edge = wanted[-1][0] if len(wanted) == limit else since
    witness = next((date for date, _, _ in dated if edge is not None and date < edge), None)
    reason = None
    if not window.whole:
        reason = BODY_GONE
    elif edge is None:
        reason = "fewer messages than asked for"
    elif witness is None:
        reason = "no older message shows that none is missing"
    elif window.warmed is not None and witness.timestamp() * 1000 < window.warmed:
        reason = "recent messages were read back from the database, perhaps not all"
    page = HotPage([event for _, event, _ in wanted], [body for _, _, body in wanted], reason is None, reason)
    if len(window.pages) >= KEPT_PAGES:
        window.pages.clear()
    window.pages[limit, since] = page
    return page


def _bytes(body: Any) -> bytes:
    """A body that is no bytes: one that is gone, or text."""
    return b"" if body is None else str(body).encode()


def _decoded(body: bytes) -> Event | None:
    try:
        return decode(body)
    except msgspec.MsgspecError:
        return None
