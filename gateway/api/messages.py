"""The messages: lists of them by any filter, single ones, hiding. Redis answers where it holds the answer."""

import dataclasses
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response

from gateway.api.auth import Admin, Caller, Reader, Requires
from gateway.api.caching import LONGEST_SECONDS, answer
from gateway.api.hot_answers import hot_answer
from gateway.api.message_desk import HIDDEN_MARK, desk_of
from gateway.api.message_model import (
    MessageDetails,
    MessagePage,
    encode_message,
    encode_page,
)
from gateway.api.parameters import (
    CHANNEL_ID,
    MOST_MESSAGES,
    USUAL_MESSAGES,
    ChannelPath,
    ChannelQuery,
    ConsumerQuery,
    CursorQuery,
    LimitQuery,
    MessagePath,
    ScopeQuery,
    SinceQuery,
    UntilQuery,
    WordsQuery,
)
from gateway.api.problems import Problem
from gateway.api.resources import Resources
from gateway.api.routing import QuickRoute
from gateway.event import Source
from gateway.read import ChatRef, MessageFilter, MessageRef, StoredMessage
from gateway.read.cursor import InvalidCursor, decode_position, encode_position
from gateway.read.records import Position, position_of

log = structlog.get_logger()

FIRST_PAGE_SECONDS = 2  # how old a cached first page may be: new messages belong there
NO_SUCH_MESSAGE = "There is no such message."
BAD_CURSOR = "This is no `nextCursor` of this list: send one with the same other parameters, or none."

# Not `dataclasses.asdict`, which copies each value: a tenth of the time that a hot page takes.
_FILTER_FIELDS = tuple(field.name for field in dataclasses.fields(MessageFilter))

StatusName = Literal["received", "retrying", "published", "processed", "failed", "ignored"]
_SOURCE_HEADER = {
    "X-Source": {
        "description": "Who answered: `redis` or `database`.",
        "schema": {"type": "string", "enum": ["redis", "database"]},
    }
}
_404: dict[int | str, dict[str, Any]] = {404: {"description": "No such message, or hidden."}}
_400: dict[int | str, dict[str, Any]] = {
    400: {"description": "Parameters that do not go together, or a cursor that is not this list's."}
}


def found_by(model: Any) -> dict[int | str, dict[str, Any]]:
    """The description of an answer that is written by hand."""
    return {200: {"model": model, "headers": _SOURCE_HEADER}}


class _Poll(msgspec.Struct, rename="camel"):
    """What pollers ask: a chat's newest messages. The limits are those of `gateway.api.parameters`."""

    # Python's $ would let a newline follow.
    channel_id: Annotated[str, msgspec.Meta(pattern=CHANNEL_ID.replace("$", r"\Z"))]
    account_scope: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_MESSAGES)] = USUAL_MESSAGES


class _Route(QuickRoute):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        parameters = {each.alias for each in self.dependant.query_params}
        self._no_poll = parameters.difference(_Poll.__struct_encode_fields__)

    async def quick(self, request: Request) -> Response | None:
        """Answers a poll."""
        if self.endpoint is not list_messages:
            return None
        given = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if not self._no_poll.isdisjoint(given):
            return None
        try:
            poll = msgspec.convert(given, _Poll, strict=False)
        except msgspec.ValidationError:
            return None  # FastAPI says what is wrong with it
        caller = await _requires(request)
        chat = ChatRef(poll.channel_id, poll.account_scope)
        wanted = MessageFilter(chat=chat, chats=caller.chats)
        return await _list(request, caller, wanted, None, poll.limit, hot=True)


_requires = Requires("read")
router = APIRouter(prefix="/api/messages", tags=["messages"], route_class=_Route)


@router.get(
    "",
    responses=found_by(MessagePage) | _400,
    response_class=Response,
)
async def list_messages(
    request: Request,
    caller: Reader,
    channel_id: ChannelQuery = None,
    account_scope: ScopeQuery = 0,
    message_id: Annotated[
        int | None, Query(alias="messageId", ge=1, lt=1 << 63, description="One message; with `channelId`.")
    ] = None,
    since: SinceQuery = None,
    until: UntilQuery = None,
    source: Annotated[
        Source | None, Query(description="How the message first came; an edit may have come otherwise.")
    ] = None,
    consumer: ConsumerQuery = None,
    status: Annotated[
        StatusName | None,
        Query(description="What `consumer` noted; `processed` is another word for `published`."),
    ] = None,
    search: WordsQuery = None,
    sort: Annotated[
        Literal["-telegramDate", "telegramDate"],
        Query(description="By the messages' own dates, newest first or oldest first."),
    ] = "-telegramDate",
    include_deleted: Annotated[
        bool, Query(alias="includeDeleted", description="Also those that were deleted on Telegram.")
    ] = False,
    limit: LimitQuery = USUAL_MESSAGES,
    cursor: CursorQuery = None,
) -> Response:
    """Messages by any filter, each in its newest revision.

    Go on with `nextCursor` until it is null: each message comes once, whatever is stored meanwhile. A page
    may hold fewer than `limit` messages, even none, while there is a next one. The newest messages of a chat
    come from Redis where it holds them.
    """
    if status is not None and consumer is None:
        raise Problem(400, "Bad Request", "`status` is what one consumer noted: name it in `consumer`.")
    if message_id is not None and channel_id is None:
        raise Problem(400, "Bad Request", "`messageId` counts within a chat: name it in `channelId`.")
    wanted = MessageFilter(
        chat=ChatRef(channel_id, account_scope) if channel_id is not None else None,
        message_id=message_id,
        chats=caller.chats,
        since=since,
        until=until,
        source=source,
        consumer=consumer,
        status="published" if status == "processed" else status,
        search=search,
        deleted=include_deleted,
        newest_first=sort == "-telegramDate",
    )
    after = _position(cursor, wanted)
    return await _list(request, caller, wanted, after, limit, hot=after is None and _is_hot(wanted))


