"""One client of the live stream: what it asked for and may see, what waits for it, and how it is sent.

Plain ASGI: a client costs one task, one wake-up and one write for all that came since the last.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.auth import Caller
from gateway.api.stream_cursor import Cursor, Progress
from gateway.api.stream_frame import Frame, frame_of
from gateway.event import Event

HEARTBEAT_SECONDS = 15.0
WAITING_BYTES = 4 << 20  # for one listener, beyond which it is cut off
SEND_SECONDS = 30.0  # for a piece to leave; a listener that takes longer is gone
JOIN_SECONDS = 120.0  # after coming back, during which the hub may bring what was delivered elsewhere
REMEMBERED = 20_000  # ids that a listener got meanwhile and may meet again
_HEARTBEAT = b": keep-alive\n\n"


class Listener:
    """One client's filter and what waits to be sent to it.

    Until the hub has passed on all that it `goes_on` from, the ids it gets are its own: with the hub's it
    would get again what it had.
    """

    def __init__(
        self,
        caller: Caller,
        channels: frozenset[str],
        kinds: frozenset[str],
    ) -> None:
        self._caller = caller
        self._channels = channels
        self._kinds = kinds
        self._had: Progress | None = None
        self._sent: OrderedDict[str, None] = OrderedDict()
        self._joined_by = time.monotonic() + JOIN_SECONDS
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._heard_at = self.checked_at = time.monotonic()
        self.sending_since: float | None = None
        self.stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.too_slow = False

    def wants(self, frame: Frame) -> bool:
        """Whether it asked for the event and may see it."""
        return (
            (not self._channels or frame.event.channel_id in self._channels)
            and (not self._kinds or frame.kind in self._kinds)
            and self._caller.may_see(frame.chat_key)
        )

    def goes_on(self, had: Progress) -> None:
        """It comes back, and had this."""
        self._had = had.copy()

    def stored(self, event: Event) -> bytes | None:
        """What to send of an event of the database, the next one in its order; None for nothing."""
        assert self._had is not None
        if self._had.covers(event):
            return None
        self._had.add(event)
        self._remember(event.id)
        frame = frame_of(event, 0, self._had.encode("", 0))
        return frame.encoded if self.wants(frame) else None

    def passed_on(self, frame: Frame, encoded: bytes) -> bytes | None:
        """What to send of the hub's next frame; None for nothing."""
        if self._had is not None:
            known = frame.event.id in self._sent or self._had.covers(frame.event)
            if not known:
                self._had.add(frame.event, in_order=frame.in_order)
                self._remember(frame.event.id)
                encoded = replace(frame, cursor=self._had.encode("", 0)).encoded
            self._join(frame)
            if known:
                return None
        return encoded if self.wants(frame) else None

    def put(self, frame: Frame, encoded: bytes) -> None:
        """Keeps what the hub brings, until that is too much."""
        sent = None if self.too_slow else self.passed_on(frame, encoded)
        if sent is None:
            return
        self._waiting.append(sent)
        self._waiting_bytes += len(sent)
        if self._waiting_bytes > WAITING_BYTES:
            self.too_slow = True
            self._waiting.clear()
        self._wake.set()

    def _remember(self, event_id: str) -> None:
        self._sent[event_id] = None
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def _join(self, frame: Frame) -> None:
        assert self._had is not None
        if Cursor.decode(frame.cursor).progress.includes(self._had) or time.monotonic() > self._joined_by:
            self._had = None
            self._sent.clear()

    def stop(self) -> None:
        """Ends the waiting: the server stops."""
        self._wake.set()

    def tick(self) -> None:
        """Called now and then: a timer for each wait and each piece would cost a fifth of all."""
        now = time.monotonic()
        if now - self._heard_at >= HEARTBEAT_SECONDS:
            self._wake.set()
        if (
            self.sending_since is not None
            and now - self.sending_since > SEND_SECONDS
            and not self.stuck.done()
        ):
            self.stuck.set_result(None)

    async def take(self) -> bytes:
        """What waits; a heartbeat when nothing came for long."""
        await self._wake.wait()
        self._wake.clear()
        self._heard_at = time.monotonic()
        if not self._waiting:
            return _HEARTBEAT
        waiting = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return waiting


class EventStream(Response):
    """Sends what `parts` yields until it ends, the client goes, or takes nothing for too long."""

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncIterator[bytes], listener: Listener) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._parts = parts
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As every ASGI response."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(send))
            gone = group.create_task(_gone(receive))
            await asyncio.wait((sending, gone, self._listener.stuck), return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            gone.cancel()

    async def _send(self, send: Send) -> None:
        listener = self._listener
        try:
            async for part in self._parts:
                listener.sending_since = time.monotonic()
                await send({"type": "http.response.body", "body": part, "more_body": True})
                listener.sending_since = None
            await send({"type": "http.response.body", "body": b""})
        finally:
            await cast("Any", self._parts).aclose()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
