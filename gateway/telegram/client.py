"""One account's Telethon client, made to lose nothing: every update passes one awaited hook, in order.

Pushed updates and fetched differences meet in `_preprocess_updates`. The hook turns them into events and
awaits the journal, in one transaction with the update state that follows from them; only then does
Telethon go on. Everything private that is touched here is listed in docs/decisions/0002-telethon-hook.md
and checked when the module is loaded.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog
import telethon
from telethon import TelegramClient, errors
from telethon._updates import Entity, EntityType
from telethon._updates.session import SessionState
from telethon.tl import functions, types

from gateway import __version__, metrics
from gateway.event import Event, utc_now
from gateway.journal import AccountState, Batch
from gateway.telegram.chats import Directory
from gateway.telegram.convert import Converter
from gateway.telegram.intake_queue import IntakeQueue
from gateway.telegram.message_box import ACCOUNT, GatewayMessageBox, Resync
from gateway.telegram.session import GatewaySession

log = structlog.get_logger()

Intake = Callable[[Batch], Awaitable[None]]
ChatOf = Callable[[int, Sequence[int]], Awaitable[dict[int, tuple[str, str]]]]
Wanted = Callable[[Event], bool]

# Update state that moved without a message (reads, typing) is written along at least this often.
STATE_FLUSH_SECONDS: Final = 5.0
_ENTITY_CACHE_LIMIT: Final = 100_000
_DIFFERENCE_REQUESTS = (
    functions.updates.GetDifferenceRequest,
    functions.updates.GetChannelDifferenceRequest,
)
_EXPECTED = {
    "_preprocess_updates": "(self, updates, users, chats)",
    "_save_states_and_entities": "(self: 'TelegramClient')",
    "_on_login": "(self, user)",
    "_handle_auto_reconnect": "(self: 'TelegramClient')",
}


def check_telethon() -> None:
    """Raises RuntimeError when the installed Telethon is not the one this module was written for."""
    if not telethon.__version__.startswith("1.45."):
        raise RuntimeError(f"Telethon {telethon.__version__} is installed; this gateway needs 1.45.*")
    for name, signature in _EXPECTED.items():
        found = str(inspect.signature(getattr(TelegramClient, name)))
        if found != signature:
            raise RuntimeError(f"TelegramClient.{name} is {found}, not {signature}; install telethon==1.45.*")


check_telethon()


class GatewayClient(TelegramClient):  # type: ignore[misc]  # untyped base
    """A connection's life: made anew for every connection, from what the journal holds.

    Telethon's own reconnecting is off (it asks for no difference afterwards): a lost connection ends the
    client, and the account starts the next one from the last committed state, just as after a crash.

    `intake` commits a batch and returns when it is durable; what it raises ends up in `failure`.
    """

    def __init__(
        self,
        account: str,
        session: GatewaySession,
        api_id: int,
        api_hash: str,
        *,
        intake: Intake,
        chat_of: ChatOf,
        wanted: Wanted,
        directory: Directory,
        access_hashes: dict[int, int],
    ) -> None:
        super().__init__(
            session,
            api_id,
            api_hash,
            app_version=f"telegram-gateway {__version__}",
            auto_reconnect=False,
            connection_retries=0,
            request_retries=1,
            raise_last_call_error=True,
            flood_sleep_threshold=0,
            catch_up=True,
            entity_cache_limit=_ENTITY_CACHE_LIMIT,
        )
        self.account = account
        self._intake = intake
        self._chat_of = chat_of
        self._wanted = wanted
        self._directory = directory
        self._converter: Converter | None = None
        self._identified = asyncio.Event()
        self._hashes = dict(access_hashes)
        self._new_hashes: dict[int, int] = {}
        self._flushed_at = 0.0
        self._checkpoint: asyncio.Future[None] | None = None
        self._flood_until: dict[str, float] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._new_session = False

        self._message_box = GatewayMessageBox(self._log["messagebox"], account)
        self._updates_queue = self._sender._updates_queue = IntakeQueue(account)
        for channel, access_hash in access_hashes.items():
            self._mb_entity_cache.put(Entity(EntityType.CHANNEL, channel, access_hash))
        handlers = self._sender._handlers
        created = handlers[types.NewSessionCreated.CONSTRUCTOR_ID]

        async def session_created(message: Any) -> None:
            await created(message)
            self._new_session = True
            self.message_box.attention.set()

        handlers[types.NewSessionCreated.CONSTRUCTOR_ID] = session_created

    # -- what the account asks of it

    async def identify(self) -> Any:
        """Asks who this is; until then updates wait. Raises UnauthorizedError when it is nobody any more."""
        me = (await self(functions.users.GetUsersRequest([types.InputUserSelf()])))[0]
        self._mb_entity_cache.set_self_user(me.id, me.bot, me.access_hash)
        self._directory.learn([me], [])
        self._converter = Converter(self.account, me.id, self._directory)
        self._identified.set()
        return me

    def resync(self, *channels: int) -> None:
        """Has the account's difference, and those of `channels`, fetched."""
        self._updates_queue.put_nowait(Resync(channels))

    async def checkpoint(self) -> None:
        """Commits the present update state, events or none.

        It goes through a difference, because only in the hook is the state known not to be ahead of events
        that are still on their way into the journal.
        """
        self._checkpoint = asyncio.get_running_loop().create_future()
        self.resync()
        await self._checkpoint

    def retry_failed(self) -> None:
        """Has the differences that failed fetched again."""
        waiting = self.message_box.retry
        if waiting:
            self.resync(*(entry for entry in waiting if entry is not ACCOUNT))
            waiting.clear()

    def learn(self, users: Sequence[Any], chats: Sequence[Any]) -> None:
        """Takes names and access hashes from an answer."""
        self._directory.learn(users, chats)
        self._mb_entity_cache.extend((), chats)
        for chat in chats:
            # `min` chats carry a hash that is good for nothing but their photo.
            if (
                isinstance(chat, types.Channel)
                and chat.access_hash
                and not chat.min
                and self._hashes.get(chat.id) != chat.access_hash
            ):
                self._hashes[chat.id] = self._new_hashes[chat.id] = chat.access_hash

    def take_new_session(self) -> bool:
        """Whether Telegram has begun a new session since the last call: pushes before it may be lost."""
        begun, self._new_session = self._new_session, False
        return begun

    @property
    def channels_tracked(self) -> int:
        """How many channels' update state is known."""
        return sum(isinstance(entry, int) for entry in self.message_box.map)

    @property
    def updates_error(self) -> Exception | None:
        """What ended Telethon's update loop, if it was not the connection."""
        error = self._updates_error
        return error if isinstance(error, Exception) else None

    @property
    def message_box(self) -> GatewayMessageBox:
        """The update sequencer."""
        assert isinstance(self._message_box, GatewayMessageBox)
        return self._message_box

    async def stop(self) -> None:
        """Disconnects. A batch on its way into the journal is still committed."""
        await self.disconnect()

    # -- what Telethon calls

    async def __call__(self, request: Any, ordered: bool = False, flood_sleep_threshold: Any = None) -> Any:
        method = type(request).__name__.removesuffix("Request")
        remaining = self._flood_until.get(method, 0.0) - time.monotonic()
        if remaining > 0:
            raise errors.FloodWaitError(request=request, capture=int(remaining) + 1)
        try:
            if isinstance(request, _DIFFERENCE_REQUESTS):
                # Telethon would sleep and try again here, and hold up every other chat meanwhile.
                return await self._sender.send(request)
            return await super().__call__(request, ordered, flood_sleep_threshold)
        except errors.FloodWaitError as error:
            self._flood_until[method] = time.monotonic() + error.seconds
            metrics.FLOOD_WAIT_SECONDS.labels(self.account, method).inc(error.seconds)
            metrics.RPC_ERRORS.labels(self.account, "420").inc()
            log.warning("flood_wait", account=self.account, method=method, seconds=error.seconds)
            raise
        except errors.RPCError as error:
            metrics.RPC_ERRORS.labels(self.account, str(error.code)).inc()
            raise

    async def _on_login(self, user: Any) -> Any:
        """The first connection ever: starts from the account's present state.

        Telethon also fetches a difference here and throws its messages away.
        """
        self._mb_entity_cache.set_self_user(user.id, user.bot, user.access_hash)
        self._authorized = True
        state = await self(functions.updates.GetStateRequest())
        self._message_box.load(
            SessionState(0, 0, 0, state.pts, state.qts, int(state.date.timestamp()), state.seq, 0), []
        )
        return user

    async def _preprocess_updates(self, updates: Any, users: Any, chats: Any) -> Any:
        """The hook. Must not raise: Telethon would disconnect and start over with the batch lost."""
        self.learn(users, chats)
        await self._identified.wait()
        try:
            await self._commit(updates)
        except Exception as error:  # noqa: BLE001  whatever it is, it must end the process, not the update loop
            if not self.failure.done():
                self.failure.set_exception(error)
            await asyncio.Event().wait()
        return ()

    async def _commit(self, updates: Sequence[Any]) -> None:
        events = await self._convert(updates)
        now = time.monotonic()
        stale = self.message_box.dirty and now - self._flushed_at > STATE_FLUSH_SECONDS
        checkpoint, self._checkpoint = self._checkpoint, None
        if not (events or stale or checkpoint):
            return
        self._flushed_at = now
        await self._intake(
            Batch(
                account=self.account,
                events=events,
                state=self._take_state(),
                access_hashes=self._take_hashes(),
            )
        )
        if checkpoint is not None and not checkpoint.done():
            checkpoint.set_result(None)

    async def _convert(self, updates: Sequence[Any]) -> list[Event]:
        assert self._converter is not None
        received_at = utc_now()
        events: list[Event] = []
        for update in updates:
            name = type(update).__name__
            metrics.UPDATES_RECEIVED.labels(self.account, name).inc()
            if isinstance(update, types.UpdateDeleteMessages):
                events += await self._unplaced_deletions(update.messages, events)
            elif isinstance(update, types.UpdateChannel):
                self.message_box.ask_dialogs(update.channel_id)
            else:
                events += self._converter.from_update(update, received_at)
        events = [event for event in events if self._wanted(event)]
        for event in events:
            metrics.EVENTS_RECEIVED.labels(self.account, event.kind, event.source).inc()
        return events

    async def _unplaced_deletions(self, message_ids: Sequence[int], pending: Sequence[Event]) -> list[Event]:
        """Deletions in private chats and basic groups, which Telegram sends without the chat."""
        assert self._converter is not None
        known = await self._chat_of(self._mb_entity_cache.self_id, message_ids)
        for event in pending:
            if event.account_scope:
                known[event.message_id] = (event.channel_id, event.chat_type)
        received_at = utc_now()
        deletions = []
        for message_id in message_ids:
            if message_id in known:
                chat, chat_type = known[message_id]
                deletions.append(self._converter.deleted(int(chat), chat_type, message_id, received_at))  # type: ignore[arg-type]
            else:
                # Never captured, so there is nothing in any sink that it could take away.
                metrics.UPDATES_IGNORED.labels(self.account, "deletion_of_unknown").inc()
        return deletions

    def _take_state(self) -> AccountState | None:
        pts, qts = self.message_box.account_state()
        if not pts:
            return None
        box = self.message_box
        return AccountState(pts, qts, box.date, box.seq, box.take_dirty())

    def _take_hashes(self) -> dict[int, int]:
        taken, self._new_hashes = self._new_hashes, {}
        return taken

    async def _save_states_and_entities(self) -> None:
        """Nothing: the journal holds the state, committed with the events it follows from."""

    async def _handle_auto_reconnect(self) -> None:
        """Never called: reconnecting is the account's, with a client made anew."""