@router.get(
    "/{channelId}/{messageId}",
    responses=found_by(MessageDetails) | _404,
    response_class=Response,
)
async def get_message(
    request: Request,
    caller: Reader,
    channel_id: ChannelPath,
    message_id: MessagePath,
    account_scope: ScopeQuery = 0,
    consumer: ConsumerQuery = None,
    revisions: Annotated[bool, Query(description="Also all that happened to it, in order.")] = False,
) -> Response:
    """One message in its newest revision; from Redis where it is there and nothing else was asked for."""
    message = visible(caller, channel_id, message_id, account_scope)
    desk = desk_of(request)
    if consumer is None and not revisions and (event := await desk.message(message)) is not None:
        return _answer(request, encode_message(StoredMessage(event)), "redis")
    found = await desk.reader.message(message, consumer)
    if found is None:
        raise Problem(404, "Not Found", NO_SUCH_MESSAGE)
    history = await desk.reader.revisions(message) if revisions else None
    return _answer(request, encode_message(found, history), "database")


@router.delete("/{channelId}/{messageId}", status_code=204, responses=_404)
async def hide_message(
    request: Request,
    caller: Admin,
    channel_id: ChannelPath,
    message_id: MessagePath,
    account_scope: ScopeQuery = 0,
) -> None:
    """Hides a message from all that is read here: lists, search, single messages, unprocessed ones.

    Nothing is deleted: it stays in the database, and `restore` brings it back. What was delivered to queues
    or was read before is not called back.
    """
    message = visible(caller, channel_id, message_id, account_scope)
    hidden = await desk_of(request).hide(message, caller.name)
    if not hidden:
        raise Problem(404, "Not Found", NO_SUCH_MESSAGE)
    await _renew(request)
    log.info("message_hidden", chat=message.chat.key, message=message_id, caller=caller.token_id)


@router.post("/{channelId}/{messageId}/restore", status_code=204, responses=_404)
async def restore_message(
    request: Request,
    caller: Admin,
    channel_id: ChannelPath,
    message_id: MessagePath,
    account_scope: ScopeQuery = 0,
) -> None:
    """Shows a hidden message again; one that is not hidden stays as it is."""
    message = visible(caller, channel_id, message_id, account_scope)
    desk = desk_of(request)
    if not await desk.restore(message):
        if await desk.reader.message(message) is None:
            raise Problem(404, "Not Found", NO_SUCH_MESSAGE)
        return
    await _renew(request)
    log.info("message_restored", chat=message.chat.key, message=message_id, caller=caller.token_id)


async def _list(
    request: Request,
    caller: Caller,
    wanted: MessageFilter,
    after: Position | None,
    limit: int,
    *,
    hot: bool,
) -> Response:
    desk = desk_of(request)
    if wanted.chat is not None and not caller.may_see(wanted.chat.key):
        return _answer(request, encode_page([], None), "database")
    if wanted.chat is not None and hot:
        page = await desk.newest(wanted.chat, limit, wanted.since)
        if page is not None:
            place = position_of(page.events[-1]) if len(page.events) == limit else None
            return hot_answer(
                request, page, wanted.chats, lambda: place and encode_position(place, _question(wanted))
            )

    async def read() -> bytes:
        page = await desk.reader.messages(wanted, after, limit)
        following = page.next and encode_position(page.next, _question(wanted))
        return encode_page(page.messages, following)

    if wanted.consumer is not None:
        # What consumers note without this API would be seen too late.
        return _answer(request, await read(), "database")
    resources: Resources = request.app.state.resources
    body = await resources.cache.cached(
        ("messages", *_question(wanted), after, limit),
        (HIDDEN_MARK,),
        read,
        caller=caller,
        seconds=LONGEST_SECONDS if after is not None else FIRST_PAGE_SECONDS,
    )
    return _answer(request, body, "database")


def visible(caller: Caller, channel_id: str, message_id: int, scope: int) -> MessageRef:
    """The message, if its chat may be seen; else, for this caller, there is none."""
    message = MessageRef(channel_id, message_id, scope)
    if not caller.may_see(message.chat.key):
        raise Problem(404, "Not Found", NO_SUCH_MESSAGE)
    return message


def _is_hot(wanted: MessageFilter) -> bool:
    """Whether it is about a chat's newest messages and nothing else."""
    hot = MessageFilter(chat=wanted.chat, chats=wanted.chats, since=wanted.since)
    return wanted.chat is not None and wanted == hot


def _question(wanted: MessageFilter) -> tuple[Any, ...]:
    """All that decides which messages come, in a form that has one `repr`."""
    values = {name: getattr(wanted, name) for name in _FILTER_FIELDS}
    values["chats"] = sorted(wanted.chats) if wanted.chats is not None else None
    return tuple(values.values())


def _position(cursor: str | None, wanted: MessageFilter) -> Position | None:
    if cursor is None:
        return None
    try:
        return decode_position(cursor, _question(wanted))
    except InvalidCursor:
        raise Problem(400, "Bad Request", BAD_CURSOR) from None


def _answer(request: Request, body: bytes, source: str) -> Response:
    return answer(request, body, headers={"X-Source": source})


async def _renew(request: Request) -> None:
    resources: Resources = request.app.state.resources
    await resources.cache.changed(HIDDEN_MARK)
