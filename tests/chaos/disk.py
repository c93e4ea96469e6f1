"""A disk of its own for the journal, small enough to be filled: a tmpfs, which takes root to mount."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.errors import GatewayError

_BLOCK = bytes(1 << 16)


class MountFailed(GatewayError):
    """The small disk could not be made; leave the full disk out."""


class Disk:
    """Mounted at `path`; a filler file takes what room is left."""

    def __init__(self, path: Path) -> None:
        self._filler = path / "filler"

    def fill(self) -> None:
        """Takes most of the room at once, and the rest bit by bit: others write at the same time."""
        free = os.statvfs(self._filler.parent)
        most = free.f_bavail * free.f_frsize * 9 // 10
        with self._filler.open("wb", buffering=0) as filler:
            if most:
                os.posix_fallocate(filler.fileno(), 0, most)
                filler.seek(most)
            try:
                while True:
                    filler.write(_BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@asynccontextmanager
async def small_disk(path: Path, size: int) -> AsyncIterator[Disk | None]:
    """A file system of `size` bytes at `path` while the block runs; None for those who may not mount one."""
    if os.geteuid() != 0:
        yield None
        return
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    await _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        await _run("umount", "--lazy", str(path))


async def _run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode != 0:
        raise MountFailed(f"{argv[0]} failed: {said.decode().strip()}; use --without 'disk full'")
