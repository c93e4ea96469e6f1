"""The polling side of a consumer: Redis first, the database behind it.

Redis is asked at every poll, in one round trip for all chats, and what carries the consumer's mark is left
out. The database is asked every few polls as well, and whenever Redis fails: it alone knows what is
unprocessed, so a mark that lies and a cache that forgot cost a moment, never an event.

A new message comes as it reads now: what was edited before it was handled has its newest content, under the
message's own id, as a backfilled message has. Edits and deletions that are wanted come as well, one by one.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from gateway.consumer.backoff import JITTER, Backoff
from gateway.consumer.broker import DeadLetters, headers_of, routing_key_of
from gateway.consumer.database import Database
from gateway.consumer.effects import Effects
from gateway.consumer.hints import Cache, Hints
from gateway.consumer.metrics import ConsumerMetrics
from gateway.consumer.settings import ConsumerSettings
from gateway.consumer.state import BEGUN
from gateway.errors import SinkUnavailable
from gateway.event import Event, new_id, utc_now
from gateway.read.hot import HotMessages
from gateway.read.processing import ProcessingState
from gateway.read.records import ChatRef, event_of

log = structlog.get_logger()

MOST_CHATS = 200  # asked for in Redis: the ones that had the newest messages; the database is asked for all
LEAST_PER_CHAT = 10
CHATS_SECONDS = 60.0  # how long the list of chats is good for

_CHATS = """
SELECT account_scope, id FROM telegram_gateway.channels
WHERE $1::text[] IS NULL OR id = ANY ($1)
ORDER BY last_message_date DESC NULLS LAST
"""
_REVISIONS = """
SELECT r.* FROM telegram_gateway.message_revisions r
WHERE r.received_at >= $1 AND r.received_at <= $2 AND r.kind = ANY ($3)
  AND ($4::text[] IS NULL OR r.channel_id = ANY ($4))
  AND NOT EXISTS (
    SELECT FROM telegram_gateway.revision_processing p
    WHERE (p.consumer, p.account_scope, p.channel_id, p.message_id, p.event_id)
        = ($5, r.account_scope, r.channel_id, r.message_id, r.event_id)
      AND p.status NOT IN ('received', 'retrying')
  )
