"""What the endpoints about messages share: the readers, and which messages are hidden.

Redis knows nothing of hidden messages, so their names are kept here, as the database had them a moment ago.
"""

import asyncio
from contextlib import suppress
from datetime import datetime

import structlog
from fastapi import Request

from gateway.api.hot_reads import HotReads
from gateway.api.resources import Resources
from gateway.errors import SinkUnavailable
from gateway.event import Event
from gateway.generations import generation_key
from gateway.read import ChatRef, HotMessages, HotPage, MessageReader, MessageRef

log = structlog.get_logger()

REMEMBERED = 4096  # messages of Redis; a few KB each
UNASKED_SECONDS = 0.1  # how old a page of Redis may be: under load many ask about one chat
HIDDEN_SECONDS = 3.0  # how long another process of the API may still give a message that was hidden
FIRST_LOOK_SECONDS = 1.0
HIDDEN_MARK = generation_key(":hidden")  # no consumer's name holds a colon


class MessageDesk:
    """At `request.app.state.messages`, made for the first request."""

    def __init__(self, resources: Resources) -> None:
        self.reader = MessageReader(resources.database)
        self.hot = HotMessages(resources.redis, remembered=REMEMBERED, unasked=UNASKED_SECONDS)
        self._reads = HotReads(self.hot, resources.start)
        self._hidden: frozenset[MessageRef] = frozenset()
        self._looked = asyncio.Event()
        resources.start(self._watch_hidden(), "hidden messages")

    async def newest(self, chat: ChatRef, limit: int, since: datetime | None) -> HotPage | None:
        """The newest messages of a chat, from Redis; None when the database must be asked."""
        if not await self._knows_hidden():
            return None
        try:
            page = await self._reads.newest(chat.key, limit, since)
        except SinkUnavailable:
            return None
        if not page.complete:
            return None
        if self._hidden and any(MessageRef.of(event) in self._hidden for event in page.events):
            return None
        return page

    async def message(self, message: MessageRef) -> Event | None:
        """A message from Redis; None when the database must be asked."""
        if not await self._knows_hidden() or message in self._hidden:
            return None
        try:
            return await self.hot.message(message)
        except SinkUnavailable:
            return None

    async def hide(self, message: MessageRef, by: str) -> bool:
        """Takes a message out of sight, here at once; False when there is none in sight."""
        hidden = await self.reader.hide(message, by)
        if hidden:
            self._hidden |= {message}
            with suppress(SinkUnavailable):
                await self.hot.forget(message)
        return hidden

    async def restore(self, message: MessageRef) -> bool:
        """Brings it back; False when it was not hidden."""
        restored = await self.reader.restore(message)
        self._hidden -= {message}
        return restored

    async def _knows_hidden(self) -> bool:
        if not self._looked.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOOK_SECONDS):
                    await self._looked.wait()
        return self._looked.is_set()

    async def _watch_hidden(self) -> None:
        while True:
            try:
                self._hidden = await self.reader.hidden()
                self._looked.set()
            except SinkUnavailable as error:
                log.debug("hidden_messages_unknown", reason=str(error))
            await asyncio.sleep(HIDDEN_SECONDS)


def desk_of(request: Request) -> MessageDesk:
    """The desk of this application."""
    state = request.app.state
    if not hasattr(state, "messages"):
        state.messages = MessageDesk(state.resources)
    desk: MessageDesk = state.messages
    return desk
