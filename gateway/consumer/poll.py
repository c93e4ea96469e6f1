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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog

from gateway.consumer.backoff import JITTER, Backoff
from gateway.consumer.broker import DeadLetters
from gateway.consumer.database import Database
from gateway.consumer.effects import Effects
from gateway.consumer.hints import Cache
from gateway.consumer.metrics import ConsumerMetrics
from gateway.consumer.polled import PolledDelivery, as_message
from gateway.consumer.recent import Recent
from gateway.consumer.settings import ConsumerSettings
from gateway.consumer.state import BEGUN
from gateway.errors import SinkUnavailable
from gateway.event import Event, utc_now
from gateway.read.processing import ProcessingState
from gateway.read.records import ChatRef, HotPage, event_of

log = structlog.get_logger()

QUIET_LIMIT = 10.0  # seconds
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
        self._recent = Recent(cache, settings) if cache is not None else None
        self._dead_letters = dead_letters
        self._ready = ready
        self._queue_delivers = queue_delivers
        self.wake = asyncio.Event()
        self._chats: list[ChatRef] = [ChatRef.parse(chat) for chat in settings.chats]
        self._chats_at: float | None = None
        self._polls = 0
        self._caught_up = database is None  # whether the database had nothing more when it was asked last

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
        every = self._settings.database_polls
        count = 0
        lacking: Mapping[str, HotPage] = {}
        try:
            ask_database = not self._caught_up or self._polls % every == 0 or self._recent is None
            # Redis has the newest messages: older ones that are not handed over yet come first.
            if self._recent is not None and self._caught_up and not self._queue_delivers():
                try:
                    count, lacking = await self._from_cache(self._recent)
                    fallback = bool(lacking)
                except SinkUnavailable:
                    fallback = True
                if fallback:
                    self._metrics.fallbacks.inc()
                    ask_database = True
            if self._state is not None and (ask_database or self._queue_delivers()):
                self._caught_up = False
                found, more = await self._from_database(self._state)
                # With a queue that delivers, the newest events are left to it.
                self._caught_up = not more and not self._queue_delivers()
                count += found
                if self._recent is not None and self._caught_up:
                    self._recent.made_up_for(lacking)
        except SinkUnavailable as error:
            log.debug("consumer_poll_failed", consumer=self._settings.name, cause=str(error))
        else:
            self._ready.set()
        self._metrics.poll_seconds.observe(time.perf_counter() - begun)
        return count

    async def _from_cache(self, recent: Recent) -> tuple[int, Mapping[str, HotPage]]:
        if "message.new" not in self._settings.kinds:
            return 0, {}
        events, lacking = await recent.new(self._chats, self._holds)
        self._metrics.cache_hits.inc(len(events))
        self._submit(events, "cache")
        return len(events), lacking

    async def _from_database(self, state: ProcessingState) -> tuple[int, bool]:
        """Hands over what is unprocessed, and warms Redis with it: how much that was, and whether more is."""
        await self._look_for_chats()
        before = utc_now() - (self._settings.grace if self._queue_delivers() else timedelta(0))
        since = utc_now() - self._settings.lookback
        found: list[Event] = []
        more = False
        if "message.new" in self._settings.kinds:
            chats = self._chats if self._settings.chats else None
            after: int | None = None
            looked_at = 0
            # What waits for a retry is unprocessed too, and must not hide what comes after it.
            while len(found) < self._settings.page and looked_at <= self._settings.set_aside:
                page = await state.unprocessed(
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
            more = page.next is not None
            await self._warm([message.event for message in page.messages if message.deleted_at is None])
        found += await self._revisions(since, before)
        self._metrics.cache_misses.inc(len(found))
        self._submit(found, "database")
        return len(found), more or len(found) >= self._settings.page

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
        if self._recent is None or not events:
            return
        try:
            await self._recent.warm(events)
        except SinkUnavailable as error:
            log.debug("consumer_warming_failed", cause=str(error))

    async def _alone(self, event: Event) -> None:
        """An event in whose handling a process died: with nothing beside it that it could take along.

        As far as that can be had: a queue may keep the lanes busy.
        """
        await self._quiet()
        self._submit([event], "database")
        await self._quiet()

    async def _quiet(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_LIMIT):
                await self._lanes.less_than(1)

    def _submit(self, events: Sequence[Event], source: str) -> None:
        for event in events:
            if not self._holds(event):
                self._effects.submit(PolledDelivery(event, source, self._settings.queue, self._dead_letters))
            if self._recent is not None:
                self._recent.handed_over(event)

    def _holds(self, event: Event) -> bool:
        """Whether the event is being handled, or about to be."""
        return any(
            item.event is not None and item.event.id == event.id and not item.stale
            for item in self._lanes.items(event.chat_key)
        )
