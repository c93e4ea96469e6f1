"""Compares every dialog with what the account has tracked, and has what is missing fetched.

The stream alone is not enough: Telegram does not always push big channels to a passive session, a loss at
the tail shows only with the next push, and a channel's pts and access hash come with the dialogs.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import structlog
from telethon import errors, utils
from telethon.tl import functions, types

from gateway.telegram.client import GatewayClient

log = structlog.get_logger()

PAGE = 100  # the most Telegram gives a request
_BEGINNING = datetime.fromtimestamp(0, UTC)


async def reconcile(client: GatewayClient) -> int:
    """Goes through all dialogs once; returns how many channels were behind.

    New channels are tracked from their present pts on, the others are compared with it.
    """
    box = client.message_box
    behind: set[int] = set()
    async for dialogs in _dialog_pages(client):
        for dialog in dialogs:
            if isinstance(dialog, types.Dialog) and isinstance(dialog.peer, types.PeerChannel) and dialog.pts:
                channel = dialog.peer.channel_id
                known = box.map.get(channel)
                box.unreachable.discard(channel)
                if known is None:
                    box.try_set_channel_state(channel, dialog.pts)
                elif known.pts < dialog.pts:
                    behind.add(channel)
    if box.unreachable:
        # Not among the dialogs: left, or never a member. Their pushes are captured without gap detection.
        log.info("channels_not_in_dialogs", account=client.account, count=len(box.unreachable))
        box.unreachable.clear()
    if behind:
        client.resync(*behind)
    return len(behind)


async def _dialog_pages(client: GatewayClient) -> AsyncIterator[list[Any]]:
    offset_date: datetime = _BEGINNING
    offset_id = 0
    offset_peer: Any = types.InputPeerEmpty()
    while True:
        answer = await _patiently(
            client,
            functions.messages.GetDialogsRequest(
                offset_date=offset_date, offset_id=offset_id, offset_peer=offset_peer, limit=PAGE, hash=0
            ),
        )
        client.learn(answer.users, answer.chats)
        yield answer.dialogs
        if not isinstance(answer, types.messages.DialogsSlice) or len(answer.dialogs) < PAGE:
            return
        entities = {utils.get_peer_id(entity): entity for entity in (*answer.users, *answer.chats)}
        dates = {(utils.get_peer_id(m.peer_id), m.id): m.date for m in answer.messages if hasattr(m, "date")}
        for dialog in reversed(answer.dialogs):
            marked = utils.get_peer_id(dialog.peer)
            if (marked, dialog.top_message) in dates and marked in entities:
                offset_date = dates[marked, dialog.top_message]
                offset_id = dialog.top_message
                offset_peer = utils.get_input_peer(entities[marked])
                break
        else:
            return


async def _patiently(client: GatewayClient, request: Any) -> Any:
    while True:
        try:
            return await client(request)
        except errors.FloodWaitError as error:
            await asyncio.sleep(error.seconds + random.uniform(0.1, 1.0))
