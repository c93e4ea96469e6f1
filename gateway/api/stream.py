"""The live stream as server-sent events: what comes, to each listener what it asked for and may see.

A listener that comes back with the id of its last event gets everything since, once: from the hub's memory if
that reaches back so far, else from the database, up to where the hub's memory begins.
"""

import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

import structlog
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from gateway.api import metrics
from gateway.api.auth import Reader, presented
from gateway.api.channels import ChannelId
from gateway.api.middleware import ENDLESS
from gateway.api.problems import Problem, unavailable
from gateway.api.resources import Resources
from gateway.api.stream_cursor import LONGEST_CURSOR, BadCursor, Cursor, microseconds, moment_of
from gateway.api.stream_hub import StreamHub
from gateway.api.stream_listener import HEARTBEAT_SECONDS, EventStream, Listener
from gateway.database import read_events
from gateway.errors import GatewayError

log = structlog.get_logger()
router = APIRouter(tags=["stream"])

Kind = Literal["new", "edited", "deleted"]
RETRY_MILLISECONDS = 2000
PART_EVENTS = 100  # of history sent together


@router.get(
    ENDLESS,
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

    return EventStream(_parts(hub, listener, cursor, resources, allowed), listener)


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
        while not resources.stopping.is_set():
            part = await listener.take()
            if listener.too_slow:
                yield _cut("too slow; come back with the last id")
                return
            if time.monotonic() - listener.checked_at >= HEARTBEAT_SECONDS:
                listener.checked_at = time.monotonic()
                if not await allowed():
                    yield _cut("the token holds no more")
                    return
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


def _cut(reason: str) -> bytes:
    return b'event: cut\ndata: {"reason":"%b"}\n\n' % reason.encode()


def _hub(request: Request, resources: Resources) -> StreamHub:
    state = request.app.state
    if not hasattr(state, "stream_hub"):
        state.stream_hub = StreamHub(resources.settings, resources.database, resources.stopping)
        resources.start(state.stream_hub.run(), "stream")
    hub: StreamHub = state.stream_hub
    return hub
