"""The live stream as server-sent events: what comes, to each listener what it asked for and may see.

A listener that comes back with the id of its last event gets everything since, once: from the hub's memory if
that reaches back so far, else from the database, up to where the hub's memory begins.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

import structlog
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.api import metrics
from gateway.api.auth import Caller, Reader, presented
from gateway.api.channels import ChannelId
from gateway.api.problems import Problem, unavailable
from gateway.api.resources import Resources
from gateway.api.stream_cursor import LONGEST_CURSOR, BadCursor, Cursor, Progress, microseconds, moment_of
from gateway.api.stream_hub import Frame, StreamHub, frame_of
from gateway.database import read_events
from gateway.errors import GatewayError
from gateway.event import Event

log = structlog.get_logger()
router = APIRouter(tags=["stream"])

Kind = Literal["new", "edited", "deleted"]
HEARTBEAT_SECONDS = 15.0
WAITING_BYTES = 4 << 20  # for one listener, beyond which it is cut off
SEND_SECONDS = 30.0  # for a piece to leave; a listener that takes longer is gone
RETRY_MILLISECONDS = 2000
PART_EVENTS = 100  # of history sent together
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

    async def take(self) -> bytes:
        """What waits; a heartbeat when nothing came for long."""
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return _HEARTBEAT
        self._wake.clear()
        waiting = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return waiting


class EventStream(Response):
    """Sends what `parts` yields until it ends, the client goes, or takes nothing for too long."""

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As every ASGI response."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(send))
            gone = group.create_task(_gone(receive))
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            gone.cancel()

    async def _send(self, send: Send) -> None:
        try:
            async for part in self._parts:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.info("stream_client_stuck")
        finally:
            await cast("Any", self._parts).aclose()


@router.get(
    "/api/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "An endless stream of events: `new`, `edited`, `deleted`, each with the event as "
            "its data and an opaque id to come back with; and `cut`, the last before the server hangs up.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        410: {"description": "The last id is older than what the database keeps."},
    },
)
async def stream(
    request: Request,
    caller: Reader,
    channel_id: Annotated[
        list[ChannelId] | None, Query(alias="channelId", max_length=1000, description="Only these chats.")
    ] = None,
    kind: Annotated[list[Kind] | None, Query(max_length=3, description="Only these kinds.")] = None,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=LONGEST_CURSOR, description="Go on behind it.")
    ] = None,
    last_event_id_query: Annotated[
        str | None, Query(alias="lastEventId", max_length=LONGEST_CURSOR, description="The same.")
    ] = None,
) -> Response:
    """Events as they come, and with a last id everything since then first: nothing missing, nothing twice."""
    resources: Resources = request.app.state.resources
    channels = frozenset(channel_id or ())
    if caller.chats is not None:
        visible = {key.rpartition("/")[2] for key in caller.chats}
        if unseen := channels - visible:
            caller.require_chat(next(iter(unseen)))
    hub = _hub(request, resources)
    last = last_event_id or last_event_id_query
    # What the hub finds at its start would come as if it were new.
    await hub.wait_begun()
    cursor = await _cursor(last, hub, resources) if last else None
    listener = Listener(caller, channels, frozenset(kind or ()))
    secret, address = presented(request), request.client.host if request.client else ""

    async def allowed() -> bool:
        try:
            await resources.authenticator.authenticate(secret, address)
        except Problem as problem:
            return problem.status_code not in (401, 403)
        return True

    return EventStream(_parts(hub, listener, cursor, resources, allowed))


async def _cursor(last: str, hub: StreamHub, resources: Resources) -> Cursor:
    """Where to go on. Raises a 422, 410 or 503 problem."""
    try:
        cursor = Cursor.decode(last)
    except BadCursor:
        raise Problem(422, "Unprocessable Content", "The last event id is none that this API gave.") from None
    if hub.keeps(cursor.hub, cursor.number):
        return cursor
    retention = resources.settings.db_retention
    if retention is not None and cursor.progress.newest < microseconds(datetime.now(UTC) - retention):
        raise Problem(
            410,
            "Gone",
            f"The last event id is older than the {retention.days} days that the database keeps: begin anew.",
        )
    await hub.wait_checked()
    if not hub.database_answers:
        raise unavailable("What came since the last event id is in the database, which does not answer.")
    if hub.database_is_behind(cursor.progress.oldest):
        raise unavailable("What came since the last event id is not in the database yet.")
    return cursor


async def _parts(
    hub: StreamHub,
    listener: Listener,
    cursor: Cursor | None,
    resources: Resources,
    allowed: Callable[[], Any],
) -> AsyncIterator[bytes]:
    metrics.STREAM_CLIENTS.inc()
    try:
        yield b"retry: %d\n\n" % RETRY_MILLISECONDS
        with hub.holding():
            if cursor is not None and not hub.keeps(cursor.hub, cursor.number):
                listener.goes_on(cursor.progress)
                async for part in _history(hub, listener, cursor, resources):
                    yield part
            # Nothing waits from the end of the history to here, so that nothing is let go of in between.
            kept = hub.follow(listener) if cursor else []
            number = cursor.number if cursor and cursor.hub == hub.id else 0
            passed_on = [listener.passed_on(frame, frame.encoded) for frame in kept if frame.number > number]
        if cursor is None:
            hub.follow(listener)
            yield b"id: %b\n\n" % hub.cursor.encode()
        for start in range(0, len(passed_on), PART_EVENTS):
            yield b"".join(filter(None, passed_on[start : start + PART_EVENTS]))
        checked_at = time.monotonic()
        while not resources.stopping.is_set():
            part = await listener.take()
            if listener.too_slow:
                yield _cut("too slow; come back with the last id")
                return
            if time.monotonic() - checked_at >= HEARTBEAT_SECONDS:
                checked_at = time.monotonic()
                if not await allowed():
                    yield _cut("the token holds no more")
                    return
            if part:
                yield part
        yield _cut("the server stops; come back with the last id")
    except GatewayError as error:
        log.info("stream_history_ended", reason=str(error))
        yield _cut("the database does not answer; come back with the last id")
    finally:
        metrics.STREAM_CLIENTS.dec()
        hub.leave(listener)


async def _history(
    hub: StreamHub, listener: Listener, cursor: Cursor, resources: Resources
) -> AsyncIterator[bytes]:
    """What the hub does not keep and will not bring; ends in an instant in which that is nothing more."""
    since = moment_of(cursor.progress.oldest)
    let_go = -1
    while let_go != hub.let_go:
        let_go = hub.let_go
        until = max(hub.start, hub.let_go_until)
        part: list[bytes] = []
        async for event in read_events(cast("Any", resources.database), since, moment_of(until + 1)):
            if hub.is_past(event) and (encoded := listener.stored(event)) is not None:
                part.append(encoded)
            if len(part) >= PART_EVENTS:
                yield b"".join(part)
                part = []
        if part:
            yield b"".join(part)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _cut(reason: str) -> bytes:
    return b'event: cut\ndata: {"reason":"%b"}\n\n' % reason.encode()


def _hub(request: Request, resources: Resources) -> StreamHub:
    state = request.app.state
    if not hasattr(state, "stream_hub"):
        state.stream_hub = StreamHub(resources.settings, resources.database, resources.stopping)
        resources.start(state.stream_hub.run(), "stream")
    hub: StreamHub = state.stream_hub
    return hub
