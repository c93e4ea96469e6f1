"""The last hour of messages, from Redis: fast, and honest about what it does not hold.

The set of a chat's recent messages names every message dated within the last hour, unless Redis was emptied,
failed over or short of memory. So an answer is complete only when the set also names an older message than
the last one asked for: a set that was lost and begun again has none. Bodies that are gone make it incomplete,
too, and so does what was warmed. What a failover lost in the middle of the hour cannot be seen from here; who
must not miss a message asks `MessageReader.unprocessed`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis

from gateway.event import Event, decode, encode
from gateway.read.errors import answering
from gateway.read.records import HotPage, MessageRef
from gateway.sinks.redis_script import SCRIPT, message_key, recent_key, script_input, warmed_key

# More than was asked for, since messages of one second stand in no order there.
SPARE = 20
CHUNK_EVENTS = 250
BODY_GONE = "a message's body is gone"  # why a page is not complete


class Newest(NamedTuple):
    """The newest `limit` messages of a chat (its key), of those dated `since` then."""

    chat: str
    limit: int
    since: datetime | None = None


class HotMessages:
    """Reads what the gateway's Redis sink wrote. `redis` may return bytes or text.

    Pages that are read again and again are for the most part the same: of so many bodies the events are
    `remembered`, and given to every reader.
    """

    def __init__(self, redis: Redis, *, remembered: int = 0) -> None:
        self._redis = redis
        self._script = redis.register_script(SCRIPT)
        self._decoded = lru_cache(remembered)(_decoded) if remembered else _decoded

    async def newest(self, chat: str, limit: int, since: datetime | None = None) -> HotPage:
        """One page. Raises SinkUnavailable."""
        (page,) = await self.newest_of([Newest(chat, limit, since)])
        return page

    async def newest_of(self, asked: Sequence[Newest]) -> list[HotPage]:
        """A page for each, in one round trip. Raises SinkUnavailable."""
        pipeline = self._redis.pipeline(transaction=False)
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
            answers = await pipeline.execute()
        return [
            self._page(
                [body if isinstance(body, bytes) else _bytes(body) for body in bodies],
                each.limit,
                each.since,
                warmed,
            )
            for each, bodies, warmed in zip(asked, answers[::2], answers[1::2], strict=True)
        ]

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
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(message_key(chat, message.message_id))
        pipeline.zrem(recent_key(chat), str(message.message_id))
        with answering("Redis"):
            await pipeline.execute()

    def _page(self, bodies: Sequence[bytes], limit: int, since: datetime | None, warmed: Any) -> HotPage:
        decoded = [(self._decoded(body), body) for body in bodies]
        dated = [
            (event.telegram_date, event, body)
            for event, body in decoded
            if event is not None and event.telegram_date
        ]
        dated.sort(key=lambda each: (each[0], each[1].message_id), reverse=True)
        wanted = [each for each in dated if since is None or each[0] >= since][:limit]
        edge = wanted[-1][0] if len(wanted) == limit else since
        witness = next((date for date, _, _ in dated if edge is not None and date < edge), None)
        reason = None
        if len(dated) < len(bodies):
            reason = BODY_GONE
        elif edge is None:
            reason = "fewer messages than asked for"
        elif witness is None:
            reason = "no older message shows that none is missing"
        elif warmed is not None and witness.timestamp() * 1000 < int(warmed):
            reason = "recent messages were read back from the database, perhaps not all"
        return HotPage(
            [event for _, event, _ in wanted], [body for _, _, body in wanted], reason is None, reason
        )


def _bytes(body: Any) -> bytes:
    """A body that is no bytes: one that is gone, or text."""
    return b"" if body is None else str(body).encode()


def _decoded(body: bytes) -> Event | None:
    try:
        return decode(body)
    except msgspec.MsgspecError:
        return None
