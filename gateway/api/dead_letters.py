"""Messages that consumers gave up on, for operators: list, look, give back, drop.

Looking takes all letters out of their queue for a moment, so what was seen is remembered for a few seconds,
and all who ask at the same time get the same answer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field
from starlette.convertors import StringConvertor, register_url_convertor

from gateway.api.auth import Admin, Caller
from gateway.api.model import ApiModel, Moment
from gateway.api.problems import Problem, unavailable
from gateway.dead_letter import DeadLetter
from gateway.dead_letters import EVERY, MOST_LETTERS, DeadLetters, Outcome, Selection
from gateway.errors import DeadLettersBusy
from gateway.settings import Settings

log = structlog.get_logger()
router = APIRouter(tags=["dead letters"])

FRESH_SECONDS = 2.0
_NO_STORE = {"Cache-Control": "no-store"}
_NOT_THERE = "There is no such dead letter: it was requeued or dropped, or its 24 hours have passed."


class _IdConvertor(StringConvertor):
    regex = "[0-9a-f]{16}(-[0-9]{1,5})?"


# What is no id is no letter's path: /requeue is an operation of its own, with methods of its own.
register_url_convertor("dead_letter", _IdConvertor())
Id = Annotated[str, Path(pattern=r"^[0-9a-f]{16}(-[0-9]{1,5})?$", examples=["3f1c2a9be4d07f65"])]
_Responses = dict[int | str, dict[str, Any]]
_404: _Responses = {404: {"description": "No such dead letter."}}
_409: _Responses = {409: {"description": "The consumer's queue is gone or takes nothing; it is still there."}}


class DeadLetterSummary(ApiModel):
    """A message that a consumer gave up on, or that the broker took out of a consumer's queue."""

    id: str = Field(description="Of this letter, as long as it is one.", examples=["3f1c2a9be4d07f65"])
    event_id: str | None = Field(description="The event's id.", examples=["0:-1001649127710:4711"])
    kind: str | None = Field(examples=["message.new"])
    chat_key: str | None = Field(
        description="channelId, or accountScope/channelId where ids count per account.",
        examples=["-1001649127710"],
    )
    message_id: int | None = Field(description="The message's id in its chat.", examples=[4711])
    consumer: str | None = Field(description="Null where nothing tells.", examples=["tp-capital"])
    queue: str | None = Field(
        description="Where it goes when it is requeued.", examples=["telegram.consumer.tp-capital"]
    )
    reason: str = Field(examples=["no buy range and no target with a stop"])
    by: Literal["consumer", "broker"] = Field(description="Who gave up on it.")
    attempts: int | None = Field(examples=[3])
    at: Moment | None = Field(description="When it became a dead letter.")
    requeued: int = Field(description="How often it was given back before.", examples=[0])
    body_bytes: int = Field(examples=[812])


class DeadLetterDetails(DeadLetterSummary):
    """One dead letter with its headers, and its body where that was asked for."""

    headers: dict[str, Any]
    body: str | None = None


class DeadLetterList(ApiModel):
    """The oldest dead letters; `total` counts also those beyond the ones listed."""

    total: int = Field(examples=[1])
    letters: list[DeadLetterSummary]


class Requeue(ApiModel):
    """Whose letters to give back."""

    consumer: str = Field(min_length=1, max_length=200, examples=["tp-capital"])


class Requeued(ApiModel):
    """A letter that is back in its consumer's queue."""

    id: str = Field(examples=["3f1c2a9be4d07f65"])
    queue: str = Field(examples=["telegram.consumer.tp-capital"])


class Stayed(ApiModel):
    """A letter that could not be requeued and is still there."""

    id: str = Field(examples=["3f1c2a9be4d07f65"])
    error: str = Field(examples=["the queue telegram.consumer.tp-capital is gone"])


class RequeueResult(ApiModel):
    """What became of a consumer's letters."""

    requeued: list[Requeued]
    stayed: list[Stayed]


class LetterDesk:
    """The dead letters, with a short memory of what was seen."""

    def __init__(self, settings: Settings) -> None:
        self.letters = DeadLetters.of(settings)
        self._seen: list[DeadLetter] = []
        self._seen_at = -FRESH_SECONDS
        self._looking = asyncio.Lock()

    async def all(self) -> list[DeadLetter]:
        """Every letter, the oldest first."""
        async with self._looking:
            loop = asyncio.get_running_loop()
            if loop.time() - self._seen_at >= FRESH_SECONDS:
                self._seen = list((await self.letters.list(EVERY, MOST_LETTERS)).letters)
                self._seen_at = loop.time()
            return self._seen

    def forget(self) -> None:
        """What was seen is not so any more."""
        self._seen_at = -FRESH_SECONDS


