"""What consumers have still to do, what they have done, and doing it again. Nothing here is ever cached."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, field_validator
from redis.exceptions import RedisError

from gateway.api.auth import Processor, Reader
from gateway.api.caching import answer
from gateway.api.message_desk import desk_of
from gateway.api.message_model import MessagePage, encode_page
from gateway.api.messages import BAD_CURSOR, NO_SUCH_MESSAGE, found_by, visible
from gateway.api.model import ApiModel
from gateway.api.parameters import (
    CHANNEL_ID,
    CONSUMER,
    ChannelPath,
    CursorQuery,
    LimitQuery,
    MessagePath,
    ScopeQuery,
    SinceQuery,
)
from gateway.api.problems import Problem
from gateway.api.resources import Resources
from gateway.generations import generation_key
from gateway.read import ChatRef, Marked, MessageRef, Outcome
from gateway.read.cursor import InvalidCursor, decode_arrival, encode_arrival
from gateway.read.records import Status

log = structlog.get_logger()
router = APIRouter(prefix="/api/messages", tags=["processing"])

BATCH = 1000
_400: dict[int | str, dict[str, Any]] = {400: {"description": BAD_CURSOR}}
_404: dict[int | str, dict[str, Any]] = {404: {"description": NO_SUCH_MESSAGE}}
_NO_STORE = {"Cache-Control": "no-store"}


class ProcessedItem(ApiModel):
    """What became of a message."""

    channel_id: str = Field(pattern=CHANNEL_ID, examples=["-1001649127710"])
    account_scope: int = Field(default=0, ge=0, lt=1 << 63, strict=True, examples=[0])
    message_id: int = Field(ge=1, lt=1 << 63, strict=True, examples=[4711])
    status: Literal["processed", "failed", "ignored"] = Field(default="processed", examples=["processed"])
    reason: str | None = Field(default=None, max_length=1000, examples=[None])

    @field_validator("reason")
    @classmethod
    def _storable(cls, reason: str | None) -> str | None:
        # Neither can be stored; a lone surrogate comes from JSON's \\ud800.
        if reason is not None and ("\0" in reason or any("\ud800" <= each <= "\udfff" for each in reason)):
            raise ValueError("must be text without NUL and lone surrogates")
        return reason


class ProcessedBatch(ApiModel):
    """What became of some messages."""

    consumer: str = Field(pattern=CONSUMER, examples=["tp-capital"])
    items: list[ProcessedItem] = Field(min_length=1, max_length=BATCH)


class MarkedItem(ApiModel):
    """What is noted now about a message of the batch."""

    channel_id: str = Field(examples=["-1001649127710"])
    account_scope: int = Field(examples=[0])
    message_id: int = Field(examples=[4711])
    status: Status | None = Field(
        description="`published` is what was processed; null: not recorded.", examples=["published"]
    )
    attempts: int = Field(examples=[1])
    recorded: bool = Field(description="False only in a chat that the token may not see.")
    changed: bool = Field(description="False when this was noted before, or something final was.")
    known: bool = Field(description="Whether the message is stored; a queue can be faster than the database.")


class MarkedBatch(ApiModel):
    """One entry for each item of the request, in its order."""

    items: list[MarkedItem]


class Reopened(ApiModel):
    """The consumers for which the message is unprocessed again; none when none had processed it."""

    consumers: list[str] = Field(examples=[["tp-capital"]])


@router.get(
    "/unprocessed",
    responses=found_by(MessagePage) | _400,
    response_class=Response,
)
async def list_unprocessed(
    request: Request,
    caller: Reader,
    consumer: Annotated[str, Query(pattern=CONSUMER, description="Whose.", examples=["tp-capital"])],
    channel_id: Annotated[
        list[Annotated[str, Field(pattern=CHANNEL_ID)]],
        Query(alias="channelId", max_length=200, description="Of these chats only; repeat it for more."),
    ] = [],  # noqa: B006 - FastAPI copies it
    account_scope: ScopeQuery = 0,
    since: SinceQuery = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
) -> Response:
    """What a consumer has neither processed, ignored nor failed, in the order in which it was stored.

    So what a backfill or an outage brings late comes at the end, whatever its date. For a name that is new
    it is all that is kept, or all dated since `from`. Messages that were deleted on Telegram are among them,
    with `deletedAt`.
    """
    chats = _chats(caller.chats, [ChatRef(each, account_scope) for each in channel_id])
    question = (consumer, sorted(chats) if chats is not None else None, since)
    after = None
    if cursor is not None:
        try:
            after = decode_arrival(cursor, question)
        except InvalidCursor:
            raise Problem(400, "Bad Request", BAD_CURSOR) from None
    resources: Resources = request.app.state.resources
    if since is None and (keep := resources.settings.db_retention) is not None:
        since = datetime.now(UTC) - keep
    page = await desk_of(request).reader.unprocessed(consumer, chats, since=since, after=after, limit=limit)
    following = encode_arrival(page.next, question) if page.next is not None else None
    return answer(request, encode_page(page.messages, following), headers={"X-Source": "database"})


@router.post("/mark-processed", response_model=MarkedBatch)
async def mark_processed(request: Request, caller: Processor, batch: ProcessedBatch) -> Response:
    """Notes what became of up to 1000 messages, all or nothing.

    Saying it again changes nothing. What was processed or ignored stays so; what has failed may still be
    processed. A message that is not stored yet is noted as well.
    """
    refs = [MessageRef(each.channel_id, each.message_id, each.account_scope) for each in batch.items]
    outcomes = [
        Outcome(ref, "published" if each.status == "processed" else each.status, each.reason)
        for ref, each in zip(refs, batch.items, strict=True)
        if caller.may_see(ref.chat.key)
    ]
    marked = iter(await desk_of(request).reader.mark_processed(batch.consumer, outcomes))
    resources: Resources = request.app.state.resources
    await resources.cache.changed(generation_key(batch.consumer))
    done = MarkedBatch(
        items=[_item(ref, next(marked) if caller.may_see(ref.chat.key) else None) for ref in refs]
    )
    # Written here: FastAPI would check and rebuild each of its entries before.
    return Response(done.model_dump_json(by_alias=True), media_type="application/json", headers=_NO_STORE)


@router.post("/{channelId}/{messageId}/reprocess", responses=_404)
async def reprocess_message(
    request: Request,
    response: Response,
    caller: Processor,
    channel_id: ChannelPath,
    message_id: MessagePath,
    account_scope: ScopeQuery = 0,
    consumer: Annotated[
        str | None, Query(pattern=CONSUMER, description="For this one only.", examples=["tp-capital"])
    ] = None,
) -> Reopened:
    """Makes a message unprocessed again, for one consumer or for all that have processed it.

    Consumers that poll get it with their next poll; it is not put into queues again.
    """
    message = visible(caller, channel_id, message_id, account_scope)
    reader = desk_of(request).reader
    if await reader.message(message) is None:
        raise Problem(404, "Not Found", NO_SUCH_MESSAGE)
    consumers = await reader.reprocess(message, consumer)
    resources: Resources = request.app.state.resources
    if consumers:
        try:
            await resources.redis.delete(
                *(f"telegram:dedup:{name}:{message.chat.key}:{message_id}" for name in consumers)
            )
        except (RedisError, OSError) as error:
            log.warning("consumer_hints_not_removed", reason=type(error).__name__)
        await resources.cache.changed(*map(generation_key, consumers))
    log.info("message_reopened", chat=message.chat.key, message=message_id, caller=caller.token_id)
    response.headers.update(_NO_STORE)
    return Reopened(consumers=consumers)


def _chats(visible_chats: frozenset[str] | None, asked: list[ChatRef]) -> list[ChatRef] | None:
    if asked:
        return [chat for chat in asked if visible_chats is None or chat.key in visible_chats]
    return [ChatRef.parse(key) for key in visible_chats] if visible_chats is not None else None


def _item(ref: MessageRef, marked: Marked | None) -> MarkedItem:
    return MarkedItem(
        channel_id=ref.channel_id,
        account_scope=ref.scope,
        message_id=ref.message_id,
        status=marked.status if marked else None,
        attempts=marked.attempts if marked else 0,
        recorded=marked is not None,
        changed=marked is not None and marked.changed,
        known=marked is not None and marked.known,
    )
