"""The media directory: equal content is one file, named by its SHA-256; messages are links to it.

    sha256/ab/abcdef…                      the content
    by-message/CHAT/MESSAGE-MEDIA.jpg      a relative symbolic link to it
    parts/ACCOUNT-MEDIA                    what has arrived of a file that is not complete

CHAT is the event's chat key: `channel_id`, below the account's scope where ids count per account.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import MediaUnavailable

SYNC_BYTES = 1 << 20  # what a power cut may cost of a file on its way


class PartFile:
    """A file on its way. What it held before goes on from `length`, up to which it is surely on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _disk(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Every earlier whole piece was synced before the first byte of the one after it was written.
        self.length = max(0, os.fstat(self._file).st_size - 1) // SYNC_BYTES * SYNC_BYTES

    def close(self) -> None:
        os.close(self._file)

    def write(self, data: bytes) -> None:
        """Appends. `data` never reaches over the next multiple of SYNC_BYTES."""
        with _disk(self.path):
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self.length + written)
            self.length += len(data)
            if self.length % SYNC_BYTES == 0:
                os.fdatasync(self._file)

    def complete(self) -> str:
        """Ends the file where it is, on the disk; returns its SHA-256."""
        with _disk(self.path):
            os.ftruncate(self._file, self.length)
            os.fsync(self._file)
            with self.path.open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest()


class MediaStore:
    """Raises MediaUnavailable while the directory cannot be written, or has less than `min_free` bytes."""

    def __init__(self, root: Path, *, min_free: int) -> None:
        self._root = root
        self._min_free = min_free

    def require_room(self, size: int) -> None:
        """Raises MediaUnavailable unless `size` bytes leave `min_free` on the disk."""
        _make(self._root)
        with _disk(self._root):
            free = shutil.disk_usage(self._root).free
        if free - size < self._min_free:
            raise MediaUnavailable(
                f"{self._root} has {free} bytes free and {self._min_free} stay so (TELEGRAM_MEDIA_MIN_FREE); "
                "make room: downloads go on by themselves"
            )

    def part(self, name: str) -> PartFile:
        """The file on its way under this name: begun, or gone on with."""
        directory = self._root / "parts"
        _make(directory)
        return PartFile(directory / name)

    def discard(self, name: str) -> None:
        """Removes what has arrived under this name, if anything."""
        part = self._root / "parts" / name
        with _disk(part):
            part.unlink(missing_ok=True)

    def keep(self, part: PartFile) -> str:
        """Takes a complete file in; returns its SHA-256."""
        digest = part.complete()
        target = self._content(digest)
        _make(target.parent)
        with _disk(target):
            os.replace(part.path, target)
        _sync(target.parent)
        return digest

    def holds(self, digest: str) -> bool:
        return self._content(digest).is_file()

    def link(self, digest: str, chat_key: str, name: str) -> None:
        """Makes `by-message/chat_key/name` the content `digest`."""
        directory = self._root / "by-message" / chat_key
        _make(directory)
        link = directory / name
        target = os.path.relpath(self._content(digest), directory)
        fresh = directory / f".{name}.new"
        with _disk(link):
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            os.replace(fresh, link)
        _sync(directory)

    def _content(self, digest: str) -> Path:
        return self._root / "sha256" / digest[:2] / digest


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaUnavailable(
            f"cannot write {path} ({error.strerror}); check the disk of TELEGRAM_MEDIA_DIR and its owner: "
            "downloads go on by themselves"
        ) from error


def _make(directory: Path) -> None:
    """Makes the directory; its name survives a power cut."""
    if directory.is_dir():
        return
    _make(directory.parent)
    with _disk(directory):
        directory.mkdir(mode=0o700, exist_ok=True)
    _sync(directory.parent)


def _sync(directory: Path) -> None:
    with _disk(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
