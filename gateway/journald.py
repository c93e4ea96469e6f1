"""journald's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): entries with fields of their own.

A program whose stderr systemd has connected to the journal may send it entries directly, so that an operator
can ask `journalctl` for EVENT=flood_wait or SINK=redis instead of searching text.
"""

import fcntl
import os
import re
import socket
import struct
import termios
import time
from collections.abc import Mapping
from typing import TextIO

SOCKET = "/run/systemd/journal/socket"
TAKEN_SECONDS = 1.0  # that a process which ends waits for journald to have read its last entry
_POLL_SECONDS = 0.001

# What journald or journalctl give a meaning of their own (systemd.journal-fields(7)).
_RESERVED = re.compile(
    r"MESSAGE(_ID)?|PRIORITY|CODE_(FILE|LINE|FUNC)|ERRNO|TID|DOCUMENTATION|(USER_)?INVOCATION_ID|(USER_)?UNIT|"
    r"(SYSLOG|OBJECT|COREDUMP)_.*"
)


def field_name(name: str) -> str:
    """The journal's name of a log line's field: in capitals, and apart from what is journald's own."""
    upper = name.upper()
    return f"TELEGRAM_{upper}" if _RESERVED.fullmatch(upper) else upper


def encode(fields: Mapping[str, str]) -> bytes:
    """One entry as a datagram."""
    parts: list[bytes] = []
    for name, text in fields.items():
        value = text.encode(errors="replace")
        if b"\n" in value:
            parts += (name.encode(), b"\n", struct.pack("<Q", len(value)), value, b"\n")
        else:
            parts += (name.encode(), b"=", value, b"\n")
    return b"".join(parts)


def is_journal(stream: TextIO) -> bool:
    """Whether systemd has connected `stream` to the journal, and not merely a process above this one's."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a file, or a closed one
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class Journald:
    """Sends entries; what the socket does not take is for the caller to write elsewhere."""

    def __init__(self) -> None:
        self._address = SOCKET
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, datagram: bytes) -> bool:
        """Whether journald got the entry; it waits, as a write to stderr would, while journald is behind."""
        try:
            self._socket.sendto(datagram, self._address)
        except OSError:  # no journald at the moment, or an entry beyond the size of a datagram
            return False
        return True

    def wait_taken(self) -> None:
        """Returns once journald has read everything, or after a second.

        journald asks the kernel for the sender's unit when it reads an entry: the last words of a process
        that has ended by then would be missing from `journalctl --unit`.
        """
        deadline = time.monotonic() + TAKEN_SECONDS
        while self._unread() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _unread(self) -> int:
        answer = fcntl.ioctl(self._socket, termios.TIOCOUTQ, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])
