"""Optional traces of a message's way: received, journaled, delivered to each sink, handled by a consumer.

The ids of a message's trace follow from its event id. So the journal carries nothing for it, and a sink that
delivers after a crash, or hours later, adds to the trace that the receipt began. OpenTelemetry itself is
behind `gateway.spans`, which is imported when TELEGRAM_TRACING_ENDPOINT is set and never otherwise.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from gateway.errors import ConfigurationError
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.spans import Tracing


class TraceIds(NamedTuple):
    """The trace of one event: its id, its first span, and the publishing's, from which consumers go on."""

    trace: int
    receive: int
    publish: int

    @classmethod
    def of(cls, event_id: str) -> TraceIds:
        return cls._from(_digest(event_id))

    @classmethod
    def _from(cls, digest: bytes) -> TraceIds:
        return cls(int.from_bytes(digest[:16]), int.from_bytes(digest[16:24]), int.from_bytes(digest[24:32]))


class Sampling:
    """Which share of the messages is traced: by a trace id's lower half, as OpenTelemetry's own sampler."""

    def __init__(self, ratio: float) -> None:
        self._below = round(ratio * (1 << 64))

    def choose(self, event_id: str) -> TraceIds | None:
        """The ids of the event's trace, or None when it is not to be traced."""
        digest = _digest(event_id)
        return TraceIds._from(digest) if self._wants(digest) else None

    def traceparent(self, event_id: str) -> str:
        """The W3C header with which a reader goes on; it also says whether the message is traced."""
        digest = _digest(event_id)
        return f"00-{digest[:16].hex()}-{digest[24:32].hex()}-{'01' if self._wants(digest) else '00'}"

    def _wants(self, digest: bytes) -> bool:
        return int.from_bytes(digest[8:16]) < self._below


def _digest(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode(), digest_size=32, person=b"telegram-trace").digest()


def sampling(settings: Settings) -> Sampling | None:
    """The sampling that is set, or None while tracing is off."""
    return Sampling(settings.tracing_ratio) if settings.tracing_endpoint else None


def start_tracing(settings: Settings) -> Tracing | None:
    """The tracing that is set, or None while it is off. Raises ConfigurationError without its packages."""
    chosen = sampling(settings)
    if chosen is None or settings.tracing_endpoint is None:
        return None
    try:
        from gateway.spans import Tracing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"opentelemetry", "google", "requests"}:
            raise
        raise ConfigurationError(
            "TELEGRAM_TRACING_ENDPOINT is set, but the packages for it are not installed; install "
            "telegram-gateway[tracing] into this environment, or unset TELEGRAM_TRACING_ENDPOINT"
        ) from None
    return Tracing(settings.tracing_endpoint, chosen)
