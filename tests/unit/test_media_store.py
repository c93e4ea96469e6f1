"""The media directory and the list of wanted files after a crash, on a full disk, with a pruned journal."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import MediaUnavailable
from gateway.event import Event
from gateway.journal import Batch, Journal
from gateway.media.downloads import CURSOR
from gateway.media.queue import MediaQueue
from gateway.media.store import SYNC_BYTES, MediaStore
from tests.sink_events import days_ago, new

CHAT = "-1001649127710"


def fill(store: MediaStore, name: str, data: bytes) -> str:
    part = store.part(name)
    for start in range(part.length, len(data), SYNC_BYTES // 8):
        part.write(data[start : start + SYNC_BYTES // 8])
    digest = store.keep(part)
    part.close()
    return digest


def photo(message: int, media: int, **fields: Any) -> Event:
    return new(message, media_type="photo", media={"id": media, "size": 10}, **fields)


def test_what_a_power_cut_may_have_torn_is_fetched_again_and_nothing_before_it(tmp_path: Path) -> None:
    store = MediaStore(tmp_path, min_free=0)
    data = b"".join(bytes([n]) * (SYNC_BYTES // 8) for n in range(20))  # two and a half synced pieces
    part = store.part("main-document-1")
    for start in range(0, len(data), SYNC_BYTES // 8):
        part.write(data[start : start + SYNC_BYTES // 8])
    part.close()
    torn = tmp_path / "parts" / "main-document-1"
    torn.write_bytes(
        torn.read_bytes()[: 2 * SYNC_BYTES] + bytes(SYNC_BYTES // 2)
    )  # the tail came back as zeros
    assert store.part("main-document-1").length == 2 * SYNC_BYTES
    digest = fill(store, "main-document-1", data)
    assert digest == hashlib.sha256(data).hexdigest()


def test_a_longer_leftover_is_cut_off(tmp_path: Path) -> None:
    store = MediaStore(tmp_path, min_free=0)
    part = store.part("main-photo-1")
    part.write(b"x" * 1000)
    part.close()
    digest = fill(store, "main-photo-1", b"short")
    assert digest == hashlib.sha256(b"short").hexdigest()
    assert (tmp_path / "sha256" / digest[:2] / digest).read_bytes() == b"short"


def test_equal_content_is_one_file_and_links_survive_a_move_of_the_directory(tmp_path: Path) -> None:
    root = tmp_path / "media"
    store = MediaStore(root, min_free=0)
    first, second = fill(store, "main-document-1", b"tabela"), fill(store, "other-document-2", b"tabela")
    assert first == second
    store.link(first, CHAT, "5-1.csv")
    store.link(first, f"700000001/{CHAT}", "6-2.csv")
    store.link(first, CHAT, "5-1.csv")  # after a crash before it was recorded
    moved = root.rename(tmp_path / "elsewhere")
    links = sorted(path for path in (moved / "by-message").rglob("*") if path.is_symlink())
    assert [path.read_bytes() for path in links] == [b"tabela", b"tabela"]
    assert len(list(moved.glob("sha256/*/*"))) == 1
    assert not list(moved.glob("parts/*"))


def test_a_directory_that_cannot_be_written_says_which_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MediaUnavailable, match="TELEGRAM_MEDIA_DIR"):
        MediaStore(tmp_path / "file" / "media", min_free=0).require_room(1)
    with pytest.raises(MediaUnavailable, match="TELEGRAM_MEDIA_MIN_FREE"):
        MediaStore(tmp_path, min_free=1 << 60).require_room(1)


def test_the_list_outlives_the_process_and_asks_for_each_file_once(tmp_path: Path) -> None:
    path = tmp_path / "media.db"
    queue = MediaQueue(path)
    queue.add([photo(1, 11), photo(2, 12), photo(1, 13)])
    queue.add([photo(1, 11)])
    queue.close()
    queue = MediaQueue(path)
    files = queue.due("main", 100)
    assert [(file.message_id, file.media_id) for file in files] == [(1, 11), (2, 12), (1, 13)]
    queue.settle(files[0], "done", sha256="ab")
    queue.postpone(files[1], 1, files[1].id + 4e9, "TIMEOUT")
    queue.settle(files[2], "failed", reason="LOCATION_INVALID")
    assert queue.due("main", 100) == []
    assert queue.digest_of(11) == "ab"
    assert [file.reason for file in queue.given_up()] == ["LOCATION_INVALID"]
    assert queue.retry() == 1
    assert [file.media_id for file in queue.due("main", 100)] == [13]
    assert queue.backlog()["main"].files == 2


def test_one_chat_after_the_other_the_longest_due_first(tmp_path: Path) -> None:
    queue = MediaQueue(tmp_path / "media.db")
    queue.add([photo(1, 11), photo(1, 12, channel="-1001649127711"), photo(2, 13)])
    assert [file.media_id for file in queue.due("main", 100)] == [11, 13]
    for file in queue.due("main", 100):
        queue.settle(file, "done")
    assert [file.chat for file in queue.due("main", 100)] == [-1001649127711]
    assert queue.due("other", 100) == []


def test_a_list_that_cannot_be_used_is_said_and_used_again_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "media.db"
    path.mkdir()
    queue = MediaQueue(path)
    with pytest.raises(MediaUnavailable, match=r"media\.db"):
        queue.backlog()
    path.rmdir()
    assert queue.backlog() == {}


async def test_downloads_far_behind_hold_up_no_pruning(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal.db", sinks=("redis",)) as journal:
        old = [new(number, received_at=days_ago(8)) for number in range(1, 101)]
        await journal.append(Batch("main", old))
        await journal.advance(CURSOR, 3)
        await journal.advance("redis", 100)
        assert await journal.prune() == 99
        assert [record.seq for record in await journal.read(journal.cursor(CURSOR), 10)] == [100]
