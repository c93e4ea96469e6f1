"""The account's list of dialogs: every chat it is in, with its newest message and update state."""

import random
from asyncio import sleep
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from telethon import errors, utils
from telethon.tl import functions, types

from gateway.telegram.chats import marked
from gateway.telegram.reasons import UndecodableAnswer

PAGE = 100  # the most Telegram gives a request
_BEGINNING = datetime.fromtimestamp(0, UTC)

Ask = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ChatDialog:
    """One chat as the dialogs show it. `pts` is known of channels and supergroups, `joined` while in one."""

    chat: int  # marked id
    top_message: int
    pts: int | None
    joined: datetime | None
    pinned: bool


async def read_dialogs(ask: Ask) -> AsyncIterator[tuple[Any, list[ChatDialog]]]:
    """Each answer of Telegram with the chats in it, the most recently used first.

    Raises RPCError when Telegram refuses, FloodWaitError among others, and UndecodableAnswer once all
    chats are told that come before one whose newest message cannot be decoded.
    """
    offset_date: datetime = _BEGINNING
    offset_id = 0
    offset_peer: Any = types.InputPeerEmpty()
    seen: set[int] = set()
    limit = PAGE
    while True:
        try:
            answer = await ask(
                functions.messages.GetDialogsRequest(
                    offset_date=offset_date, offset_id=offset_id, offset_peer=offset_peer, limit=limit, hash=0
                )
            )
        except UndecodableAnswer:
            if limit == 1:
                raise
            limit //= 2
            continue
        entities = {utils.get_peer_id(entity): entity for entity in (*answer.users, *answer.chats)}
        yield (
            answer,
            [_described(dialog, entities) for dialog in answer.dialogs if isinstance(dialog, types.Dialog)],
        )
        seen |= {utils.get_peer_id(dialog.peer) for dialog in answer.dialogs}
        # A page that is not full is not always the last.
        if not isinstance(answer, types.messages.DialogsSlice) or (
            len(answer.dialogs) < limit and (not answer.dialogs or len(seen) >= answer.count)
        ):
            return
        dates = {(utils.get_peer_id(m.peer_id), m.id): m.date for m in answer.messages if hasattr(m, "date")}
        for dialog in reversed(answer.dialogs):
            chat = utils.get_peer_id(dialog.peer)
            if (chat, dialog.top_message) in dates and chat in entities:
                offset_date = dates[chat, dialog.top_message]
                offset_id = dialog.top_message
                offset_peer = utils.get_input_peer(entities[chat])
                break
        else:
            return


async def newest_account_id(ask: Ask) -> int:
    """The newest message id of private chats and basic groups, which count together; 0 if none is known."""
    newest = 0
    with suppress(UndecodableAnswer):  # the comparison of all dialogs finds it later
        async for _, dialogs in read_dialogs(ask):
            counted = [dialog for dialog in dialogs if dialog.pts is None]
            newest = max([newest, *(dialog.top_message for dialog in counted)])
            # Behind the pinned ones they come by the date of their newest message, so that the first is it.
            if any(not dialog.pinned for dialog in counted):
                break
    return newest


async def patiently(ask: Ask, request: Any) -> Any:
    """Telegram's answer, however often it tells to wait before."""
    while True:
        try:
            return await ask(request)
        except errors.FloodWaitError as error:
            await sleep(error.seconds + random.uniform(0.1, 1.0))


def _described(dialog: Any, entities: dict[int, Any]) -> ChatDialog:
    chat = marked(dialog.peer)
    is_channel = isinstance(dialog.peer, types.PeerChannel)
    entity = entities.get(chat)
    joined = entity.date if isinstance(entity, types.Channel) and not entity.left else None
    return ChatDialog(
        chat, dialog.top_message, (dialog.pts or 0) if is_channel else None, joined, bool(dialog.pinned)
    )
