"""One live stream for all listeners of a process: fed by RabbitMQ, checked with the database, kept a while.

RabbitMQ brings events within milliseconds. The database is looked at beside it, every few seconds, or every
second while RabbitMQ is away: what it has and nobody saw is passed on then. Each event is encoded once.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, NoReturn, cast
from uuid import uuid4

import asyncpg
import structlog

from gateway.api.connections import Database
from gateway.api.stream_cursor import Progress, lane_of, microseconds, moment_of
from gateway.api.stream_frame import Follower, Frame, frame_of
from gateway.api.stream_live import LiveEvents
from gateway.database import read_events
from gateway.database.connection import CONNECTION_LOST
from gateway.errors import GatewayError
from gateway.event import Event, utc_now
from gateway.settings import Settings

log = structlog.get_logger()

TICK_SECONDS = 1.0
# What was received so long before the start is also passed on when it comes: it may be on its way.
BEFORE_START = timedelta(seconds=60)
# Rows are looked for so long before the newest one that is known to be stored.
OVERLAP = timedelta(seconds=10)
OVERLAP_ALONE = timedelta(seconds=60)  # while RabbitMQ is away
POLL_SECONDS = 1.0  # while RabbitMQ is away
CHECK_SECONDS = 5.0  # while it is not
CONFIRM_SECONDS = 0.5  # after its return, while the order of what comes is not certain
UNSETTLED = 2_000  # events that are named one by one meanwhile
PAGE = 2_000
KEPT_EVENTS = 5_000  # as long as the database has those before
KEPT_AT_MOST = 20_000
REMEMBERED = 50_000  # ids

_SINCE = """
SELECT event_id, received_at FROM telegram_gateway.event_log
WHERE received_at >= $1 ORDER BY received_at LIMIT $2
"""


class StreamHub:
    """Runs from the first listener on."""

    def __init__(self, settings: Settings, database: Database, stopping: asyncio.Event) -> None:
        self.id = uuid4().hex[:8]
        self.database_answers = False
        self._settings = settings
        self._database = database
        self._stopping = stopping
        self._followers: set[Follower] = set()
        self._frames: deque[Frame] = deque()
        self._kept: set[str] = set()
        self._holders = 0
        self.let_go = 0  # how many frames are not kept any more
        self.let_go_until = 0  # the moment of the newest of them
        self._number = 0
        self.start = microseconds(utc_now() - BEFORE_START)
        self.progress = Progress(self.start)
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._forgotten = self.start  # ids of events received up to then may be forgotten
        self._stored = self.start  # the newest event that the database is known to have
        self._lost_until = 0  # the newest event that was let go of before the database had it
        self._live = False
        # Since the broker's queue is there: lanes of which something came, and the first event of each, until
        # the database has it and so all before it. What was published before the queue was, is not in it.
        self._begun: set[str] = set()
        self._first: dict[str, str] = {}
        self._tried = asyncio.Event()
        self._look = asyncio.Event()
        self._looked = asyncio.Event()
        self._checks_begun = self._checks_done = 0

    @property
    def cursor(self) -> str:
        """Where the stream is now."""
        return self.progress.encode(self.id, self._number)

    def follow(self, follower: Follower) -> list[Frame]:
        """From now on `follower` is told; returns what is kept of before."""
        self._followers.add(follower)
        return list(self._frames)

    def leave(self, follower: Follower) -> None:
        """`follower` is told no more."""
        self._followers.discard(follower)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Inside, frames are let go only when there are very many."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1

    def keeps(self, hub: str, number: int) -> bool:
        """Whether every event behind the `number`th of a hub is here."""
        first = self._frames[0].number if self._frames else self._number + 1
        return hub == self.id and first - 1 <= number <= self._number

    def is_past(self, event: Event) -> bool:
        """Whether a stored event is neither kept here nor yet to come."""
        return microseconds(event.received_at) <= self.start or (
            event.id not in self._kept and self._was_taken(event)
        )

    def database_is_behind(self, since: int) -> bool:
        """Whether the database may lack events received after `since` that are not here any more."""
        return since < self._lost_until and self._stored < self._lost_until

    async def wait_checked(self) -> None:
        """Returns once the database has been looked at since now, or does not answer."""
        wanted = self._checks_begun + 1
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):
                while self._checks_done < wanted:
                    self._look.set()
                    self._looked.clear()
                    await self._looked.wait()

    async def wait_begun(self) -> None:
        """Returns once both sources have been asked for the first time, and answered or not."""
        await self._tried.wait()
        if not self._checks_done:
            await self.wait_checked()

    async def run(self) -> NoReturn:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            live = LiveEvents(self._settings, bound=self._bound, take=self._take_live, lost=self._lost)
            group.create_task(live.run(), name="live events")
            group.create_task(self._check_for_ever(), name="stored events")
            group.create_task(self._tick_for_ever(), name="heartbeats")
            await self._stopping.wait()
            for follower in self._followers:
                follower.stop()
        raise AssertionError("the others go on for ever")

    async def _tick_for_ever(self) -> NoReturn:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for follower in self._followers:
                follower.tick()

    # -- what comes

    def _take(self, event: Event) -> None:
        """Passes an event on unless it was before."""
        at = microseconds(event.received_at)
        if self._was_taken(event):
            if self._seen.get(event.id, at) != at:
                # Of two accounts, or of a gateway that went on from an older state: delivered there as well.
                self._seen[event.id] = at
                self.progress.add(event, in_order=lane_of(event) not in self._first)
            return
        self._remember(event.id, at)
        self._number += 1
        lane = lane_of(event)
        in_order = lane not in self._first
        self.progress.add(event, in_order=in_order)
        if self.progress.unsettled(lane) > UNSETTLED and not in_order:
            log.warning("stream_order_unknown", reason="the database has not confirmed it in time")
            self._confirm(lane)
        frame = frame_of(event, self._number, self.cursor, in_order=in_order)
        self._frames.append(frame)
        self._kept.add(event.id)
        self._let_go()
        encoded = frame.encoded
        for follower in self._followers:
            follower.put(frame, encoded)

    def _take_live(self, event: Event) -> None:
        lane = lane_of(event)
        if lane not in self._begun:
            self._begun.add(lane)
            if self._seen.get(event.id) != microseconds(event.received_at) or lane in self._first:
                self._first[lane] = event.id
                self._look.set()
        self._take(event)

    def _confirm(self, lane: str) -> None:
        """The database has the first event of a lane that came live, and we what it has."""
        del self._first[lane]
        self.progress.settle(lane)

    def _was_taken(self, event: Event) -> bool:
        return event.id in self._seen or (
            microseconds(event.received_at) <= self._forgotten and self.progress.covers(event)
        )

    def _remember(self, event_id: str, at: int) -> None:
        self._seen[event_id] = at
        if len(self._seen) > REMEMBERED:
            _, forgotten = self._seen.popitem(last=False)
            self._forgotten = max(self._forgotten, forgotten)

    def _let_go(self) -> None:
        while len(self._frames) > KEPT_EVENTS:
            at = microseconds(self._frames[0].event.received_at)
            if len(self._frames) <= KEPT_AT_MOST and (at > self._stored or self._holders):
                return
            if at > self._stored:
                self._lost_until = max(self._lost_until, at)
            self._kept.discard(self._frames.popleft().event.id)
            self.let_go += 1
            self.let_go_until = max(self.let_go_until, at)

    async def _bound(self) -> None:
        """The broker's queue is there. What came before it is stored already, or soon will be."""
        self._begun.clear()
        await self.wait_checked()
        self._live = True
        self._tried.set()

    def _lost(self) -> None:
        self._live = False
        self._tried.set()
        self._look.set()

    # -- the database

    async def _check_for_ever(self) -> NoReturn:
        while True:
            self._look.clear()
            self._checks_begun = begun = self._checks_begun + 1
            try:
                await self._check()
            except (asyncpg.PostgresError, *CONNECTION_LOST, GatewayError) as error:
                if self.database_answers:
                    log.warning("stream_without_database", reason=str(error) or type(error).__name__)
                self.database_answers = False
            else:
                self.database_answers = True
            self._checks_done = begun
            self._looked.set()
            try:
                async with asyncio.timeout(self._pause):
                    await self._look.wait()
            except TimeoutError:
                continue

    @property
    def _pause(self) -> float:
        if self._first and self.database_answers:
            return CONFIRM_SECONDS
        return CHECK_SECONDS if self._live else POLL_SECONDS

    async def _check(self) -> None:
        """Passes on what is stored and was not seen."""
        since = moment_of(self._stored) - (OVERLAP if self._live else OVERLAP_ALONE)
        while True:
            rows = await self._database.fetch(_SINCE, since, PAGE)
            unseen = {
                row["event_id"]: row["received_at"]
                for row in rows
                if self._seen.get(row["event_id"]) != (at := microseconds(row["received_at"]))
                and at > self.start
            }
            if unseen:
                await self._fetch(unseen, unseen.values())
            stored = {row["event_id"] for row in rows}
            for lane in [lane for lane, first in self._first.items() if first in stored]:
                self._confirm(lane)
            if rows:
                self._stored = max(self._stored, microseconds(rows[-1]["received_at"]))
            if len(rows) < PAGE:
                return
            newest = rows[-1]["received_at"]
            since = newest if newest > since else newest + timedelta(microseconds=1)

    async def _fetch(self, wanted: Collection[str], moments: Iterable[datetime]) -> None:
        moments = list(moments)
        until = max(moments) + timedelta(microseconds=1)
        async for event in read_events(cast("Any", self._database), min(moments), until):
            if event.id in wanted:
                self._take(event)
