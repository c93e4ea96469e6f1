"""The smallest world a wire can serve: configuration, an echo and an error, with what it was asked kept."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.network import ConnectionTcpFull
from telethon.sessions import MemorySession, Session
from telethon.tl import functions, types

from gateway.sandbox.backend import ClientSession, RpcError
from gateway.sandbox.wire import WireServer

COUNTS = """
    chat_size_max megagroup_size_max forwarded_count_max online_update_period_ms offline_blur_timeout_ms
    offline_idle_timeout_ms online_cloud_timeout_ms notify_cloud_delay_ms notify_default_delay_ms
    push_chat_period_ms push_chat_limit edit_time_limit revoke_time_limit revoke_pm_time_limit rating_e_decay
    stickers_recent_limit channels_read_media_period call_receive_timeout_ms call_ring_timeout_ms
    call_connect_timeout_ms call_packet_timeout_ms caption_length_max message_length_max webfile_dc_id
"""


class TinyBackend:
    """Answers a few requests; `calls` counts them by class name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.open: list[ClientSession] = []
        self.opened_times = 0
        self.changed = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.layers: list[int] = []
        self.order: list[str] = []
        self.wire: WireServer

    async def call(self, session: ClientSession, request: Any) -> Any:
        self.calls[type(request).__name__] += 1
        self.layers.append(session.layer)
        if isinstance(request, functions.help.GetConfigRequest):
            return config(self.wire)
        if isinstance(request, functions.contacts.ResolveUsernameRequest):
            await self.gate.wait()
            self.order.append(request.username)
            return types.contacts.ResolvedPeer(types.PeerUser(len(request.username)), [], [])
        if isinstance(request, functions.account.UpdateStatusRequest):
            self.order.append("status")
            return True
        if isinstance(request, functions.messages.GetCustomEmojiDocumentsRequest):
            return [types.DocumentEmpty(document_id) for document_id in request.document_id]
        if isinstance(request, functions.users.GetUsersRequest):
            raise RpcError(401, "AUTH_KEY_UNREGISTERED")
        if isinstance(request, functions.contacts.GetBlockedRequest):
            raise RpcError(420, "FLOOD_WAIT_77")
        if isinstance(request, functions.help.GetNearestDcRequest):
            raise KeyError("a mistake in the world")
        raise RpcError(400, "METHOD_INVALID")

    def opened(self, session: ClientSession) -> None:
        self.open.append(session)
        self.opened_times += 1
        self.changed.set()

    def closed(self, session: ClientSession) -> None:
        self.open.remove(session)
        self.changed.set()

    async def until_open(self, count: int) -> None:
        while len(self.open) != count:
            self.changed.clear()
            await self.changed.wait()


def config(wire: WireServer) -> types.Config:
    """A configuration whose only data center is the wire itself."""
    now = datetime.now(UTC).replace(microsecond=0)
    counts = dict.fromkeys(COUNTS.split(), 200)
    return types.Config(
        date=now,
        expires=now + timedelta(hours=1),
        test_mode=False,
        this_dc=2,
        dc_options=[types.DcOption(2, wire.host, wire.port)],
        dc_txt_domain_name="",
        me_url_prefix="https://t.me/",
        **counts,
    )


def telethon_client(
    wire: WireServer, session: Session | None = None, connection: Any = ConnectionTcpFull, **options: Any
) -> TelegramClient:
    """An unmodified Telethon client; only the address and the server's public key are ours."""
    rsa.add_key(wire.public_key_pem, old=False)
    if session is None:
        session = MemorySession()
    session.set_dc(2, wire.host, wire.port)
    retries = {"retry_delay": 0, "connection_retries": 3}
    return TelegramClient(session, 1, "hash", connection=connection, **(retries | options))