ORDER BY r.received_at, r.revision
LIMIT $6
"""


class PolledDelivery:
    """An event that a poll found. Nobody waits for an answer: it is found again until it is on record."""

    problem = ""
    reopened = False
    stale = False

    def __init__(self, event: Event, source: str, queue: str, dead_letters: DeadLetters | None) -> None:
        self.event: Event | None = event
        self.source = source
        self._event = event
        self._queue = queue
        self._dead_letters = dead_letters

    @property
    def chat(self) -> str:
        return self._event.chat_key

    async def park(self, reason: str, attempts: int) -> None:
        """The record in the database is what counts here; with RabbitMQ away, it is all there is."""
        if self._dead_letters is None:
            return
        event = self._event
        try:
            await self._dead_letters.park(
                msgspec.json.encode(event),
                message_id=event.id,
                headers=headers_of(event),
                routing_key=routing_key_of(event),
                queue=self._queue,
                reason=reason,
                attempts=attempts,
            )
        except SinkUnavailable as error:
            log.warning("consumer_dead_letter_skipped", event_id=event.id, cause=str(error))

    async def done(self) -> None:
        return


class PollSource:
    """Feeds `effects` with what polls find until the lanes are told to stop.

    While `queue_delivers`, it only looks now and then, in the database, for what the queue has had time for.
    """

    def __init__(
        self,
        settings: ConsumerSettings,
        effects: Effects,
        metrics: ConsumerMetrics,
        *,
        database: Database | None,
        cache: Cache | None,
        dead_letters: DeadLetters | None,
        ready: asyncio.Event,
        queue_delivers: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._effects = effects
        self._lanes = effects.lanes
        self._metrics = metrics
        self._database = database
        self._state = ProcessingState(database) if database is not None else None
        self._cache = cache
        self._hot = HotMessages(cache.client) if cache is not None else None
        self._hints = Hints(cache, settings) if cache is not None else None
        self._dead_letters = dead_letters
        self._ready = ready
        self._queue_delivers = queue_delivers
        self.wake = asyncio.Event()
        self._chats: list[ChatRef] = [ChatRef.parse(chat) for chat in settings.chats]
        self._chats_at: float | None = None
        self._polls = 0

    async def run(self) -> None:
        """Raises SchemaError or ConfigurationError when a person must act."""
        idle = Backoff(
            self._settings.poll_interval.total_seconds(), self._settings.idle_interval.total_seconds()
        )
        stopping = self._lanes.stopping
        self._lanes.listeners.add(self.wake.set)
        try:
            while not stopping.is_set():
                found = await self._poll()
                self._ready.set()
                if found:
                    idle.reset()
                if found >= self._settings.page:
                    await self._lanes.less_than(self._settings.page)
                elif self._queue_delivers():
                    seconds = self._settings.catch_up_interval.total_seconds()
                    await self._rest(seconds * random.uniform(1 - JITTER, 1))
                else:
                    await self._rest(idle.next())
        finally:
            self._lanes.listeners.discard(self.wake.set)

    async def _rest(self, seconds: float) -> None:
        """Waits; ends early when all is to stop, or when the queue has stopped delivering."""
        delivered = self._queue_delivers()
        try:
            async with asyncio.timeout(seconds):
                while not self._lanes.stopping.is_set() and (not delivered or self._queue_delivers()):
                    self.wake.clear()
                    await self.wake.wait()
        except TimeoutError:
            return

    async def _poll(self) -> int:
        """Hands over what is new, and returns how many events that were."""
        begun = time.perf_counter()
        self._polls += 1
        found: list[Event] = []
        ask_database = self._polls % self._settings.database_polls == 1 or self._settings.database_polls == 1
        try:
            if self._hot is None or self._queue_delivers():
                ask_database = True
            else:
                try:
                    found = await self._from_cache()
                except SinkUnavailable:
                    self._metrics.fallbacks.inc()
                    ask_database = True
            self._submit(found, "cache")
            if ask_database and self._state is not None:
                stored = await self._from_database()
                self._metrics.poll_seconds.observe(time.perf_counter() - begun)
                return len(found) + stored
        except SinkUnavailable as error:
            log.debug("consumer_poll_failed", consumer=self._settings.name, cause=str(error))
        self._metrics.poll_seconds.observe(time.perf_counter() - begun)
        return len(found)

    async def _from_cache(self) -> list[Event]:
        """The unmarked messages of Redis, oldest first. Raises SinkUnavailable, also when bodies are gone."""
        assert self._cache is not None
        assert self._hot is not None
        assert self._hints is not None
        chats = [chat.key for chat in self._chats[:MOST_CHATS]]
        if not chats or "message.new" not in self._settings.kinds:
            return []
        limit = max(LEAST_PER_CHAT, self._settings.page // len(chats))
        with self._cache.watched():
            pages = await self._hot.newest_of(chats, limit, utc_now() - self._settings.lookback)
        events = [
            as_message(event)
            for page in pages.values()
            for event in reversed(page.events)
            if not self._holds(as_message(event))
        ]
        events = [event for event in events if self._settings.wants(event)]
        if events:
            marks = await self._hints.seen(events)
            events = [event for event, seen in zip(events, marks, strict=True) if not seen]
        self._metrics.cache_hits.inc(len(events))
        return events

    async def _from_database(self) -> int:
        """Hands over what is unprocessed, and warms Redis with it. Returns how much that was."""
        assert self._state is not None
        await self._look_for_chats()
        before = utc_now() - (self._settings.grace if self._queue_delivers() else timedelta(0))
        since = utc_now() - self._settings.lookback
        found: list[Event] = []
        if "message.new" in self._settings.kinds:
            chats = self._chats if self._settings.chats else None
            after: int | None = None
            looked_at = 0
            # What waits for a retry is unprocessed too, and must not hide what comes after it.
            while len(found) < self._settings.page and looked_at <= self._settings.set_aside:
                page = await self._state.unprocessed(
                    self._settings.name, chats, since=since, after=after, limit=self._settings.page
                )
                looked_at += len(page.messages)
                for message in page.messages:
                    event = as_message(message.event)
                    if message.event.received_at > before or self._holds(event):
                        continue
                    if message.processing is not None and message.processing.error == BEGUN:
                        await self._alone(event)
                    else:
                        found.append(event)
                if page.next is None:
                    break
                after = page.next
            await self._warm([message.event for message in page.messages])
        found += await self._revisions(since, before)
        self._metrics.cache_misses.inc(len(found))
        self._submit(found, "database")
        return len(found)

    async def _revisions(self, since: Any, before: Any) -> list[Event]:
        """The edits and deletions that are wanted and not processed, as they came."""
        kinds = [kind for kind in self._settings.kinds if kind != "message.new"]
        if not kinds or self._database is None:
            return []
        rows = await self._database.fetch(
            _REVISIONS, since, before, kinds, self._ids(), self._settings.name, self._settings.set_aside
        )
        events = [event_of(row) for row in rows]
        wanted = [event for event in events if self._settings.wants(event) and not self._holds(event)]
        return wanted[: self._settings.page]

    async def _look_for_chats(self) -> None:
        """The chats there are, most lively first: `chats` of the settings may leave out whose they are."""
        if self._database is None:
            return
        now = time.monotonic()
        if self._chats_at is None or now - self._chats_at > CHATS_SECONDS:
            rows = await self._database.fetch(_CHATS, self._ids())
            known = [ChatRef(row["id"], row["account_scope"]) for row in rows]
            wanted = set(self._settings.chats)
            if wanted:
                known = [chat for chat in known if chat.key in wanted or chat.channel_id in wanted]
                known += [chat for chat in map(ChatRef.parse, wanted) if chat not in known]
            self._chats = known
            self._chats_at = now

    def _ids(self) -> Sequence[str] | None:
        return [chat.rpartition("/")[2] for chat in self._settings.chats] or None

    async def _warm(self, events: Sequence[Event]) -> None:
        if self._hot is None or self._cache is None or not events:
            return
        try:
            with self._cache.watched():
                await self._hot.warm(events)
        except SinkUnavailable as error:
            log.debug("consumer_warming_failed", cause=str(error))

    async def _alone(self, event: Event) -> None:
        """An event in whose handling a process died: with nothing beside it that it could take along."""
        await self._lanes.less_than(1)
        self._submit([event], "database")
        await self._lanes.less_than(1)

    def _submit(self, events: Sequence[Event], source: str) -> None:
        for event in events:
            if not self._holds(event):
                self._effects.submit(PolledDelivery(event, source, self._settings.queue, self._dead_letters))

    def _holds(self, event: Event) -> bool:
        """Whether the event is being handled, or about to be."""
        return any(
            item.event is not None and item.event.id == event.id and not item.stale
            for item in self._lanes.items(event.chat_key)
        )


def as_message(event: Event) -> Event:
    """The message that an edit shows, as if it had been first seen like that."""
    if event.kind == "message.new":
        return event
    identity = new_id(event.account_scope, event.channel_id, event.message_id)
    return msgspec.structs.replace(event, id=identity, kind="message.new")
