"""The last hour of messages, from Redis: fast, and honest about what it does not hold.

The set of a chat's recent messages names every message dated within the last hour, unless Redis was emptied,
failed over or short of memory. So an answer is complete only when the set also names an older message than
the last one asked for: a set that was lost and begun again has none. Bodies that are gone make it incomplete,
too. What a failover lost in the middle of the hour cannot be seen from here; who must not miss a message asks
`MessageReader.unprocessed`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.event import Event, decode, encode
from gateway.read.errors import answering
from gateway.read.records import HotPage, MessageRef
from gateway.sinks.redis_script import SCRIPT, message_key, recent_key, script_input

# More than was asked for, since messages of one second stand in no order there.
SPARE = 20
CHUNK_EVENTS = 250


class HotMessages:
    """Reads what the gateway's Redis sink wrote. `redis` may return bytes or text."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(SCRIPT)

    async def newest(self, chat: str, limit: int, since: datetime | None = None) -> HotPage:
        """The newest `limit` messages of a chat (its key), of those dated `since` then.

        Raises SinkUnavailable.
        """
        return (await self.newest_of([chat], limit, since))[chat]

    async def newest_of(
        self, chats: Sequence[str], limit: int, since: datetime | None = None
    ) -> dict[str, HotPage]:
        """The same for several chats, in one round trip. Raises SinkUnavailable."""
        pipeline = self._redis.pipeline(transaction=False)
        for chat in chats:
            # Walks the set and fetches the bodies on the server: one command for a chat.
            pipeline.sort(
                recent_key(chat),
                start=0,
                num=limit + SPARE,
                by="nosort",
                desc=True,
                get=[message_key(chat, "*")],
            )
        with answering("Redis"):
            answers = await pipeline.execute()
        return {chat: _page(bodies, limit, since) for chat, bodies in zip(chats, answers, strict=True)}

    async def message(self, message: MessageRef) -> Event | None:
        """One message; None when it is not here, which says nothing about whether there is one.

        Raises SinkUnavailable.
        """
        with answering("Redis"):
            body = await self._redis.get(message_key(message.chat.key, message.message_id))
        return _decoded(body)

    async def warm(self, events: Iterable[Event]) -> int:
        """Writes messages read from the database back, as the sink would, and returns how many there were.

        Never over a newer revision; not those that are older than what is kept here. Raises SinkUnavailable.
        """
        pairs = [(event, encode(event)) for event in events if event.kind != "message.deleted"]
        with answering("Redis"):
            for start in range(0, len(pairs), CHUNK_EVENTS):
                keys, arguments = script_input(pairs[start : start + CHUNK_EVENTS], cold_sources=None)
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


def _page(bodies: Sequence[Any], limit: int, since: datetime | None) -> HotPage:
    events = []
    missing = False
    for body in bodies:
        event = _decoded(body)
        if event is None or event.telegram_date is None:
            missing = True
        else:
            events.append(event)
    events.sort(key=lambda event: (event.telegram_date, event.message_id), reverse=True)
    wanted = [event for event in events if since is None or event.telegram_date >= since][:limit]  # type: ignore[operator]
    if missing:
        return HotPage(wanted, False, "a message's body is gone")
    last = wanted[-1].telegram_date if len(wanted) == limit else since
    if last is None:
        return HotPage(wanted, False, "fewer messages than asked for")
    if not events or events[-1].telegram_date >= last:  # type: ignore[operator]
        return HotPage(wanted, False, "no older message shows that none is missing")
    return HotPage(wanted, True)


def _decoded(body: Any) -> Event | None:
    if body is None:
        return None
    try:
        return decode(body if isinstance(body, bytes) else body.encode())
    except msgspec.MsgspecError:
        return None
