"""Between Telethon's update sequencer and the journal: gathers updates, converts and commits them together.

Whatever the sequencer has passed on lies in the buffer from that very instant, and a batch is taken together
with the sequencer's state, without a pause in between. So the state in a batch is never ahead of the events
in it, and after a crash Telegram hands out again exactly what was not committed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from prometheus_client import Counter
from telethon.tl import types

from gateway import metrics
from gateway.event import ChatType, Event, utc_now
from gateway.journal import AccountState, Batch, LedgerChanges, Settled
from gateway.journal.ledger import ACCOUNT_IDS
from gateway.telegram.convert import CAPTURED, Converter

Commit = Callable[[Batch], Awaitable[None]]
ChatOf = Callable[[int, Sequence[int]], Awaitable[dict[int, tuple[str, str]]]]
Wanted = Callable[[Event], bool]
Snapshot = Callable[[], tuple[AccountState | None, dict[int, int], LedgerChanges]]

MAX_GATHERED = 500  # updates; the sequencer waits beyond that, and the socket's queue behind it is bounded
SPACING_SECONDS = 0.004  # between the starts of two batches: a lone update goes at once, a stream gathers
STATE_SECONDS = 5.0  # update state that moved without a message (reads, typing) is committed this often


class Intake:
    """One connection's buffer and the task that empties it.

    `snapshot` gives the update state, access hashes and ledger entries since it was last called; `commit`
    returns once a batch is durable.
    """

    def __init__(
        self, account: str, *, commit: Commit, chat_of: ChatOf, wanted: Wanted, snapshot: Snapshot
    ) -> None:
        self._account = account
        self._commit = commit
        self._chat_of = chat_of
        self._wanted = wanted
        self._snapshot = snapshot
        self._gathered: list[tuple[Any, datetime]] = []
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._checkpoints: list[asyncio.Future[None]] = []
        self._state_due: asyncio.TimerHandle | None = None
        self._last_batch_at = 0.0
        self._abandoned = False
        # Looking a labelled counter up costs more than counting.
        self._counters: dict[str, Counter] = {}

    def add(self, updates: Sequence[Any]) -> None:
        """Takes updates in. Must be called in the same instant in which the sequencer's state moved."""
        received_at = utc_now()
        for update in updates:
            self._count_update(type(update).__name__)
            if isinstance(update, CAPTURED):
                self._gathered.append((update, received_at))
        if self._gathered:
            self._work.set()
        elif self._state_due is None:
            self._state_due = asyncio.get_running_loop().call_later(STATE_SECONDS, self._work.set)
        if len(self._gathered) >= MAX_GATHERED:
            self._room.clear()

    def abandon(self) -> None:
        """Commits nothing more: something is lost from the buffer that the state already covers."""
        self._abandoned = True

    async def wait_room(self) -> None:
        """Returns once there is room for more updates."""
        await self._room.wait()

    async def checkpoint(self) -> None:
        """Returns once the present state is committed, with or without events."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._checkpoints.append(done)
        self._work.set()
        await done

    async def run(self, converter: Converter, scope: int) -> None:
        """Commits what gathers, until cancelled. Raises what `commit` raises."""
        while True:
            await self._work.wait()
            pause = self._last_batch_at + SPACING_SECONDS - time.monotonic()
            if pause > 0 and len(self._gathered) < MAX_GATHERED:
                await asyncio.sleep(pause)
            await self.flush(converter, scope)

    async def flush(self, converter: Converter, scope: int) -> None:
        """Commits what has gathered so far; nothing after `abandon`."""
        if self._abandoned:
            return
        self._work.clear()
        self._last_batch_at = time.monotonic()
        gathered, self._gathered = self._gathered, []
        checkpoints, self._checkpoints = self._checkpoints, []
        state, access_hashes, ledger = self._snapshot()
        if self._state_due is not None:
            self._state_due.cancel()
            self._state_due = None
        self._room.set()
        try:
            events, gone = await self._convert(gathered, converter, scope)
        except BaseException:
            self.abandon()
            raise
        if gone:
            ledger = replace(ledger, settled=[Settled(ACCOUNT_IDS, id_, id_, "deleted") for id_ in gone])
        await self._commit(Batch(self._account, events, state, access_hashes, ledger))
        for done in checkpoints:
            if not done.done():
                done.set_result(None)

    async def _convert(
        self, gathered: Sequence[tuple[Any, datetime]], converter: Converter, scope: int
    ) -> tuple[list[Event], list[int]]:
        """The events, and the ids of deleted messages that nothing is known of."""
        events: list[Event] = []
        gone: list[int] = []
        for update, received_at in gathered:
            if isinstance(update, types.UpdateDeleteMessages):
                events += await self._unplaced_deletions(update, events, gone, received_at, converter, scope)
            else:
                events += converter.from_update(update, received_at)
        events = [event for event in events if self._wanted(event)]
        for event in events:
            self._count_event(event.kind, event.source)
        return events, gone

    def _count_update(self, name: str) -> None:
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters[name] = metrics.UPDATES_RECEIVED.labels(self._account, name)
        counter.inc()

    def _count_event(self, kind: str, source: str) -> None:
        counter = self._counters.get(kind + source)
        if counter is None:
            counter = metrics.EVENTS_RECEIVED.labels(self._account, kind, source)
            self._counters[kind + source] = counter
        counter.inc()

    async def _unplaced_deletions(
        self,
        update: Any,
        before: Sequence[Event],
        gone: list[int],
        received_at: datetime,
        converter: Converter,
        scope: int,
    ) -> list[Event]:
        """Deletions in private chats and basic groups, which Telegram sends without the chat."""
        chats = await self._chat_of(scope, update.messages)
        for event in before:
            if event.account_scope:
                chats[event.message_id] = (event.channel_id, event.chat_type)
        deletions = []
        for message_id in update.messages:
            if message_id in chats:
                chat, chat_type = chats[message_id]
                deletions.append(
                    converter.deleted(int(chat), cast("ChatType", chat_type), message_id, received_at)
                )
            else:
                # Never captured, so there is nothing in any sink that it could take away. One that is on
                # its way from a gap must not arrive any more.
                gone.append(message_id)
                metrics.UPDATES_IGNORED.labels(self._account, "deletion_of_unknown").inc()
        return deletions
