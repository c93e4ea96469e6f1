"""One account's Telethon client, made to lose nothing: every update passes one hook, in order.

Pushed updates and fetched differences meet in `_preprocess_updates`. The hook gives them to the intake,
which commits them in one transaction with the update state that follows from them. Everything private that
is touched here is listed in docs/decisions/0002-telethon-hook.md and checked when the module is loaded.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
import telethon
from telethon import TelegramClient, errors
from telethon._updates import Entity, EntityType
from telethon._updates.session import SessionState
from telethon.tl import functions, types

from gateway import __version__
from gateway.journal import AccountState, LedgerChanges
from gateway.telegram.chats import ChatFilter, Directory, channel_of, is_channel, marked
from gateway.telegram.convert import Converter
from gateway.telegram.dialogs import newest_account_id
from gateway.telegram.intake import ChatOf, Commit, Intake
from gateway.telegram.intake_queue import IntakeQueue
from gateway.telegram.message_box import ACCOUNT, GatewayMessageBox, Resync
from gateway.telegram.requests import PatientClient
from gateway.telegram.session import GatewaySession

log = structlog.get_logger()

FLUSH_SECONDS: Final = 5.0
_ENTITY_CACHE_LIMIT: Final = 100_000
UNDECODABLE_LIMIT: Final = 3  # answers in a row, after which a difference is left to the ledger
_DIFFERENCE_REQUESTS = (
    functions.updates.GetDifferenceRequest,
    functions.updates.GetChannelDifferenceRequest,
)
_SKIPPING = (types.updates.DifferenceTooLong, types.updates.ChannelDifferenceTooLong)
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


class GatewayClient(PatientClient):
    """A connection's life: made anew for every connection, from what the journal holds.

    Telethon's own reconnecting is off (it asks for no difference afterwards): a lost connection ends the
    client, and the account starts the next one from the last committed state, just as after a crash.

    `commit` returns when a batch is durable.
    """

    def __init__(
        self,
        account: str,
        session: GatewaySession,
        api_id: int,
        api_hash: str,
        *,
        commit: Commit,
        chat_of: ChatOf,
        wanted: ChatFilter,
        directory: Directory,
        access_hashes: dict[int, int],
    ) -> None:
        super().__init__(
            account,
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
        self.intake = Intake(account, commit=commit, chat_of=chat_of, wanted=wanted, snapshot=self._snapshot)
        self.wanted = wanted
        # Channels (unmarked ids) that updates spoke of but that are not among the dialogs.
        self.unreadable: set[int] = set()
        self._directory = directory
        self._converter: Converter | None = None
        self._hashes = dict(access_hashes)
        self._new_hashes: dict[int, int] = {}
        self._people: dict[int, int] = {}
        self._undecodable: Counter[int | None] = Counter()  # by channel, None: the account's own sequence

        self._message_box = GatewayMessageBox(self._log["messagebox"], account)
        queue = self._updates_queue = self._sender._updates_queue = IntakeQueue(account)
        handle_update = self._sender._handle_update

        async def fair_handle_update(message: Any) -> None:
            await handle_update(message)
            await queue.give_way()

        self._sender._handle_update = fair_handle_update
        for channel, access_hash in access_hashes.items():
            self._mb_entity_cache.put(Entity(EntityType.CHANNEL, channel, access_hash))
        handlers = self._sender._handlers
        created = handlers[types.NewSessionCreated.CONSTRUCTOR_ID]

        async def session_created(message: Any) -> None:
            await created(message)
            # Pushes before it may be lost.
            self.message_box.ask_comparison()

        handlers[types.NewSessionCreated.CONSTRUCTOR_ID] = session_created

    # -- what the account asks of it

    async def identify(self) -> Any:
        """Asks who this is; until then updates wait. Raises UnauthorizedError when it is nobody any more."""
        me = (await self(functions.users.GetUsersRequest([types.InputUserSelf()])))[0]
        self._mb_entity_cache.set_self_user(me.id, me.bot, me.access_hash)
        self.wanted.user_id = me.id
        self._directory.learn([me], [])
        self._converter = Converter(self.account, me.id, self._directory)
        return me

    async def run_intake(self) -> None:
        """Commits updates until cancelled; `identify` comes first. Raises what the journal raises."""
        await self.intake.run(self.converter, self.user_id)

    def resync(self, *channels: int) -> None:
        """Has the account's difference, and those of `channels`, fetched."""
        self._updates_queue.put_nowait(Resync(channels))

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

    def meet(self, people: Sequence[Any]) -> None:
        """Takes the access hashes of those whom the account has a dialog with."""
        for user in people:
            if isinstance(user, types.User) and user.access_hash and not user.min:
                self._people[user.id] = user.access_hash

    def input_peer(self, chat: int) -> Any:
        """The chat (marked id) as requests name it, or None while its access hash is unknown."""
        if is_channel(chat):
            access_hash = self._hashes.get(channel_of(chat))
            return None if access_hash is None else types.InputPeerChannel(channel_of(chat), access_hash)
        if chat < 0:
            return types.InputPeerChat(-chat)
        access_hash = self._people.get(chat)
        return None if access_hash is None else types.InputPeerUser(chat, access_hash)

    async def resolve(self, chat: str) -> int | None:
        """The marked id of a chat given as one or as @name; None for a name that nobody has.

        Raises RPCError.
        """
        if not chat.startswith("@"):
            return int(chat)
        try:
            answer = await self(functions.contacts.ResolveUsernameRequest(chat[1:]))
        except errors.UsernameNotOccupiedError:
            return None
        self.learn(answer.users, answer.chats)
        self.meet(answer.users)
        return marked(answer.peer)

    @property
    def converter(self) -> Converter:
        """Makes this account's events; there is one after `identify`."""
        assert self._converter is not None
        return self._converter

    @property
    def user_id(self) -> int:
        """Whose account this is; known after `identify`."""
        return int(self._mb_entity_cache.self_id)

    @property
    def is_bot(self) -> bool:
        """Bots have no dialogs and no history; known after `identify`."""
        return bool(self._mb_entity_cache.self_bot)

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
        """Disconnects, then commits what had been received, unless the journal has no room for it."""
        await self.disconnect()
        ended = self._sender._disconnected
        if ended.done() and not ended.cancelled():
            ended.exception()  # the account knows it already; unasked for, asyncio logs it as an error
        if self._converter is not None and self._updates_error is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.intake.flush(self._converter, self.user_id)

    # -- what Telethon calls

    async def _ask(self, request: Any, ordered: bool, flood_sleep_threshold: Any) -> Any:
        if not isinstance(request, _DIFFERENCE_REQUESTS):
            return await super()._ask(request, ordered, flood_sleep_threshold)
        # Telethon would sleep and try again here, and hold up every other chat meanwhile.
        return await self._difference(request)

    async def _difference(self, request: Any) -> Any:
        """The difference; one that cannot be decoded time and again is skipped, and left to the ledger."""
        channel = getattr(request, "channel", None)
        sequence = channel and channel.channel_id
        skipped = False
        try:
            difference = await self._sender.send(request)
        except errors.TypeNotFoundError:
            self._undecodable[sequence] += 1
            if self._undecodable[sequence] < UNDECODABLE_LIMIT:
                raise
            log.error("difference_skipped", account=self.account, channel=sequence)  # noqa: TRY400
            skipped = True
            if channel is None:
                state = await self(functions.updates.GetStateRequest())
                difference = types.updates.DifferenceTooLong(state.pts)
            else:
                full = (await self(functions.channels.GetFullChannelRequest(channel))).full_chat
                difference = types.updates.ChannelDifferenceEmpty(full.pts, final=True)
        if isinstance(difference, types.updates.DifferenceTooLong):
            # Asked before the state moves on: it tells how far what is skipped here reaches.
            difference.newest_id = 0 if self.is_bot else await newest_account_id(self)
        if isinstance(difference, _SKIPPING) or skipped:
            # What came before it may have changed unseen, and is looked at again as far as it is committed.
            await self.intake.checkpoint()
        if skipped and channel is not None:
            self.message_box.note_skipped(channel.channel_id)
        del self._undecodable[sequence]
        return difference

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
        """The hook. Runs to `intake.add` in the instant in which the sequencer's state has moved."""
        try:
            for update in updates:
                if isinstance(update, types.UpdateChannel):
                    self.message_box.ask_dialogs(update.channel_id)
            self.learn(users, chats)
            self.intake.add(updates)
        except Exception:
            self.intake.abandon()
            raise
        await self.intake.wait_room()
        return ()

    def _snapshot(self) -> tuple[AccountState | None, dict[int, int], LedgerChanges]:
        if self._updates_error is not None:
            # The sequencer failed half way: its state may cover updates that never came out of it.
            self.intake.abandon()
            raise self._updates_error
        hashes, self._new_hashes = self._new_hashes, {}
        box = self.message_box
        pts, qts = box.account_state()
        state = AccountState(pts, qts, box.date, box.seq, box.take_dirty()) if pts else None
        return state, hashes, self.wanted.of_captured(box.take_skipped())

    async def _save_states_and_entities(self) -> None:
        """Nothing: the journal holds the state, committed with the events it follows from."""

    async def _handle_auto_reconnect(self) -> None:
        """Never called: reconnecting is the account's, with a client made anew."""
