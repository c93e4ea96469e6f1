"""Tears the tail of an SQLite write-ahead log, as a power cut in the middle of a write leaves it.

What follows the last committed frame never was durable, so a journal must come up as if nothing stood there.
The committed frames are left as they are. Format: https://www.sqlite.org/fileformat2.html#walformat
"""

import random
import struct
from pathlib import Path

_HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page, size after commit (0: none), two salts, two checksums
_MAGIC = 0x377F0682  # its last bit says in which byte order the checksums are

HALF_A_FRAME, GARBAGE, OPEN_TRANSACTION = "half a frame", "garbage", "an open transaction"
TEARS = (HALF_A_FRAME, GARBAGE, OPEN_TRANSACTION)


def tear(path: Path, how: str, chance: random.Random) -> bool:
    """Tears the log of the database `path`; False when there is none to tear. Nobody may have it open."""
    log = path.with_name(path.name + "-wal")
    try:
        content = log.read_bytes()
    except FileNotFoundError:
        return False
    if len(content) < _HEADER.size:
        return False
    magic, _, page_size, _, *rest = _HEADER.unpack_from(content)
    if magic & ~1 != _MAGIC:
        return False
    salts, checksum = (rest[0], rest[1]), (rest[2], rest[3])
    end, checksum = _committed_end(content, page_size, salts, checksum)
    with log.open("r+b") as file:
        file.seek(end)
        file.write(_debris(how, chance, page_size, salts, checksum, "<" if magic == _MAGIC else ">"))
    return True


def _committed_end(
    content: bytes, page_size: int, salts: tuple[int, int], checksum: tuple[int, int]
) -> tuple[int, tuple[int, int]]:
    """Where the last committed frame ends, and the checksum that the next one goes on from."""
    end = position = _HEADER.size
    while position + _FRAME.size + page_size <= len(content):
        _, commit, salt1, salt2, *running = _FRAME.unpack_from(content, position)
        if (salt1, salt2) != salts:
            break  # left over from before the log last started anew
        position += _FRAME.size + page_size
        if commit:
            end, checksum = position, (running[0], running[1])
    return end, checksum


def _debris(
    how: str,
    chance: random.Random,
    page_size: int,
    salts: tuple[int, int],
    checksum: tuple[int, int],
    order: str,
) -> bytes:
    if how == GARBAGE:
        return chance.randbytes(chance.randint(1, 3 * page_size))
    frames = b""
    for page in range(1, 2 if how == HALF_A_FRAME else chance.randint(2, 4)):
        content = chance.randbytes(page_size)
        # Only the last frame of a transaction says how large the database is then: this one never got there.
        start = struct.pack(">2I", page, 1 if how == HALF_A_FRAME else 0)
        checksum = checksum_of(start + content, checksum, order)
        frames += start + struct.pack(">4I", *salts, *checksum) + content
    return frames[: -page_size // 2] if how == HALF_A_FRAME else frames


def checksum_of(data: bytes, start: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's running checksum over `data`, of words in this byte order."""
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
