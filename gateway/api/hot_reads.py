"""Reads of Redis that come together go together.

While one round trip is under way, the next questions gather: under load a request pays for a part of a round
trip only, and a chat that many ask for at once is fetched once.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from gateway.errors import SinkUnavailable
from gateway.read import HotMessages, HotPage, Newest

MOST_TOGETHER = 8  # questions of one round trip: a page of each may be large, and nobody else runs meanwhile


class HotReads:
    """Pages of `hot`; `start` runs a task beside the requests."""

    def __init__(
        self, hot: HotMessages, start: Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
    ) -> None:
        self._hot = hot
        self._start = start
        self._waiting: dict[Newest, asyncio.Future[HotPage]] = {}
        self._reading = False

    async def newest(self, chat: str, limit: int, since: datetime | None) -> HotPage:
        """As `HotMessages.newest`."""
        asked = Newest(chat, limit, since)
        answer = self._waiting.get(asked)
        if answer is None:
            answer = self._waiting[asked] = asyncio.get_running_loop().create_future()
        if not self._reading:
            self._reading = True
            self._start(self._read(), "hot pages")
        return await asyncio.shield(answer)  # others may wait for it when this request is given up

    async def _read(self) -> None:
        try:
            while self._waiting:
                asked = list(self._waiting)[:MOST_TOGETHER]
                answers = [self._waiting.pop(each) for each in asked]
                try:
                    pages = await self._hot.newest_of(asked)
                except SinkUnavailable as error:
                    for answer in answers:
                        answer.set_exception(error)
                else:
                    for answer, page in zip(answers, pages, strict=True):
                        answer.set_result(page)
        finally:
            self._reading = False
