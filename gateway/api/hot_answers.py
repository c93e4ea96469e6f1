"""Answers from Redis, given before FastAPI's layers, which are most of their work, and kept for a moment.

Many pollers of one chat ask for the same bytes. Who calls is established, and counted, for every request.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gateway.api.auth import Caller, Requires

KEPT_SECONDS = 0.1
KEPT_ANSWERS = 256
LARGEST_BYTES = 128 << 10  # with as many answers, 32 MB at the most
_HOT = "redis"
_requires = Requires("read")


class HotAnswers:
    """Of one process; at `resources.hot_answers`."""

    def __init__(self) -> None:
        self._answers: dict[object, _Kept] = {}
        self.generation = 0

    def find(self, key: object) -> Response | None:
        """What was kept under `key` lately."""
        kept = self._answers.get(key)
        if kept is None or time.monotonic() >= kept.until:
            return None
        answer = Response()
        answer.body = kept.body
        # Layers above change the list of headers in place.
        answer.raw_headers = list(kept.headers)
        return answer

    def keep(self, key: object, answer: Response, asked_at: float) -> None:
        """Keeps what was asked for at `asked_at`, unless it is large."""
        if len(answer.body) > LARGEST_BYTES:
            return
        if len(self._answers) >= KEPT_ANSWERS:
            self._answers.clear()
        self._answers[key] = _Kept(asked_at + KEPT_SECONDS, bytes(answer.body), tuple(answer.raw_headers))

    def clear(self) -> None:
        """Something is not to be seen any more: what was read before now is not kept."""
        self._answers.clear()
        self.generation += 1


class _Kept(NamedTuple):
    until: float  # monotonic seconds
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class HotRoute(APIRoute):
    """An operation for readers whose answers with `X-Source: redis` are kept."""

    async def first(self, request: Request) -> Response | None:
        """The answer, where it was kept or can be found without FastAPI's help."""
        caller = await _requires(request)
        kept = None if _conditional(request) else _answers(request).find(_key(request, caller))
        return kept or await self._kept(request, caller, self.quick(request, caller))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, behind what was kept; its answer is kept, too."""
        handle = super().get_route_handler()
        # `gateway.api.routing` asks for the first answer of a path without parameters.
        looks_first = bool(self.param_convertors)

        async def handle_and_keep(request: Request) -> Response:
            if looks_first and (found := await self.first(request)) is not None:
                return found
            caller = await _requires(request)
            answer = await self._kept(request, caller, handle(request))
            assert answer is not None
            return answer

        return handle_and_keep if self.methods == {"GET"} else handle

    async def quick(self, request: Request, caller: Caller) -> Response | None:
        """The answer, where it can be found without FastAPI's help."""
        return None

    async def _kept(
        self, request: Request, caller: Caller, finding: Coroutine[Any, Any, Response | None]
    ) -> Response | None:
        answers = _answers(request)
        asked_at, generation = time.monotonic(), answers.generation
        answer = await finding
        if (
            answer is not None
            and not _conditional(request)
            and answer.headers.get("X-Source") == _HOT
            and generation == answers.generation
        ):
            answers.keep(_key(request, caller), answer, asked_at)
        return answer


def _answers(request: Request) -> HotAnswers:
    answers: HotAnswers = request.app.state.resources.hot_answers
    return answers


def _key(request: Request, caller: Caller) -> object:
    return request.scope["path"], request.scope["query_string"], caller.chats


def _conditional(request: Request) -> bool:
    return "if-none-match" in request.headers
