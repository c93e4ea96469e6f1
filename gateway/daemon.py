"""The composition root: the only module that knows all parts, starts them together and stops them in order.

Stop order: intake first, then the journal commits what it holds, then the sinks drain for a bounded time.
What is undelivered by then waits in the journal.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import structlog
from aiohttp import web

from gateway import __version__, metrics
from gateway.backup.stamp import export_stamp
from gateway.channel_control import ChannelControl
from gateway.channel_switches import ChannelSwitches
from gateway.control import serve_control
from gateway.errors import SessionDead
from gateway.handover import Handover
from gateway.health import JournalStatus, OpenGap, OpenGaps, SinkStatus, Status, problems_of
from gateway.http import serve
from gateway.journal import Journal
from gateway.lease import Leases
from gateway.media import MediaDownloads
from gateway.quarantine import QuarantineDesk
from gateway.settings import Settings
from gateway.sinks.enabled import enabled_sinks
from gateway.sinks.runner import SinkRunner
from gateway.systemd import Heartbeat, Notifier, Watchdog
from gateway.tasks import root_cause, run_together
from gateway.telegram.account import Account
from gateway.telegram.chats import Switches
from gateway.telegram.history import HistoryDesk
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import SessionDirectory
from gateway.telegram.session_backup import SessionBackups, keep_backed_up
from gateway.tracing import start_tracing

log = structlog.get_logger()

STATUS_SECONDS = 5.0
HEARTBEAT_SECONDS = 1.0
LOOP_LAG_SECONDS = 0.25
LISTED_GAPS = 500  # there may be one for every chat
# Events that backfill may be ahead of a sink that is up: live messages wait behind them. The two sinks that
# gather need more at once to keep up.
BACKFILL_AHEAD = {"rabbitmq": 25, "redis": 300, "timescaledb": 1_000}
BACKFILL_AHEAD_OF_DOWN = 50_000
LOOK_AGAIN_SECONDS = 1.0  # whether a sink that backfill waits for has gone down meanwhile
# How long each sink gathers records between batches under load. RabbitMQ's readers wait for them; the
# database's and the cache's do so less, and fewer, larger batches cost less each.
_LINGER_SECONDS = {"rabbitmq": 0.002, "redis": 0.03, "timescaledb": 0.1}


class Daemon:
    """Every account and every enabled sink around one journal."""

    def __init__(self, settings: Settings, notifier: Notifier) -> None:
        self._settings = settings
        self._notifier = notifier
        self._stop = asyncio.Event()
        self._ready = False
        self._tracing = start_tracing(settings)
        self._sinks = enabled_sinks(settings)
        self._journal = Journal(
            settings.journal_path,
            max_bytes=settings.journal_max_bytes,
            retention=settings.journal_retention,
            sinks=[sink.name for sink in self._sinks],
            on_journaled=self._tracing.journaled if self._tracing else None,
        )
        api_id, api_hash = settings.require_api_credentials()
        sessions = SessionDirectory.from_settings(settings)
        self._backups = SessionBackups(settings.session_backups, sessions)
        server = ServerAddress.from_settings(settings)
        self._leases = Leases(settings) if settings.lease_enabled else None
        self._media = MediaDownloads.from_settings(settings, self._journal)
        leases = {name: self._leases.account(name) for name in settings.accounts} if self._leases else {}
        self._handovers = {
            name: Handover(name, self._journal, lease, self._stored) for name, lease in leases.items()
        }
        switches = Switches()
        self._accounts = [
            Account(
                name,
                sessions,
                self._journal,
                api_id=api_id,
                api_hash=api_hash,
                server=server,
                chats=settings.chats,
                switches=switches,
                lease=leases.get(name),
                handover=self._handovers.get(name),
                room=self._room_for_history,
                beside=self._media.run_account if self._media else None,
            )
            for name in settings.accounts
        ]
        self._history = HistoryDesk(self._journal, self._accounts, self._drain)
        self._control: ChannelControl | None = None
        if settings.enable_db:
            self._control = ChannelControl(
                settings,
                ChannelSwitches(self._journal, self._accounts, switches),
                self._accounts,
                self._history,
            )
        self._runners: list[SinkRunner] = []

    def stop(self) -> None:
        """Asks for a clean stop; `run` returns once it is done."""
        self._stop.set()

    async def run(self) -> None:
        """Runs until `stop` or SIGTERM/SIGINT.

        Raises what ended it otherwise: SessionDead when no account is left, JournalError when the disk
        failed, ConfigurationError and SessionError at start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        metrics.BUILD_INFO.labels(__version__).set(1)
        export_stamp(self._settings.state_dir)
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._journal)
                await stack.enter_async_context(
                    serve(self._settings.metrics_addr, metrics.REGISTRY, self.status, self.open_gaps)
                )
                self._runners = [
                    SinkRunner(
                        sink,
                        self._journal,
                        linger_seconds=_LINGER_SECONDS[sink.name],
                        tracing=self._tracing,
                    )
                    for sink in self._sinks
                ]
                await stack.enter_async_context(
                    serve_control(self._settings.state_dir, self._control_routes())
                )
                await self._run_parts()
        except BaseExceptionGroup as failures:
            raise root_cause(failures) from None
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            if self._tracing is not None:
                self._tracing.close()

    def _control_routes(self) -> list[web.RouteDef]:
        """What the commands of this host may ask for; each part brings its own."""
        return [
            *QuarantineDesk(self._journal, self._runners).routes(),
            *self._history.routes(),
        ]

    async def status(self) -> Status:
        """The daemon at this moment."""
        stats = await self._journal.stats()
        journal = JournalStatus(
            rows=stats.rows,
            bytes=stats.bytes,
            limit_bytes=self._settings.journal_max_bytes,
            last_seq=self._journal.last_seq,
            full=self._journal.full,
        )
        quarantined = await self._journal.count_quarantined()
        sinks = []
        for runner in self._runners:
            health = runner.health
            metrics.QUARANTINED.labels(health.name).set(quarantined.get(health.name, 0))
            sinks.append(
                SinkStatus(
                    name=health.name,
                    up=health.up,
                    reason=health.reason,
                    cursor=health.cursor,
                    lag_events=health.lag_events,
                    oldest_undelivered=(
                        health.oldest_undelivered.timestamp() if health.oldest_undelivered else None
                    ),
                    quarantined=quarantined.get(health.name, 0),
                )
            )
        accounts = []
        for account in self._accounts:
            account.health.open_gaps = self._journal.open_gaps.get(account.name, 0)
            accounts.append(account.health)
        return Status(
            version=__version__,
            ready=self._ready,
            accounts=accounts,
            journal=journal,
            sinks=sinks,
            problems=[
                *problems_of(accounts, journal, sinks),
                *(self._media.problems if self._media else ()),
            ],
        )

    async def open_gaps(self) -> OpenGaps:
        """The newest open gaps of every account."""
        gaps = await self._journal.gaps(None, limit=LISTED_GAPS)
        return OpenGaps(sum(self._journal.open_gaps.values()), [OpenGap.of(gap) for gap in gaps])

    async def _run_parts(self) -> None:
        async with asyncio.TaskGroup() as group:
            services = [
                group.create_task(self._journal.wait_failed(), name="journal"),
                group.create_task(self._journal.run_pruner(), name="pruner"),
                group.create_task(self._report(), name="report"),
                group.create_task(self._measure_loop_lag(), name="loop_lag"),
                group.create_task(self._watch(), name="watchdog"),
            ]
            services += [
                group.create_task(keep_backed_up(self._backups, account.name, account.ready), name="backup")
                for account in self._accounts
            ]
            if self._media:
                services.append(group.create_task(self._media.run(), name="media"))
            if self._leases:
                services.append(group.create_task(self._leases.run(), name="leases"))
            if self._control:
                services.append(group.create_task(self._control.run(), name="channel control"))
            services += [group.create_task(one.run(), name="handover") for one in self._handovers.values()]
            sinks = [group.create_task(runner.run(), name="sink") for runner in self._runners]
            accounts = group.create_task(self._run_accounts(), name="accounts")
            ready = group.create_task(self._announce_ready(), name="ready")
            log.info("starting", version=__version__, accounts=len(self._accounts), sinks=len(self._runners))

            await self._stop.wait()
            self._notifier.stopping("stopping: intake off, sinks draining")
            log.info("stopping", drain_limit_seconds=self._settings.drain_limit.total_seconds())
            for task in (ready, accounts):
                task.cancel()
            await asyncio.wait((ready, accounts))
            await self._drain()
            if self._leases:
                # Not before the sinks have drained: another host's messages come after this one's.
                await asyncio.gather(*(handover.finish() for handover in self._handovers.values()))
                await self._leases.release()
            for task in (*sinks, *services):
                task.cancel()
        waiting = max((runner.health.lag_events for runner in self._runners), default=0)
        log.info("stopped", undelivered=waiting)

    async def _run_accounts(self) -> None:
        """Runs all accounts; a dead one is left behind as long as another lives."""
        dead: list[SessionDead] = []

        async def run(account: Account) -> None:
            try:
                await account.run()
            except SessionDead as error:
                dead.append(error)
                await account.lease.release()
                if len(dead) == len(self._accounts):
                    raise  # the process says so in its last line
                log.error("session_dead", account=account.name, reason=str(error))  # noqa: TRY400
                account.settled.set()  # the others' readiness must not wait for it

        if self._control:
            await self._control.wait_first()
        async with asyncio.TaskGroup() as group:
            for account in self._accounts:
                group.create_task(run(account), name=f"account {account.name}")

    async def _announce_ready(self) -> None:
        for account in self._accounts:
            await account.settled.wait()
        self._ready = True
        self._notifier.ready((await self.status()).summary)
        log.info("ready", accounts=len(self._accounts))

    async def _room_for_history(self) -> None:
        """Returns once backfill may go on: live messages must not wait behind it in any sink.

        A sink that is down must not stop it at once, but neither may it fill the journal meanwhile.
        """
        while True:
            behind = []
            for runner in self._runners:
                ahead = BACKFILL_AHEAD[runner.name] if runner.health.up else BACKFILL_AHEAD_OF_DOWN
                if self._journal.cursor(runner.name) < (seq := self._journal.last_seq - ahead):
                    behind.append((runner, seq))
            if not behind:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                    await asyncio.gather(*(runner.wait_caught_up(seq) for runner, seq in behind))

    async def _stored(self, seq: int) -> None:
        """Returns once every sink but the cache, which may be empty, has the records up to `seq`."""
        await asyncio.gather(
            *(runner.wait_caught_up(seq) for runner in self._runners if runner.name != "redis")
        )

    async def _drain(self) -> None:
        last = self._journal.last_seq
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_limit.total_seconds()):
                await asyncio.gather(
                    *(runner.wait_caught_up(last) for runner in self._runners if runner.health.up)
                )

    async def _watch(self) -> None:
        """Feeds systemd's watchdog as long as the loop, the journal's writer and every intake move."""
        watchdog = Watchdog(self._notifier)
        for account in self._accounts:
            watchdog.probe(f"intake of {account.name}", self._intake_probe(account))
        await run_together(watchdog.run(), self._beat(watchdog.heartbeat("journal writer")))

    def _intake_probe(self, account: Account) -> Callable[[], bool]:
        # A full journal holds the intake up on purpose; a restart would not make room.
        return lambda: account.intake_alive() or self._journal.full

    async def _beat(self, journal: Heartbeat) -> None:
        while True:
            await self._journal.check_writer()
            journal.beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _report(self) -> None:
        """Keeps the journal's gauges and systemd's status line up to date."""
        while True:
            self._notifier.status((await self.status()).summary)
            await asyncio.sleep(STATUS_SECONDS)

    async def _measure_loop_lag(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LOOP_LAG_SECONDS)
            metrics.EVENT_LOOP_LAG_SECONDS.observe(max(0.0, time.monotonic() - before - LOOP_LAG_SECONDS))
