"""One account's life: connect, catch up, stay connected; when the line drops, start over from the journal."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from typing import Any, Literal, get_args

import structlog
from telethon import errors
from telethon.errors import AuthKeyNotFound
from telethon.tl import functions, types

from gateway import metrics
from gateway.errors import LeaseLost, SessionDead
from gateway.handover import Handover
from gateway.journal import Batch, GapSource, Journal
from gateway.lease import AccountLease, NoLease
from gateway.tasks import run_together
from gateway.telegram.backfill import Backfill
from gateway.telegram.chats import ChatFilter, Directory, Switches
from gateway.telegram.client import GatewayClient
from gateway.telegram.dialogs import patiently, read_dialogs
from gateway.telegram.reasons import UndecodableAnswer, reason
from gateway.telegram.reconcile import Reconciled, reconcile
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import GatewaySession, SessionDirectory, StoredSession

log = structlog.get_logger()

CONNECT_SECONDS = 30.0  # a connection that is not up by then is given up
RECONCILE_SECONDS = 300.0
PROBE_SECONDS = 30.0  # with ANSWER_SECONDS: a silent line is replaced within 50 s
ANSWER_SECONDS = 20.0
READY_SECONDS = 60.0  # after which the dialogs hold up the readiness of the service no longer
RETRY_SECONDS = 2.0  # before a failed difference is asked for again
FIRST_PAUSE_SECONDS = 0.2  # before the next connection; doubles up to the longest
LONGEST_PAUSE_SECONDS = 30.0
SETTLED_SECONDS = 10.0  # a connection that held this long starts the pauses anew
STUCK_SECONDS = 30.0  # an intake that holds one batch for longer no longer counts as alive

# Final by Telegram's definition: asking again never helps (https://core.telegram.org/api/errors).
_DEAD = (errors.UnauthorizedError, errors.AuthKeyDuplicatedError, AuthKeyNotFound)
# InvalidBufferError is a transport error, such as -429: Telegram wants to hear less of us.
_LINE_LOST = (OSError, EOFError, TimeoutError, errors.RPCError, errors.InvalidBufferError, LeaseLost)


class _StartOver(ConnectionError):
    """The account's last host left where it stood; this connection began at the present."""


@dataclass
class AccountHealth:
    """What `status` and the health endpoint say of an account; `since` is a Unix time."""

    account: str
    state: Literal["connecting", "connected", "waiting", "dead"] = "connecting"
    reason: str | None = None
    since: float = 0.0
    user_id: int | None = None
    channels: int = 0
    reconnects: int = 0
    open_gaps: int = 0
    lease_epoch: int | None = None


