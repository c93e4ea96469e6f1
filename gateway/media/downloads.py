"""Fetches what messages carry: reads the journal as a sink does, then takes its time.

The journal's messages go into a list of wanted files at once; each account works off its part of the list
over its live connection, one file part at a time, and stops with the connection.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from random import uniform
from typing import NoReturn, Self, TypeVar, TypeVarTuple

import structlog

from gateway import metrics
from gateway.errors import DownloadFailed, DownloadPaused, MediaUnavailable
from gateway.event import Event
from gateway.journal import Journal
from gateway.media.queue import MediaQueue, State, WantedFile
from gateway.media.store import MediaStore, PartFile
from gateway.settings import Settings
from gateway.tasks import run_together
from gateway.telegram.client import GatewayClient
from gateway.telegram.download import FIND_LIMIT, RemoteFile, TelegramFiles

log = structlog.get_logger()

CURSOR = "media"  # the journal's name for how far it has been read here; it holds up no pruning
BATCH_EVENTS = 500
GATHER_SECONDS = 0.25  # before new events are read
BREATH_SECONDS = 0.05  # between batches of a backlog: live messages come first
REPORT_SECONDS = 5.0
IDLE_SECONDS = 5.0  # the longest wait before the list is looked at again: `media retry` writes to it
TURN_SECONDS = 60.0  # after which a large file lets the others have a turn
DISK_RETRY_SECONDS = 5.0
# Attempts in a row that bring a download no further: at what a later one may mend, and at a plain refusal.
MAX_ATTEMPTS = 12
MAX_REFUSALS = 3
LONGEST_DELAY_SECONDS = 600.0

_LIST = ""  # stands for the list of wanted files where an account's name may stand

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """Where files go, and which are wanted."""

    directory: Path
    max_bytes: int
    min_free: int
    types: frozenset[str]


class MediaDownloads:
    """Give `run_account` each new connection; `run` reads the journal meanwhile."""

    def __init__(self, settings: MediaSettings, queue: Path, journal: Journal) -> None:
        self._settings = settings
        self._queue = MediaQueue(queue)
        self._store = MediaStore(settings.directory, min_free=settings.min_free)
        self._journal = journal
        self._wake: dict[str, asyncio.Event] = {}
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._obstacles: dict[str, str] = {}  # by account, and for the list itself

    @classmethod
    def from_settings(cls, settings: Settings, journal: Journal) -> Self | None:
        """None where TELEGRAM_MEDIA_DIR is not set."""
        if settings.media_dir is None:
            return None
        wanted = MediaSettings(
            settings.media_dir,
            max_bytes=settings.media_max_bytes,
            min_free=settings.media_min_free,
            types=frozenset(settings.media_types),
        )
        return cls(wanted, settings.media_list_path, journal)

    async def run(self) -> None:
        """Puts the journal's files on the list until cancelled."""
        await run_together(self._collect(), self._report())

    async def _collect(self) -> NoReturn:
        while True:
            after = self._journal.cursor(CURSOR)
            await self._journal.wait_beyond(after)
            behind = self._journal.last_seq - after >= BATCH_EVENTS
            await asyncio.sleep(BREATH_SECONDS if behind else GATHER_SECONDS)
            records = await self._journal.read(after, BATCH_EVENTS)
            wanted = [record.event for record in records if self._wants(record.event)]
            if wanted:
                await self._enlist(wanted)
                for account in {event.account for event in wanted}:
                    self._woken(account).set()
            if records:
                await self._journal.advance(CURSOR, records[-1].seq)

    def _wants(self, event: Event) -> bool:
        if event.media_type is None or not event.media or "id" not in event.media:
            return False
        if event.media_type not in self._settings.types:
            metrics.MEDIA_SKIPPED.labels("type").inc()
            return False
        if event.media.get("size", 0) > self._settings.max_bytes:
            metrics.MEDIA_SKIPPED.labels("size").inc()
            return False
        return True

    async def _enlist(self, events: Sequence[Event]) -> None:
        while True:
            try:
                await self._on_thread(_LIST, self._queue.add, events)
            except MediaUnavailable as error:
                await self._pause(_LIST, error)
            else:
                return self._go_on(_LIST)

    async def _report(self) -> NoReturn:
        while True:
            try:
                backlog = await self._on_thread(_LIST, self._queue.backlog)
            except MediaUnavailable:  # the account's downloads meet the same, and say so
                backlog = {}
            for account in {*backlog, *self._wake}:
                waiting = backlog.get(account)
                metrics.MEDIA_QUEUED.labels(account).set(waiting.files if waiting else 0)
                metrics.MEDIA_OLDEST_QUEUED.labels(account).set(waiting.oldest if waiting else 0)
            await asyncio.sleep(REPORT_SECONDS)

    async def run_account(self, client: GatewayClient) -> None:
        """Fetches the account's files for as long as its connection lives: until cancelled."""
        account, telegram = client.account, TelegramFiles(client)
        metrics.MEDIA_DOWNLOADED.labels(account)
        woken = self._woken(account)
        while True:
            woken.clear()
            try:
                files = await self._on_thread(account, self._queue.due, account, FIND_LIMIT)
                if files:
                    await self._fetch(telegram, files[0].chat, files)
                    self._go_on(account)
                else:
                    due = await self._on_thread(account, self._queue.next_due, account)
                    self._go_on(account)
                    await self._sleep_until(woken, due)
            except MediaUnavailable as error:
                await self._pause(account, error)
            except DownloadPaused as pause:
                log.info("media_waits", account=account, seconds=pause.seconds, reason=str(pause))
                await asyncio.sleep(pause.seconds + uniform(0.1, 1.0))

    async def _sleep_until(self, woken: asyncio.Event, due: float | None) -> None:
        seconds = IDLE_SECONDS if due is None else min(max(due - time.time(), 0.0), IDLE_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            return

    async def _fetch(self, telegram: TelegramFiles, chat: int, files: Sequence[WantedFile]) -> None:
        """Gives each of `files`, all of one chat, one turn."""
        try:
            remotes = await telegram.find(chat, [file.message_id for file in files])
        except DownloadFailed as error:
            for file in files:
                await self._failed(telegram.account, file, file.attempts, error)
            return
        for file in files:
            remote = remotes.get(file.message_id)
            if remote is None:
                await self._give_up(telegram.account, file, "gone", "deleted")
            elif remote.media_id != file.media_id:
                await self._give_up(telegram.account, file, "gone", "replaced")
            elif remote.size > self._settings.max_bytes:
                metrics.MEDIA_SKIPPED.labels("size").inc()
                await self._give_up(telegram.account, file, "skipped", "size")
            else:
                await self._turn(telegram, file, remote)

    async def _turn(self, telegram: TelegramFiles, file: WantedFile, remote: RemoteFile) -> None:
        """Fetches the file, or as much as one turn allows."""
        account = telegram.account
        if await self._on_thread(account, self._is_here, account, file, remote):
            metrics.MEDIA_DOWNLOADED.labels(account).inc()
            return
        part = await self._on_thread(account, self._open, account, file, remote)
        start, received = part.length, metrics.MEDIA_BYTES.labels(account)
        turn_ends = time.monotonic() + TURN_SECONDS
        try:
            async with aclosing(telegram.parts(remote, start)) as parts:
                async for data in parts:
                    await self._on_thread(account, part.write, data)
                    received.inc(len(data))
                    if time.monotonic() > turn_ends and part.length < remote.size:
                        await self._postpone(account, file, attempts=0, delay=0.0, reason=None)
                        return
            await self._on_thread(account, self._keep, file, remote, part)
            metrics.MEDIA_DOWNLOADED.labels(account).inc()
        except DownloadFailed as error:
            await self._failed(account, file, 0 if part.length > start else file.attempts, error)
        finally:
            self._thread_of(account).submit(part.close)

    def _open(self, account: str, file: WantedFile, remote: RemoteFile) -> PartFile:
        part = self._store.part(_part_name(account, file))
        try:
            if part.length >= remote.size:
                part.length = 0
            self._store.require_room(remote.size - part.length)
        except MediaUnavailable:
            part.close()
            raise
        if part.length:
            log.info("media_resumed", account=account, media_id=file.media_id, offset=part.length)
        return part

    def _is_here(self, account: str, file: WantedFile, remote: RemoteFile) -> bool:
        """Whether another message brought the same media; then this one is a link to it."""
        digest = self._queue.digest_of(file.media_id)
        if digest is None or not self._store.holds(digest):
            return False
        self._finish(file, remote, digest)
        self._store.discard(_part_name(account, file))
        return True

    def _keep(self, file: WantedFile, remote: RemoteFile, part: PartFile) -> None:
        # In one go on the account's thread: a connection that is lost now does not cost what has arrived.
        self._finish(file, remote, self._store.keep(part))

    def _finish(self, file: WantedFile, remote: RemoteFile, digest: str) -> None:
        self._store.link(digest, file.chat_key, f"{file.message_id}-{file.media_id}{remote.extension}")
        self._queue.settle(file, "done", sha256=digest)

    async def _failed(self, account: str, file: WantedFile, attempts: int, error: DownloadFailed) -> None:
        attempts += 1
        if attempts >= (MAX_REFUSALS if error.refused else MAX_ATTEMPTS):
            await self._give_up(account, file, "failed", str(error))
            return
        metrics.MEDIA_RETRIES.labels(str(error)).inc()
        delay = min(2.0 ** (attempts - 1), LONGEST_DELAY_SECONDS) * uniform(0.5, 1.0)
        await self._postpone(account, file, attempts=attempts, delay=delay, reason=str(error))

    async def _postpone(
        self, account: str, file: WantedFile, *, attempts: int, delay: float, reason: str | None
    ) -> None:
        due = time.time() + delay
        await self._on_thread(account, self._queue.postpone, file, attempts, due, reason)

    async def _give_up(self, account: str, file: WantedFile, state: State, reason: str) -> None:
        def settle() -> None:
            self._store.discard(_part_name(account, file))
            self._queue.settle(file, state, reason=reason)

        await self._on_thread(account, settle)
        if state != "skipped":
            metrics.MEDIA_FAILED.labels(reason).inc()
            log.warning(
                "media_given_up",
                account=account,
                chat=file.chat_key,
                message_id=file.message_id,
                media_id=file.media_id,
                reason=reason,
            )

    @property
    def problems(self) -> list[str]:
        """Why downloads wait, if they do; messages never wait for them."""
        return [f"media downloads wait: {obstacle}" for obstacle in set(self._obstacles.values())]

    async def _pause(self, account: str, error: MediaUnavailable) -> None:
        if account not in self._obstacles:
            log.error("media_paused", account=account, reason=str(error))
        self._obstacles[account] = str(error)
        metrics.MEDIA_PAUSED.set(1)
        await asyncio.sleep(DISK_RETRY_SECONDS)

    def _go_on(self, account: str) -> None:
        if self._obstacles.pop(account, None) is not None:
            metrics.MEDIA_PAUSED.set(bool(self._obstacles))
            log.info("media_goes_on", account=account)

    def _woken(self, account: str) -> asyncio.Event:
        return self._wake.setdefault(account, asyncio.Event())

    async def _on_thread(self, account: str, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Runs `work` on the account's own thread.

        There is one, so what a lost connection left running there ends before the next one goes on.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread_of(account), work, *arguments)

    def _thread_of(self, account: str) -> ThreadPoolExecutor:
        if account not in self._threads:
            self._threads[account] = ThreadPoolExecutor(1, f"media {account}")
        return self._threads[account]


def _part_name(account: str, file: WantedFile) -> str:
    return f"{account}-{'photo' if file.kind == 'photo' else 'document'}-{file.media_id}"
