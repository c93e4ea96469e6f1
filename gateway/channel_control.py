"""Asks the database every two seconds what people want of this gateway: which chats are off, and comparisons.

The database decides nothing here: while it is away, what is off stays off, and requests wait.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

import asyncpg
import structlog

from gateway import metrics
from gateway.channel_switches import ChannelSwitches
from gateway.database import connect
from gateway.database.channel_control import (
    SyncOutcome,
    SyncRequest,
    chats_off,
    open_requests,
    report_requests,
    take_request,
)
from gateway.database.connection import CONNECTION_LOST, Connection
from gateway.errors import ConfigurationError, GatewayError, SinkUnavailable
from gateway.journal import ChatId
from gateway.lease_record import user_lease
from gateway.settings import Settings
from gateway.telegram.account import Account
from gateway.telegram.history import HistoryDesk, HistoryOrder

log = structlog.get_logger()

READ_SECONDS = 2.0
ANSWER_SECONDS = 5.0
FIRST_SECONDS = 2.0  # that a start waits for the first answer; until it comes, what was known last holds
COMPARE_SECONDS = 600.0  # for a comparison, reconnecting and flood waits included
REQUESTS_AT_ONCE = 4
_DATABASE_ERRORS = (asyncpg.PostgresError, *CONNECTION_LOST)


class ChannelControl:
    """One daemon's side of it."""

    def __init__(
        self, settings: Settings, switches: ChannelSwitches, accounts: Sequence[Account], desk: HistoryDesk
    ) -> None:
        self._settings = settings
        self._switches = switches
        self._accounts = accounts
        self._desk = desk
        self._name = str(uuid4())  # another after every restart: what the last run had taken falls free
        self._connection: Connection | None = None
        self._running: dict[tuple[str, str], tuple[SyncRequest, SyncOutcome]] = {}
        self._answers = True
        self._loaded = asyncio.Event()
        self._first_answer = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises JournalError."""
        await self._switches.load()
        self._loaded.set()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._step(group)
                    await asyncio.sleep(READ_SECONDS)
        finally:
            self._close()

    async def wait_first(self) -> None:
        """Returns once the database has said which chats are off, or what was known last has to do."""
        await self._loaded.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await self._first_answer.wait()

    async def _step(self, group: asyncio.TaskGroup) -> None:
        try:
            off, taken = await self._ask()
        except (SinkUnavailable, ConfigurationError) as error:
            if self._answers:
                log.warning("channel_control_unanswered", reason=str(error))
            self._answers = False
            return
        if not self._answers:
            log.info("channel_control_answered_again")
        self._answers = True
        metrics.CONTROL_READ.set(time.time())
        await self._switches.apply(off)
        self._first_answer.set()
        for request, outcome in taken:
            group.create_task(self._carry_out(request, outcome), name="sync request")

    async def _ask(self) -> tuple[set[ChatId], list[tuple[SyncRequest, SyncOutcome]]]:
        """Tells the database how far requests are, and asks it which chats are off and what is wanted."""
        if self._connection is None or self._connection.is_closed():
            password = self._settings.db_password
            self._connection = await connect(
                self._settings.db_dsn.get_secret_value(), password.get_secret_value() if password else None
            )
        connection = self._connection
        # Not a cancelled query: poolers have crashed on those.
        silence = asyncio.get_running_loop().call_later(ANSWER_SECONDS, connection.terminate)
        try:
            off = {ChatId(scope, int(chat)) for scope, chat in await chats_off(connection)}
            reported = list(self._running.items())
            ended = [key for key, (_, outcome) in reported if outcome.state != "running"]
            await report_requests(connection, self._name, [value for _, value in reported])
            for key in ended:
                del self._running[key]
            return off, await self._take(connection)
        except _DATABASE_ERRORS as error:
            self._close()
            raise SinkUnavailable(f"PostgreSQL did not say which chats are off: {error}") from error
        except asyncio.CancelledError:
            self._close()
            raise
        finally:
            silence.cancel()

    async def _take(self, connection: Connection) -> list[tuple[SyncRequest, SyncOutcome]]:
        taken = []
        for request in await open_requests(connection):
            key = (str(request.id), request.lease)
            if key in self._running or len(self._running) >= REQUESTS_AT_ONCE:
                continue
            if self._candidates(request) and await take_request(connection, request, self._name):
                self._running[key] = (request, SyncOutcome())
                taken.append(self._running[key])
        return taken

    def _candidates(self, request: SyncRequest) -> list[Account]:
        """Those connected accounts that can do what is asked for."""
        return [
            account
            for account in self._accounts
            if (client := account.client) is not None
            and (not request.lease or request.lease == user_lease(client.user_id, self._settings.server))
            and request.account_scope in (0, client.user_id)
            and (request.channel_id is None or client.input_peer(int(request.channel_id)) is not None)
        ]

    async def _carry_out(self, request: SyncRequest, outcome: SyncOutcome) -> None:
        try:
            accounts = self._candidates(request)
            if request.channel_id is None or (request.account_scope and request.since is None):
                await self._compare(accounts, outcome)
            else:
                await self._fetch(request, outcome)
        except (GatewayError, OSError, TimeoutError) as error:
            outcome.error = str(error) or f"not finished within {COMPARE_SECONDS:g} s"
            outcome.state = "failed"
        else:
            outcome.state = "done"
        log.info("sync_ended", request=str(request.id), state=outcome.state, result=outcome.result)

    async def _compare(self, accounts: Sequence[Account], outcome: SyncOutcome) -> None:
        if bots := [account.name for account in accounts if account.client and account.client.is_bot]:
            raise GatewayError(f"account {', '.join(bots)} is a bot's; bots have no dialogs to compare")
        async with asyncio.timeout(COMPARE_SECONDS):
            found = await asyncio.gather(*(account.compare_now() for account in accounts))
        outcome.result = {
            "accounts": len(found),
            "channels_behind": sum(one.behind for one in found),
            "gaps_opened": sum(one.missing for one in found),
        }

    async def _fetch(self, request: SyncRequest, outcome: SyncOutcome) -> None:
        assert request.channel_id is not None
        name = next((account.name for account in self._candidates(request)), None)
        order = HistoryOrder(chat=request.channel_id, since=request.since, account=name, to_present=True)
        history = await self._desk.open_history(order)
        async for progress in self._desk.progress(history):
            outcome.result = {"messages": progress.total, "messages_left": progress.left}
        outcome.result["messages_absent"] = await self._desk.absent(history)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
