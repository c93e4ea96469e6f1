"""Fetches what the ledger misses, through the same journal as everything else, while live messages go on.

One page at a time: by id where a hole is small (or the account is a bot), by history where it is a range.
Each page is committed together with the part of the gap that it closes, so a crash repeats at most a page.
Gaps of the running business come before history that was asked for; the newest come first.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any, cast

import structlog
from telethon import errors
from telethon.tl import functions, types

from gateway import metrics
from gateway.event import ChatType, Event, utc_now
from gateway.journal import Batch, Gap, Journal, LedgerChanges, Settled
from gateway.journal.ledger import ACCOUNT_IDS, NO_ACCESS
from gateway.telegram.chat_history import PAGE
from gateway.telegram.chats import channel_of, is_channel, marked
from gateway.telegram.client import GatewayClient
from gateway.telegram.history_pages import HistoryPages
from gateway.telegram.reasons import UndecodableAnswer, reason

log = structlog.get_logger()

BY_ID_LIMIT = 200  # ids in a hole that are asked for by id; longer ones by history
FIRST_PAUSE_SECONDS = 2.0  # before a chat that failed is asked again; doubles up to the longest
LONGEST_PAUSE_SECONDS = 300.0
SLICE = 20  # messages converted before live ones get their turn
PART = 25  # events of history committed together: live ones wait behind that many at a time
# At most every so often, 2 300 events a second: Telegram gives less, and live ones find two cores not taken.
PART_SECONDS = 0.011
LATE_SECONDS = 0.1  # of being late are made up for

# The chat cannot be read now: for good if Telegram says that the account is not in it any more.
_UNREADABLE = (
    errors.ChannelPrivateError,
    errors.ChannelInvalidError,
    errors.ChatForbiddenError,
    errors.ChatAdminRequiredError,
    errors.UserBannedInChannelError,
    errors.PeerIdInvalidError,
)


class Backfill:
    """Works on one connection's account. `room` returns when the sinks have caught up enough for more."""

    def __init__(self, client: GatewayClient, journal: Journal, room: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._journal = journal
        self._room = room
        self._pages = HistoryPages(client)
        self._due = 0.0  # when the next part of a history may be committed
        self._not_before: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._switches = 0  # the version of what is off as gaps were last looked at
        self._narrowed: dict[int, int] = {}  # page sizes where an answer could not be decoded

    async def run(self) -> None:
        """Fetches until cancelled. Raises OSError when the line is lost, JournalError when the disk fails."""
        while True:
            version = self._journal.gaps_version
            now = time.monotonic()
            self._not_before = {chat: until for chat, until in self._not_before.items() if until > now}
            self._switches = self._client.wanted.switches.version
            left_out = [*self._not_before, *self._client.wanted.chats_off()]
            gaps = await self._journal.next_gaps(self._client.account, left_out, PAGE)
            if not gaps:
                await self._wait(version)
                continue
            await self._room()
            gap = gaps[0]
            try:
                try:
                    await self._fetch(gap, gaps)
                except _UNREADABLE as error:
                    await self._give_up_or_wait(gap, error)
                except UndecodableAnswer:
                    await self._narrow(gap)
            except errors.FloodWaitError as error:
                # The client answers itself until then, so a gap that needs another method has its turn.
                self._not_before[gap.chat] = time.monotonic() + error.seconds + random.uniform(0.1, 1.0)
            except (errors.UnauthorizedError, errors.AuthKeyError):
                raise
            except errors.RPCError as error:
                self._pause(gap.chat, reason(error))
            else:
                self._failures.pop(gap.chat, None)

    async def _wait(self, version: int) -> None:
        """Returns when there are other gaps, or a chat that was left out may be tried again."""
        until = min(self._not_before.values(), default=None)
        try:
            async with asyncio.timeout(None if until is None else until - time.monotonic()):
                await self._journal.wait_gaps_moved(version)
        except TimeoutError:
            return

    async def _fetch(self, gap: Gap, gaps: list[Gap]) -> None:
        if gap.chat == ACCOUNT_IDS:
            await self._fetch_by_id(gaps, None)
        elif self._client.wanted.undecided(gap.chat):
            await self._look_up(gap)
        elif not self._client.wanted.wants(str(gap.chat)):
            await self._commit([gap], [], "not_captured")
        elif (peer := self._client.input_peer(gap.chat)) is None:
            await self._without_access_hash(gap)
        elif gap.chat in self._narrowed:
            await self._fetch_by_id(gaps, peer if is_channel(gap.chat) else None)
        elif is_channel(gap.chat) and (gap.reread or self._client.is_bot or _size(gap) <= BY_ID_LIMIT):
            await self._fetch_by_id(gaps, peer)
        else:
            await self._fetch_history(gap, peer)

    async def _fetch_by_id(self, gaps: list[Gap], channel: Any) -> None:
        gap = gaps[0]
        parts = _page_of(gaps, self._narrowed.get(gap.chat, PAGE))
        ids = [types.InputMessageID(n) for part in parts for n in range(part.first, part.last + 1)]
        if channel is None:
            answer = await self._client(functions.messages.GetMessagesRequest(ids))
        else:
            answer = await self._client(functions.channels.GetMessagesRequest(channel, ids))
        self._client.learn(answer.users, answer.chats)
        if gap.reread:
            events = await self._changes(answer.messages, gap.chat)
        else:
            events = await self._convert(answer.messages)
        if gap.chat != ACCOUNT_IDS and channel is None:
            # By id, Telegram answers with other chats' messages too.
            events = [event for event in events if event.channel_id == str(gap.chat)]
        await self._commit(parts, events, "looked_at" if gap.reread else "empty")
        self._widen(gap.chat)

    async def _fetch_history(self, gap: Gap, peer: Any) -> None:
        """The oldest page of the gap: consumers get a chat's history in its order."""
        answer, found = await self._pages.take(gap.chat, peer, gap.first)
        self._client.learn(answer.users, answer.chats)
        within = [message for message in found if message.id <= gap.last]
        # Telegram may give fewer than asked for: only a message behind the gap, or none, shows its end.
        last = within[-1].id if within and len(within) == len(found) else gap.last
        page, events = replace(gap, last=last), await self._convert(within)
        if last == gap.last:
            await self._commit_history(page, events)
        else:
            async with self._pages.ahead(gap.chat, peer, last + 1):
                await self._commit_history(page, events)

    async def _commit_history(self, page: Gap, events: list[Event]) -> None:
        """Commits a page, the oldest first, in parts between which live messages have their turn."""
        while len(events) > PART + 1:
            # A message and its last edit stay together: the writer drops both where it knows the message.
            size = PART + (events[PART].message_id == events[PART - 1].message_id)
            part, events = events[:size], events[size:]
            await self._commit([replace(page, last=part[-1].message_id)], part, "not_in_history")
            page = replace(page, first=part[-1].message_id + 1)
            await self._room()
            await self._pace()
        await self._commit([page], events, "not_in_history")
        await self._pace()

    async def _pace(self) -> None:
        now = time.monotonic()
        self._due = max(self._due, now - LATE_SECONDS) + PART_SECONDS
        if self._due > now:
            await asyncio.sleep(self._due - now)

    async def _convert(self, messages: list[Any]) -> list[Event]:
        received_at = utc_now()
        events: list[Event] = []
        for number, message in enumerate(messages):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            events += self._client.converter.from_history(message, received_at)
        return [event for event in events if self._client.wanted(event)]

    async def _changes(self, messages: list[Any], chat: int) -> list[Event]:
        """Edits and deletions of known messages, as far as the journal can tell whether they are new.

        It drops an edit that it has already. One that is younger than its oldest event it has, or it never
        came; any other change of a message that it does not hold any more may have been delivered long ago.
        """
        client, received_at = self._client, utc_now()
        gone = [message.id for message in messages if isinstance(message, types.MessageEmpty)]
        there = [message for message in messages if not isinstance(message, types.MessageEmpty)]
        scope = client.user_id if chat == ACCOUNT_IDS else 0
        places = await self._places(chat, gone)
        known = [(place, message_id) for message_id, (place, _) in places.items()]
        known += [(marked(message.peer_id), message.id) for message in there]
        held = await self._journal.held(scope, known)
        oldest = (await self._journal.stats()).oldest_received
        events: list[Event] = []
        for message in there:
            edited = getattr(message, "edit_date", None)
            lately = edited is not None and oldest is not None and edited >= oldest
            if lately or (marked(message.peer_id), message.id) in held:
                events += client.converter.reread(message, received_at)
        for message_id, (place, kind) in places.items():
            if (place, message_id) in held:
                events.append(client.converter.deleted(place, kind, message_id, received_at, "backfill"))
        return [event for event in events if client.wanted(event)]

    async def _places(self, chat: int, message_ids: list[int]) -> dict[int, tuple[int, ChatType]]:
        """The chat and its type for each message id that is known."""
        if chat != ACCOUNT_IDS:
            return dict.fromkeys(message_ids, (chat, self._client.converter.chat_type(chat)))
        places = await self._journal.chat_of(self._client.user_id, message_ids)
        return {
            message_id: (int(place), cast("ChatType", kind)) for message_id, (place, kind) in places.items()
        }

    async def _commit(self, parts: list[Gap], events: list[Event], why: str) -> None:
        """Commits what was found in parts of one chat's gaps; what was not is absent."""
        if self._client.wanted.switches.version != self._switches:
            return  # what was left out of this page may not be what is off now: it is fetched again
        settled = [Settled(p.chat, p.first, p.last, why, p.id if p.reread else None) for p in parts]
        ledger = LedgerChanges(settled=settled, fetched=parts[0].chat)
        for event in events:
            metrics.EVENTS_RECEIVED.labels(event.account, event.kind, event.source).inc()
        await self._journal.append(Batch(self._client.account, events, ledger=ledger))

    async def _narrow(self, gap: Gap) -> None:
        """Closes in on a message that cannot be decoded: by id, half as many at a time, down to the one."""
        size = self._narrowed.get(gap.chat, 2 * PAGE) // 2
        if size:
            self._narrowed[gap.chat] = size
            return
        log.error("message_undecodable", account=self._client.account, chat=gap.chat, message_id=gap.first)
        await self._commit([replace(gap, last=gap.first)], [], "undecodable")
        self._widen(gap.chat)

    def _widen(self, chat: int) -> None:
        size = self._narrowed.pop(chat, PAGE) * 2
        if size < PAGE:
            self._narrowed[chat] = size

    async def _look_up(self, gap: Gap) -> None:
        """Learns what a channel is called that the dialogs have not shown, to tell whether it is wanted."""
        if not is_channel(gap.chat) or self._client.input_peer(gap.chat) is None:
            await self._without_access_hash(gap)
        elif (channel := await self._channel(gap.chat)) is None:
            await self._give_up(gap)
        else:
            self._client.learn((), (channel,))

    async def _channel(self, chat: int) -> Any:
        """The channel as Telegram describes it now, or None if it does not to this account."""
        request = functions.channels.GetChannelsRequest([self._client.input_peer(chat)])
        try:
            found = (await self._client(request)).chats
        except _UNREADABLE:
            return None
        return next((channel for channel in found if isinstance(channel, types.Channel)), None)

    async def _without_access_hash(self, gap: Gap) -> None:
        if is_channel(gap.chat):
            if channel_of(gap.chat) in self._client.unreadable or self._client.is_bot:
                await self._give_up(gap)
                return
            self._client.message_box.ask_dialogs(channel_of(gap.chat))
        self._pause(gap.chat, "the access hash is not known yet")

    async def _give_up_or_wait(self, gap: Gap, error: errors.RPCError) -> None:
        """Telegram refuses a chat now and then that the account is in: only its own word is final."""
        if is_channel(gap.chat):
            channel = await self._channel(gap.chat)
            if channel is None or channel.left:
                await self._give_up(gap)
                return
        self._pause(gap.chat, reason(error))

    async def _give_up(self, gap: Gap) -> None:
        log.warning("gap_not_accessible", account=self._client.account, chat=gap.chat, ids=_size(gap))
        await self._commit([gap], [], NO_ACCESS)

    def _pause(self, chat: int, why: str) -> None:
        failures = self._failures[chat] = self._failures.get(chat, 0) + 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1)
        self._not_before[chat] = time.monotonic() + pause
        seconds = round(pause, 1)
        log.info("backfill_paused", account=self._client.account, chat=chat, reason=why, seconds=seconds)


def _size(gap: Gap) -> int:
    return gap.last - gap.first + 1


def _page_of(gaps: list[Gap], size: int) -> list[Gap]:
    """The first of `gaps` up to `size` ids, and those beside it that fit, in the order of their ids."""
    first = gaps[0]
    parts = [replace(first, last=min(first.last, first.first + size - 1))]
    left = size - _size(parts[0])
    for gap in gaps[1:]:
        if (gap.chat, gap.reread) == (first.chat, first.reread) and _size(gap) <= left:
            parts.append(gap)
            left -= _size(gap)
    return sorted(parts, key=attrgetter("first"))
