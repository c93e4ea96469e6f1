"""Answers from Redis, kept in the process for a moment: many pollers of one chat ask for the same bytes.

What is kept is the finished response, found before FastAPI reads a parameter: under load that is most of the
work. Who calls is established, and counted, for every request.
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

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, with the kept answers in front."""
        handle = super().get_route_handler()
        if self.methods != {"GET"}:
            return handle
        requires = Requires("read")

        async def look_first(request: Request) -> Response:
            caller = await requires(request)
            key = (request.scope["path"], request.scope["query_string"], caller.chats)
            answers: HotAnswers = request.app.state.resources.hot_answers
            conditional = "if-none-match" in request.headers
            if not conditional and (kept := answers.find(key)) is not None:
                return kept
            asked_at, generation = time.monotonic(), answers.generation
            answer = await self.quick(request, caller) or await handle(request)
            if (
                not conditional
                and answer.headers.get("X-Source") == _HOT
                and generation == answers.generation
            ):
                answers.keep(key, answer, asked_at)
            return answer

        return look_first

    async def quick(self, request: Request, caller: Caller) -> Response | None:
        """The answer, where it can be found without FastAPI's help."""
        return None