class Account:
    """Runs one account until it is cancelled.

    Backfill awaits `room` before each page; `beside` runs as long as each of the connections.
    """

    def __init__(
        self,
        name: str,
        sessions: SessionDirectory,
        journal: Journal,
        *,
        api_id: int,
        api_hash: str,
        server: ServerAddress | None = None,
        chats: tuple[str, ...] = (),
        switches: Switches | None = None,
        lease: AccountLease | NoLease | None = None,
        handover: Handover | None = None,
        room: Callable[[], Awaitable[None]],
        beside: Callable[[GatewayClient], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.name = name
        self.lease = lease or NoLease()
        self._handover = handover
        self._sessions = sessions
        self._journal = journal
        self._api = (api_id, api_hash)
        self._server = server
        self._room = room
        self._beside = beside
        self._directory = Directory()
        self._wanted = ChatFilter(chats, self._directory, switches)
        self._intake_since: float | None = None
        self._comparisons: list[asyncio.Future[Reconciled]] = []
        self.health = AccountHealth(name, since=time.time())
        self.client: GatewayClient | None = None  # while it is connected
        self.ready = asyncio.Event()
        self.settled = asyncio.Event()  # ready, dead, or another host's: nothing more comes of waiting
        # An alert, or a rate, of what never happened yet needs a 0 to begin with.
        for series in (
            metrics.CONNECTION_UP,
            metrics.SESSION_DEAD,
            metrics.RECONNECTS,
            metrics.OPEN_GAPS,
        ):
            series.labels(name)
        for source in get_args(GapSource):
            metrics.GAPS_OPENED.labels(name, source)
        for result in ("captured", "absent"):
            metrics.BACKFILLED.labels(name, result)

    async def run(self) -> None:
        """Connects, and again whenever the connection is lost, for ever.

        Raises SessionError when the session file cannot be used, SessionDead when Telegram refuses it for
        good, JournalError when a batch could not be committed.
        """
        with self._sessions.lock(self.name):
            stored = self._sessions.load(self.name)
            if self._server is not None:
                stored = self._server.redirect(stored)
            pause = FIRST_PAUSE_SECONDS
            while True:
                await self.lease.acquire(stored.auth_key, self._stand_by)
                await self._adopt()
                lost = await self._one_connection(stored)
                if isinstance(lost, LeaseLost):
                    self._stand_by(str(lost))
                    continue
                if isinstance(lost, _StartOver):
                    continue
                was_up = self.health.state == "connected"
                if was_up and time.time() - self.health.since > SETTLED_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                else:
                    pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                delay = pause * random.uniform(0.5, 1.5)
                if isinstance(lost, errors.FloodWaitError):
                    delay += lost.seconds
                self._set_state("waiting", reason(lost))
                log.warning(
                    "connection_lost" if was_up else "connection_failed",
                    account=self.name,
                    server=f"{stored.server_address}:{stored.port}",
                    reason=self.health.reason,
                    retry_seconds=round(delay, 1),
                )
                await asyncio.sleep(delay)
                if was_up:
                    self.health.reconnects += 1
                    metrics.RECONNECTS.labels(self.name).inc()

    def intake_alive(self) -> bool:
        """False when one batch has been on its way into the journal for too long."""
        return self._intake_since is None or time.monotonic() - self._intake_since < STUCK_SECONDS

    async def compare_now(self) -> Reconciled:
        """Has all dialogs compared, and returns what that found; waits for a connection."""
        done: asyncio.Future[Reconciled] = asyncio.get_running_loop().create_future()
        self._comparisons.append(done)
        if self.client is not None:
            self.client.message_box.ask_comparison()
        return await done

    async def _one_connection(self, stored: StoredSession) -> Exception:
        """Connects, stays connected, and returns what ended the connection."""
        client = await self._new_client(stored)
        try:
            await run_together(self.lease.until_lost(), self._use(client))
        except _DEAD as error:
            raise self._dead(error) from None
        except _LINE_LOST as error:
            return error
        finally:
            self.client = None
            metrics.CONNECTION_UP.labels(self.name).set(0)
            await client.stop()
        return ConnectionError("the connection was closed")

    async def _use(self, client: GatewayClient) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect()
            me = await client.identify()
        try:
            await self._begin(me.id)
        except BaseException:
            # The state that this connection began with is not the account's as long as another host runs it.
            client.intake.abandon()
            raise
        self.client = client
        self._set_state("connected", None)
        self.health.user_id = me.id
        metrics.CONNECTION_UP.labels(self.name).set(1)
        log.info("connected", account=self.name, user_id=me.id)
        # The service has started, even if Telegram lets the dialogs wait for longer than systemd would.
        asyncio.get_running_loop().call_later(READY_SECONDS, self.settled.set)
        if self._wanted.by_name and not me.bot and not self.ready.is_set():
            # Until a chat's name is known, what comes from it could not be told from what nobody wants.
            with suppress(UndecodableAnswer):
                async for answer, _ in read_dialogs(partial(patiently, client)):
                    client.learn(answer.users, answer.chats)
        await run_together(
            client.run_intake(),
            self._until_disconnected(client),
            self._keep_in_step(client, bot=bool(me.bot)),
            self._retry_differences(client),
            self._probe(client),
            Backfill(client, self._journal, self._room).run(),
            *((self._beside(client),) if self._beside else ()),
        )

    async def _begin(self, user_id: int) -> None:
        await self.lease.acquire_user(user_id)
        if await self._adopt():
            raise _StartOver

    async def _adopt(self) -> bool:
        return self._handover is not None and await self._handover.adopt(self._stand_by)

    async def _new_client(self, stored: StoredSession) -> GatewayClient:
        state, access_hashes = await self._journal.load_state(self.name)
        states = {}
        if state is not None:
            date = state.date.astimezone(UTC)
            states[0] = types.updates.State(state.pts, state.qts, date, state.seq, unread_count=0)
            for channel, pts in state.channels.items():
                states[channel] = types.updates.State(pts, 0, date, 0, unread_count=0)
        return GatewayClient(
            self.name,
            GatewaySession(stored, states, access_hashes),
            *self._api,
            commit=self._commit,
            chat_of=self._journal.chat_of,
            wanted=self._wanted,
            directory=self._directory,
            access_hashes=access_hashes,
        )

    async def _commit(self, batch: Batch) -> None:
        self._intake_since = time.monotonic()
        try:
            await self._journal.append(batch)
        finally:
            self._intake_since = None

    async def _until_disconnected(self, client: GatewayClient) -> None:
        """Returns never: raises what ended the connection."""
        disconnected = client.disconnected
        await asyncio.wait((disconnected,))
        if client.updates_error is not None:
            raise client.updates_error
        await disconnected
        raise ConnectionError("the connection was closed")

    async def _keep_in_step(self, client: GatewayClient, *, bot: bool) -> None:
        """Compares with the dialogs at start, when asked for, and every few minutes."""
        box = client.message_box
        failures = 0
        while True:
            box.compare = False
            if bot:
                box.unreachable.clear()  # bots have no dialogs to ask (BOT_METHOD_INVALID)
            else:
                failures = 0 if await self._reconcile(client) else failures + 1
            if not self.ready.is_set():
                await client.intake.checkpoint()
                self.ready.set()
                self.settled.set()
            if failures:
                await asyncio.sleep(min(RETRY_SECONDS * 2 ** min(failures, 10), RECONCILE_SECONDS))
                continue
            try:
                async with asyncio.timeout(RECONCILE_SECONDS):
                    while not (box.unreachable or box.compare):
                        await box.attention.wait()
                        box.attention.clear()
                        await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
            except TimeoutError:
                continue

    async def _retry_differences(self, client: GatewayClient) -> None:
        """Has failed differences fetched again, whatever the dialogs have to wait for."""
        while True:
            await client.message_box.failed.wait()
            client.message_box.failed.clear()
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
            client.retry_failed()

    async def _reconcile(self, client: GatewayClient) -> bool:
        """Returns whether Telegram gave the dialogs."""
        waiting = list(self._comparisons)
        try:
            found = await reconcile(client, self._journal)
        except _DEAD:
            raise
        except errors.RPCError as error:
            log.warning("reconcile_failed", account=self.name, reason=reason(error))
            return False
        self._comparisons = [done for done in self._comparisons if done not in waiting]
        for done in waiting:
            if not done.done():
                done.set_result(found)
        self.health.channels = client.channels_tracked
        metrics.CHANNELS_TRACKED.labels(self.name).set(self.health.channels)
        log.info(
            "reconciled",
            account=self.name,
            channels=self.health.channels,
            behind=found.behind,
            missing=found.missing,
        )
        return True

    async def _probe(self, client: GatewayClient) -> None:
        """Asks for the account's state: notices a silent line, a revoked login, and a loss at the tail."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    state = await client(functions.updates.GetStateRequest())
            except _DEAD:
                raise
            except errors.RPCError as error:
                log.warning("probe_failed", account=self.name, reason=reason(error))
                continue
            if state.pts > client.message_box.account_state()[0]:
                client.resync()

    def _stand_by(self, reason: str) -> None:
        self._set_state("waiting", reason)
        self.settled.set()

    def _set_state(
        self, state: Literal["connecting", "connected", "waiting", "dead"], reason: str | None
    ) -> None:
        if state != self.health.state:
            self.health.since = time.time()
        self.health.state, self.health.reason = state, reason
        self.health.lease_epoch = self.lease.epoch

    def _dead(self, error: Exception) -> SessionDead:
        self._set_state("dead", reason(error))
        metrics.SESSION_DEAD.labels(self.name).set(1)
        return SessionDead(
            f"Telegram refuses the session of account {self.name!r} for good ({reason(error)}); "
            f"log in again with: telegram-gateway login --account {self.name}"
        )
