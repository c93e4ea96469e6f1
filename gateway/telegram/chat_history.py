"""Requests for a chat's history: a page of it from its start, and where a moment or a count lies in it."""

from datetime import datetime
from operator import attrgetter
from typing import Any

from telethon.tl import functions

from gateway.telegram.dialogs import Ask, patiently

PAGE = 100  # the most Telegram gives a request


async def page_from(ask: Ask, peer: Any, first: int) -> tuple[Any, list[Any]]:
    """Telegram's answer, and its messages from id `first` on: up to `PAGE`, the oldest first.

    Raises RPCError, FloodWaitError among others.
    """
    answer = await ask(_history(peer, offset_id=first, add_offset=-PAGE, limit=PAGE))
    found = [message for message in answer.messages if message.id >= first]
    return answer, sorted(found, key=attrgetter("id"))


async def first_id_since(ask: Ask, peer: Any, moment: datetime) -> int:
    """The id from which on a chat's messages are not older than `moment`. Raises RPCError."""
    before = (await patiently(ask, _history(peer, offset_date=moment, limit=1))).messages
    return int(before[0].id) + 1 if before else 1


async def id_before(ask: Ask, peer: Any, last: int, count: int) -> int:
    """The id at which the `count` newest messages up to `last` begin; 1 when there are not as many."""
    request = _history(peer, offset_id=last + 1, add_offset=count - 1, limit=1)
    found = (await patiently(ask, request)).messages
    return int(found[0].id) if found else 1


async def newest_id(ask: Ask, peer: Any) -> int:
    """The id of a chat's newest message; 0 in an empty one."""
    found = (await patiently(ask, _history(peer, limit=1))).messages
    return int(found[0].id) if found else 0


def _history(
    peer: Any,
    *,
    offset_id: int = 0,
    offset_date: datetime | None = None,
    add_offset: int = 0,
    limit: int,
) -> Any:
    return functions.messages.GetHistoryRequest(
        peer=peer,
        offset_id=offset_id,
        offset_date=offset_date,
        add_offset=add_offset,
        limit=limit,
        max_id=0,
        min_id=0,
        hash=0,
    )