@router.get("/api/dead-letters")
async def list_dead_letters(
    request: Request,
    response: Response,
    caller: Admin,
    consumer: Annotated[str | None, Query(min_length=1, max_length=200, examples=["tp-capital"])] = None,
    limit: Annotated[int, Query(ge=1, le=1000, examples=[100])] = 100,
) -> DeadLetterList:
    """The dead letters of all consumers or of one, the oldest first."""
    which = Selection(consumer=consumer, chats=caller.chats)
    async with _alone():
        letters = [letter for letter in await _desk(request).all() if which.holds(letter)]
    response.headers.update(_NO_STORE)
    return DeadLetterList(total=len(letters), letters=[_summary(letter) for letter in letters[:limit]])


@router.get("/api/dead-letters/{id:dead_letter}", responses=_404)
async def get_dead_letter(
    request: Request,
    response: Response,
    caller: Admin,
    id: Id,
    body: Annotated[
        bool, Query(description="Whether to tell what the message says.", examples=[False])
    ] = False,
) -> DeadLetterDetails:
    """One dead letter with its headers, and with its body where asked for."""
    async with _alone():
        found = await _desk(request).letters.find(_one(caller, id))
    if found is None:
        raise Problem(404, "Not Found", _NOT_THERE)
    response.headers.update(_NO_STORE)
    letter, content = found
    text = content.decode(errors="replace") if body else None
    return DeadLetterDetails(**_fields(letter), headers=letter.headers, body=text)


@router.post("/api/dead-letters/{id:dead_letter}/requeue", responses=_404 | _409)
async def requeue_dead_letter(
    request: Request,
    caller: Admin,
    id: Id,
) -> Requeued:
    """Gives a letter back to its consumer's own queue."""
    outcomes = await _requeue(request, caller, _one(caller, id))
    if not outcomes:
        raise Problem(404, "Not Found", _NOT_THERE)
    if (error := outcomes[0].error) is not None:
        raise Problem(409, "Conflict", f"It stays a dead letter: {error}.")
    return Requeued(id=id, queue=outcomes[0].letter.queue or "")


@router.post("/api/dead-letters/requeue")
async def requeue_dead_letters(request: Request, caller: Admin, what: Requeue) -> RequeueResult:
    """Gives all letters of a consumer back to its queues."""
    outcomes = await _requeue(request, caller, Selection(consumer=what.consumer, chats=caller.chats))
    return RequeueResult(
        requeued=[
            Requeued(id=each.letter.id, queue=each.letter.queue or "")
            for each in outcomes
            if each.error is None
        ],
        stayed=[Stayed(id=each.letter.id, error=each.error) for each in outcomes if each.error is not None],
    )


@router.delete("/api/dead-letters/{id:dead_letter}", status_code=204, responses=_404)
async def drop_dead_letter(
    request: Request,
    caller: Admin,
    id: Id,
) -> None:
    """Removes a letter for good: its consumer will never have it."""
    desk = _desk(request)
    async with _alone():
        dropped = await desk.letters.drop(_one(caller, id))
    desk.forget()
    if not dropped:
        raise Problem(404, "Not Found", _NOT_THERE)
    log.info("dead_letter_dropped", letter=id, consumer=dropped[0].consumer, caller=caller.token_id)


async def _requeue(request: Request, caller: Caller, which: Selection) -> list[Outcome]:
    desk = _desk(request)
    async with _alone():
        outcomes = list(await desk.letters.requeue(which))
    desk.forget()
    stayed = sum(outcome.error is not None for outcome in outcomes)
    log.info("dead_letters_requeued", requeued=len(outcomes) - stayed, stayed=stayed, caller=caller.token_id)
    return outcomes


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    """Another operator at the letters is no error of this request: it may come back later."""
    try:
        yield
    except DeadLettersBusy as error:
        raise unavailable("Somebody else is at the dead letters.") from error


def _desk(request: Request) -> LetterDesk:
    state = request.app.state
    if not hasattr(state, "dead_letters"):
        state.dead_letters = LetterDesk(state.resources.settings)
    desk: LetterDesk = state.dead_letters
    return desk


def _one(caller: Caller, letter: str) -> Selection:
    return Selection(ids=(letter,), chats=caller.chats)


def _summary(letter: DeadLetter) -> DeadLetterSummary:
    return DeadLetterSummary(**_fields(letter))


def _fields(letter: DeadLetter) -> dict[str, Any]:
    return {
        "event_id": letter.message_id,
        "message_id": letter.telegram_message_id,
        **{name: getattr(letter, name) for name in ("id", "kind", "chat_key", "consumer", "queue", "reason")},
        **{name: getattr(letter, name) for name in ("by", "attempts", "at", "requeued", "body_bytes")},
    }
