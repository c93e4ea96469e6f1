"""The number and the time in every benchmark message: written where it is posted, read where it arrives."""

import re
import time

HISTORY_FIRST = 1_000_000_000  # history is numbered from here on, and bears no time
HISTORY = "🟢 COMPRA PETR4 | entrada 38,10 | alvos 38,90 39,40 | stop 37,60 | #1{:09}@0#"

MOST_BYTES = 48  # of a stamp

STAMP = re.compile(rb"#(\d+)@(\d+)#")


def write(number: int) -> str:
    """The text of message `number`, posted now; CLOCK_MONOTONIC is the same for all processes of a host."""
    return (
        f"🟢 COMPRA PETR4 | entrada 38,10 | alvos 38,90 39,40 | stop 37,60 | #{number}@{time.monotonic_ns()}#"
    )


def read(body: bytes) -> tuple[int, int] | None:
    """The number and the nanosecond in a text, or in a JSON body that holds the text."""
    found = STAMP.search(body)
    return (int(found[1]), int(found[2])) if found else None
