"""Reads of Redis that come together go together.

While one round trip is under way, the next questions gather: under load a request pays for a part of a round
trip only, and a chat that many ask for at once is fetched once.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from itertools import chain
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
        self._waiting: dict[Newest, list[asyncio.Future[HotPage]]] = {}
        self._reading = False

    async def newest(self, chat: str, limit: int, since: datetime | None) -> HotPage:
        """As `HotMessages.newest`."""
        asked = Newest(chat, limit, since)
        if (page := self._hot.kept(asked)) is not None:
            return page
        answer: asyncio.Future[HotPage] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asked, []).append(answer)
        if not self._reading:
            self._reading = True
            self._start(self._read(), "hot pages")
        return await answer

    async def _read(self) -> None:
        try:
            while self._waiting:
                asked = list(self._waiting)[:MOST_TOGETHER]
                answers = [self._waiting.pop(each) for each in asked]
                try:
                    pages = await self._hot.newest_of(asked)
                except SinkUnavailable as error:
                    for answer in _still_wanted(chain(*answers)):
                        answer.set_exception(error)
                else:
                    for page, those in zip(pages, answers, strict=True):
                        for answer in _still_wanted(those):
                            answer.set_result(page)
        finally:
            self._reading = False


def _still_wanted(answers: Iterable[asyncio.Future[HotPage]]) -> Iterable[asyncio.Future[HotPage]]:
    return (answer for answer in answers if not answer.done())
