"""What the daemon tells systemd: ready, status, stopping, and a watchdog that only real progress feeds.

It stands beside the way of a message: a daemon whose loop, journal or intake hangs is killed and restarted.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Self

import structlog

log = structlog.get_logger()

FEEDS_PER_INTERVAL = 3  # two feeds may be late or lost before systemd acts

Probe = Callable[[], bool]  # True when its part has moved since the last call


class Notifier:
    """The sd_notify(3) protocol. Does nothing when `address` is None (not started by systemd)."""

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @classmethod
    def from_environment(cls) -> Self:
        """The notifier for NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID as systemd set them."""
        address = os.environ.get("NOTIFY_SOCKET")
        interval = os.environ.get("WATCHDOG_USEC", "")
        meant_for = os.environ.get("WATCHDOG_PID", "")
        watched = interval.isdigit() and int(interval) > 0 and meant_for in {"", str(os.getpid())}
        return cls(address, int(interval) / 1e6 if address and watched else None)

    def ready(self, status: str) -> None:
        """The journal, the locks and Telegram are up."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send(_status(text))

    def stopping(self, status: str) -> None:
        """A clean stop has begun."""
        self._send("STOPPING=1", _status(status))

    def watchdog(self) -> None:
        """Everything moved; the time to the next watchdog kill starts again."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Releases the socket; a notification after this is an error."""
        self._socket.close()

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            # systemd busy or restarting must not stop the gateway; a lost WATCHDOG=1 has two successors.
            log.warning("systemd_notify_failed", error=str(error))


class Heartbeat:
    """Counts what one part does, so that the watchdog sees whether it still does it."""

    def __init__(self) -> None:
        self._beaten = False

    def beat(self) -> None:
        """The part moved: a round trip was made, a loop went round."""
        self._beaten = True

    def moved(self) -> bool:
        """Whether there was a beat since the last call."""
        beaten, self._beaten = self._beaten, False
        return beaten


class Watchdog:
    """Feeds systemd's watchdog once every probe has moved since the last feed.

    That the event loop turns needs no probe: `run` is on it.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._probes: dict[str, Probe] = {}

    def probe(self, name: str, moved: Probe) -> None:
        """Registers a part; `moved` is asked a few times per watchdog interval."""
        self._probes[name] = moved

    def heartbeat(self, name: str) -> Heartbeat:
        """Registers a part that calls `beat` itself, at least once every `watchdog_seconds` / 3."""
        heartbeat = Heartbeat()
        self.probe(name, heartbeat.moved)
        return heartbeat

    async def run(self) -> None:
        """Feeds until cancelled; returns at once when systemd asked for no watchdog."""
        seconds = self._notifier.watchdog_seconds
        if seconds is None:
            return
        fed_at = time.monotonic()
        waiting_for = set(self._probes)
        reported: set[str] = set()
        while True:
            await asyncio.sleep(seconds / FEEDS_PER_INTERVAL)
            waiting_for = {name for name in waiting_for if not self._probes[name]()}
            if waiting_for:
                if waiting_for != reported:
                    log.error(
                        "watchdog_stalled",
                        parts=sorted(waiting_for),
                        seconds_since_feed=round(time.monotonic() - fed_at, 3),
                        watchdog_seconds=seconds,
                    )
                    reported = waiting_for
                continue
            self._notifier.watchdog()
            if reported:
                log.info("watchdog_resumed", parts=sorted(reported))
            fed_at, waiting_for, reported = time.monotonic(), set(self._probes), set()


def _status(text: str) -> str:
    # A line break would start another assignment.
    return f"STATUS={' '.join(text.split())}"
