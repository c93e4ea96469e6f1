"""A chat's history page by page, for `gateway.telegram.backfill`: the next is fetched as one is delivered."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from telethon import errors

from gateway.telegram.chat_history import page_from
from gateway.telegram.dialogs import Ask

FRESH_SECONDS = 5.0  # a page that waited for longer is asked for again: it may have been edited meanwhile


@dataclass(frozen=True, slots=True)
class _Page:
    chat: int
    first: int
    asked_at: float
    answer: Any
    messages: list[Any]


class HistoryPages:
    """Holds at most one page that nobody has taken yet."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._ahead: _Page | None = None

    async def take(self, chat: int, peer: Any, first: int) -> tuple[Any, list[Any]]:
        """As `page_from`; at once if it is the page that was fetched ahead. Raises RPCError."""
        page, self._ahead = self._ahead, None
        if page is None or (page.chat, page.first) != (chat, first) or _stale(page):
            return await page_from(self._ask, peer, first)
        return page.answer, page.messages

    @asynccontextmanager
    async def ahead(self, chat: int, peer: Any, first: int) -> AsyncIterator[None]:
        """Fetches the page from `first` on beside what happens inside."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetch(chat, peer, first))
            yield

    async def _fetch(self, chat: int, peer: Any, first: int) -> None:
        asked_at = time.monotonic()
        try:
            answer, messages = await page_from(self._ask, peer, first)
        except (errors.RPCError, OSError):
            return  # whoever needs the page asks again, and meets the error if there still is one
        self._ahead = _Page(chat, first, asked_at, answer, messages)


def _stale(page: _Page) -> bool:
    return time.monotonic() - page.asked_at > FRESH_SECONDS
