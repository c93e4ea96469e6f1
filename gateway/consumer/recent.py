"""What Redis knows that is new to a consumer, as far as nothing older can be missing before it.

The newest messages of a chat can be handed over only when all before them have been: so the page that Redis
gives must reach back to the one that was handed over last, unless that is too old to be there.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from gateway.consumer.hints import Cache, Hints
from gateway.consumer.polled import as_message
from gateway.consumer.settings import ConsumerSettings
from gateway.event import Event, utc_now
from gateway.read.hot import BODY_GONE, HotMessages, Newest
from gateway.read.records import ChatRef, HotPage

MOST_CHATS = 200  # in one round trip: the ones with the newest messages; the database is asked for all
LEAST_PER_CHAT = 10
KEPT = timedelta(minutes=55)  # what the gateway keeps for an hour, with some room for clocks


class Recent:
    """The last hour, in Redis. Its methods raise SinkUnavailable."""

    def __init__(self, cache: Cache, settings: ConsumerSettings) -> None:
        self._cache = cache
        self._settings = settings
        # From one poll to the next most messages are the same.
        self._hot = HotMessages(cache.client, remembered=2 * settings.page)
        self._hints = Hints(cache, settings)
        self._last: dict[str, tuple[datetime, int]] = {}  # by chat

    async def new(
        self, chats: Sequence[ChatRef], is_held: Callable[[Event], bool]
    ) -> tuple[list[Event], Mapping[str, HotPage]]:
        """The messages without the consumer's mark, oldest first; and the pages that tell too little."""
        keys = [chat.key for chat in chats[:MOST_CHATS]]
        if not keys:
            return [], {}
        limit = max(LEAST_PER_CHAT, self._settings.page // len(keys))
        since = utc_now() - self._settings.lookback
        with self._cache.watched():
            found = await self._hot.newest_of([Newest(key, limit, since) for key in keys])
        pages = dict(zip(keys, found, strict=True))
        lacking = {key: page for key, page in pages.items() if not self._reaches_back(key, page, limit)}
        messages = [
            as_message(event)
            for key, page in pages.items()
            if key not in lacking
            for event in reversed(page.events)
        ]
        fresh = [event for event in messages if self._settings.wants(event) and not is_held(event)]
        if fresh:
            marks = await self._hints.seen(fresh)
            fresh = [event for event, seen in zip(fresh, marks, strict=True) if not seen]
        return fresh, lacking

    async def warm(self, events: Sequence[Event]) -> None:
        """Writes back what only the database had, as far as it is recent."""
        with self._cache.watched():
            await self._hot.warm(events)

    def handed_over(self, event: Event) -> None:
        """Everything before this event, in its chat, was handed over as well."""
        self._last[event.chat_key] = max(_place(event), self._last.get(event.chat_key, _place(event)))

    def made_up_for(self, lacking: Mapping[str, HotPage]) -> None:
        """The database had nothing more: from here on, the next pages of these chats can tell enough."""
        for chat, page in lacking.items():
            if page.events:
                self._last[chat] = max(map(_place, page.events))
            else:
                self._last.pop(chat, None)

    def _reaches_back(self, chat: str, page: HotPage, limit: int) -> bool:
        if page.reason == BODY_GONE:
            return False
        last = self._last.get(chat)
        if last is None or last[0] < utc_now() - KEPT:
            return len(page.events) < limit
        return any(_place(event) <= last for event in page.events)


def _place(event: Event) -> tuple[datetime, int]:
    return event.telegram_date or event.received_at, event.message_id
