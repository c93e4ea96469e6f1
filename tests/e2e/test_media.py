"""Files of messages: fetched behind the journal, resumed, stored once, and never in a message's way."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from gateway.sandbox import Media, Sandbox
from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Message
from gateway.sandbox.scene import Scene, phone, populate
from tests.clock import Clock, ticking
from tests.e2e.desk import NO_SINKS, Desk

PATIENCE_SECONDS = 120.0
PART = 128 << 10
MEGABYTE = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Archive:
    """A logged-in gateway without sinks, its media directory, and the world that it listens to."""

    sandbox: Sandbox
    scene: Scene
    desk: Desk
    directory: Path
    clock: Clock

    @property
    def channel(self) -> Chat:
        return self.scene.chats[0]

    async def start(self, **settings: str) -> None:
        self.desk.settings.update(settings)
        await self.desk.gateway.close()
        self.desk.gateway = type(self.desk.gateway)(self.desk.gateway.directory, self.desk.settings)
        await self.desk.gateway.start()

    def post(self, data: bytes, chat: Chat | None = None, name: str = "sinais.csv") -> Message:
        return self.sandbox.world.post(chat or self.channel, "arquivo", media=Media.document(data, name))

    def link(self, message: Message) -> Path | None:
        """Where a message's file is to be found, if it is there."""
        account = self.scene.accounts[0]
        chat = message.chat
        scope = "" if chat.is_channel else str(account.id)
        assert message.media is not None
        name = f"{message.id_for(account.id)}-{message.media.id}.*"
        directory = self.directory / "by-message" / scope / str(chat.marked_id_for(account))
        found = list(directory.glob(name)) if directory.exists() else []
        return found[0] if found else None

    async def arrives(self, message: Message, within: float = PATIENCE_SECONDS) -> Path:
        """The message's file, as soon as it is there; it has the bytes that were posted."""
        await until(lambda: self.link(message) is not None, within, f"no file of message {message.id}")
        path = self.link(message)
        assert path is not None
        assert message.media is not None
        assert path.read_bytes() == message.media.data
        return path

    def contents(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("sha256/??/*"))

    def offsets(self, message: Message) -> list[int]:
        """What was asked of the message's file, in order."""
        assert message.media is not None
        return [offset for media, offset, _ in self.sandbox.world.served if media == message.media.id]

    async def asked(self, message: Message, parts: int) -> None:
        """Returns once the gateway has asked for so many parts of the message's file."""
        enough = f"{parts} parts of message {message.id} were never asked for"
        await until(lambda: len(self.offsets(message)) >= parts, PATIENCE_SECONDS, enough)

    async def journaled(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (status := await self.desk.gateway.status()) is None:
                await asyncio.sleep(0.005)
        return int(status["journal"]["last_seq"])

    async def takes_in(self, text: str) -> float:
        """Posts a text; returns after how many seconds it was in the journal."""
        before = await self.journaled()
        started = self.clock.time()
        self.sandbox.world.post(self.channel, text)
        while await self.journaled() == before:
            assert self.clock.time() - started < PATIENCE_SECONDS, "the message was not taken in"
            await asyncio.sleep(0.005)
        return self.clock.time() - started

    async def metric(self, name: str) -> float:
        """The value of a sample, 0.0 while it does not exist."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.desk.gateway.port}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    async def metric_becomes(self, name: str, value: float) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := await self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            await asyncio.sleep(0.1)


async def until(happened: Callable[[], bool], within: float, otherwise: str) -> None:
    deadline = time.monotonic() + within
    while not happened():
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(0.005)


async def root(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, " ".join(command)


@pytest_asyncio.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox, ticking() as clock:
        scene = populate(sandbox.world)
        directory = tmp_path / "media"
        desk = Desk(
            tmp_path,
            sandbox,
            {**NO_SINKS, "TELEGRAM_MEDIA_DIR": str(directory), "TELEGRAM_MEDIA_MIN_FREE": "0"},
        )
        archive = Archive(sandbox, scene, desk, directory, clock)
        try:
            await desk.gateway.login(phone(0))
            yield archive
        finally:
            await archive.desk.gateway.close()


async def test_files_of_every_kind_of_chat_arrive_and_equal_content_is_stored_once(archive: Archive) -> None:
    await archive.start()
    table, picture = noise(3 * MEGABYTE + 77), noise(40_000)
    posted = [archive.post(table, chat) for chat in archive.scene.chats if not chat.forum]
    photo = archive.sandbox.world.post(archive.channel, media=Media.photo(picture))
    empty = archive.post(b"", name="vazio")
    forwarded = archive.sandbox.world.post(archive.scene.chats[1], "de novo", media=photo.media)
    for message in posted:
        assert (await archive.arrives(message)).suffix == ".csv"
    assert (await archive.arrives(photo)).suffix == ".jpg"
    await archive.arrives(forwarded)
    await archive.arrives(empty)
    assert archive.contents() == sorted(hashlib.sha256(data).hexdigest() for data in (table, picture, b""))
    assert len(archive.offsets(photo)) == 1  # the forward's file was known to be the same
    assert not list((archive.directory / "parts").iterdir())
    await archive.metric_becomes('telegram_gateway_media_downloaded_total{account="main"}', len(posted) + 3)
    await archive.metric_becomes('telegram_gateway_media_queued_files{account="main"}', 0)


async def test_an_edit_that_changes_the_file_brings_the_new_one_beside_the_old(archive: Archive) -> None:
    await archive.start()
    first = archive.post(noise(1000, 2))
    kept = await archive.arrives(first)
    edited = archive.sandbox.world.edit(
        archive.channel, first, "corrigido", media=Media.document(noise(1000, 3), "corrigido.pdf")
    )
    assert (await archive.arrives(edited)).suffix == ".pdf"
    archive.sandbox.world.edit(archive.channel, edited, "só o texto mudou")
    await archive.takes_in("depois")
    assert kept.read_bytes() == noise(1000, 2)
    assert len(archive.offsets(edited)) == 1


async def test_it_is_off_unless_a_directory_is_named(archive: Archive) -> None:
    del archive.desk.settings["TELEGRAM_MEDIA_DIR"]
    await archive.start()
    archive.post(noise(1000))
    await archive.takes_in("COMPRA PETR4")
    await asyncio.sleep(1)
    assert not archive.sandbox.world.served
    assert not archive.directory.exists()
    assert not (archive.desk.gateway.state_dir / "media.db").exists()


async def test_only_the_wanted_types_and_sizes_are_fetched(archive: Archive) -> None:
    await archive.start(TELEGRAM_MEDIA_TYPES="document", TELEGRAM_MEDIA_MAX_BYTES="100K")
    photo = archive.sandbox.world.post(archive.channel, media="photo")
    large = archive.post(noise(102_401))
    small = archive.post(noise(102_400))
    await archive.arrives(small)
    assert archive.link(photo) is None
    assert archive.link(large) is None
    assert {media for media, _, _ in archive.sandbox.world.served} == {small.media.id if small.media else 0}
    assert await archive.metric('telegram_gateway_media_skipped_total{reason="type"}') == 1
    assert await archive.metric('telegram_gateway_media_skipped_total{reason="size"}') == 1


async def test_a_download_goes_on_where_it_was_interrupted(archive: Archive) -> None:
    async def kill() -> None:
        await archive.desk.gateway.kill()
        await archive.desk.gateway.start(wait=False)

    async def stop() -> None:
        started = archive.clock.time()
        assert await archive.desk.gateway.stop() == 0
        assert archive.clock.time() - started < 5, "the stop waited for the download"
        await archive.desk.gateway.start(wait=False)

    async def lose_connection() -> None:
        archive.sandbox.drop_connections()

    async def expire() -> None:
        archive.sandbox.world.expire_references()

    await archive.start()
    message = archive.post(noise(24 * MEGABYTE))
    parts = 24 * MEGABYTE // PART
    seen = 0
    for interrupt in (kill, stop, lose_connection, expire):
        await archive.asked(message, seen + 30)
        assert archive.link(message) is None, "it was over before it was interrupted"
        last = max(archive.offsets(message))
        await interrupt()
        seen = len(archive.offsets(message))
        await archive.asked(message, seen + 1)
        assert archive.offsets(message)[seen] >= last - MEGABYTE - PART, interrupt.__name__
    await archive.arrives(message)
    assert len(archive.offsets(message)) <= parts + 4 * (MEGABYTE // PART + 2)


async def test_messages_are_journaled_at_once_while_a_large_file_comes_in(archive: Archive) -> None:
    await archive.start()
    message = archive.post(noise(32 * MEGABYTE))
    await archive.asked(message, 8)
    delays = [await archive.takes_in("COMPRA PETR4") for _ in range(10)]
    assert archive.link(message) is None, "it was over too soon to tell"
    assert max(delays) < 1.0
    await archive.arrives(message)


async def test_what_telegram_refuses_or_has_no_more_is_recorded_and_the_rest_goes_on(
    archive: Archive,
) -> None:
    await archive.start()
    await archive.desk.gateway.stop()
    deleted = archive.post(noise(1000, 2))
    archive.sandbox.faults.fail_calls("GetMessagesRequest", 420, "FLOOD_WAIT_2", times=1)
    archive.sandbox.faults.fail_calls("GetFileRequest", 400, "LOCATION_INVALID", times=3)
    await archive.desk.gateway.start()
    refused = archive.post(noise(1000, 3), archive.scene.chats[1])
    await until(
        lambda: archive.sandbox.faults.injected["rpc_error"] > 0, PATIENCE_SECONDS, "nothing was asked"
    )
    archive.sandbox.world.delete(archive.channel, deleted)  # journaled already, not fetched yet
    await archive.metric_becomes('telegram_gateway_media_failed_total{reason="LOCATION_INVALID"}', 1)
    await archive.metric_becomes('telegram_gateway_media_failed_total{reason="deleted"}', 1)
    good = archive.post(noise(1000, 4))
    kept = await archive.arrives(good)
    assert archive.link(refused) is None
    assert archive.link(deleted) is None
    listed = (await archive.desk.run("media", "list")).text
    assert "LOCATION_INVALID" in listed
    assert "deleted" in listed
    assert "1 " in (await archive.desk.run("media", "retry")).text
    await archive.arrives(refused)
    assert "LOCATION_INVALID" not in (await archive.desk.run("media", "list")).text
    archive.sandbox.world.delete(archive.channel, good)
    await archive.takes_in("depois")
    assert kept.exists()  # a deletion is in the journal; the file stays


async def test_files_of_another_data_centre_arrive_also_when_the_line_to_it_breaks(archive: Archive) -> None:
    await archive.start()
    message = archive.post(noise(16 * MEGABYTE))
    assert message.media is not None
    archive.sandbox.world.elsewhere.add(message.media.id)
    await archive.asked(message, 30)
    for key in archive.sandbox.accounts.visitors:
        archive.sandbox.wire.drop_connections(key)
    before = archive.offsets(message)
    assert before[-1] < 15 * MEGABYTE, "it was over before the line broke"
    await archive.arrives(message)
    assert await archive.metric('telegram_gateway_reconnects_total{account="main"}') == 0
    assert archive.offsets(message)[len(before)] >= before[-1] - MEGABYTE - PART


async def test_flood_waits_and_lost_answers_hold_up_downloads_and_nothing_else(archive: Archive) -> None:
    await archive.start()
    archive.sandbox.faults.fail_calls("GetFileRequest", 420, "FLOOD_WAIT_4", times=1)
    started = archive.clock.time()
    began = time.monotonic()
    message = archive.post(noise(1000))
    await until(
        lambda: archive.sandbox.faults.injected["rpc_error"] > 0, PATIENCE_SECONDS, "nothing was asked"
    )
    await archive.takes_in("COMPRA PETR4")
    assert archive.clock.time() - started < 3
    await archive.arrives(message)
    assert time.monotonic() - began >= 4
    assert len(archive.offsets(message)) == 1
    archive.sandbox.faults.lose_answers("GetFileRequest", times=1)
    unanswered = archive.post(noise(1000, 2))
    await until(
        lambda: archive.sandbox.faults.injected["lose_answer"] > 0, PATIENCE_SECONDS, "nothing was asked"
    )
    assert await archive.takes_in("VENDA VALE3") < 3
    await archive.arrives(unanswered)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk small enough to fill")
async def test_a_full_disk_stops_downloads_alone_and_they_go_on_when_there_is_room(archive: Archive) -> None:
    archive.directory.mkdir()
    await root("mount", "-t", "tmpfs", "-o", "size=3m", "media", str(archive.directory))
    try:
        await archive.start()
        await archive.arrives(archive.post(noise(2 * MEGABYTE, 2)))
        waiting = archive.post(noise(4 * MEGABYTE, 3))
        await archive.metric_becomes("telegram_gateway_media_paused", 1)
        await archive.takes_in("COMPRA PETR4")
        status = await archive.desk.gateway.status()
        assert status is not None
        assert any("media downloads wait" in problem for problem in status["problems"])
        await root("mount", "-o", "remount,size=20m", str(archive.directory))
        await archive.arrives(waiting)
        await archive.metric_becomes("telegram_gateway_media_paused", 0)
    finally:
        await archive.desk.gateway.close()
        await root("umount", "--lazy", str(archive.directory))
