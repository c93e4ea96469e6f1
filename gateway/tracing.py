"""Optional traces of a message's way: received, journaled, delivered to each sink, handled by a consumer.

The ids of a message's trace follow from its event id. So the journal carries nothing for it, and a sink that
delivers after a crash, or hours later, adds to the trace that the receipt began. OpenTelemetry itself is
behind `gateway.spans`, which is imported when TELEGRAM_TRACING_ENDPOINT is set and never otherwise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import ConfigurationError
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.spans import Tracing

_LOWER_HALF = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class TraceIds:
    """The trace of one event: its id, its first span, and the publishing's, from which consumers go on."""

    trace: int
    receive: int
    publish: int

    @classmethod
    def of(cls, event_id: str) -> TraceIds:
        digest = hashlib.blake2b(event_id.encode(), digest_size=32, person=b"telegram-trace").digest()
        return cls(*(int.from_bytes(digest[start:end]) for start, end in ((0, 16), (16, 24), (24, 32))))

    @property
    def rank(self) -> int:
        """What sampling goes by, as in OpenTelemetry's own TraceIdRatioBased: all parts choose alike."""
        return self.trace & _LOWER_HALF


class Sampling:
    """Which share of the messages is traced."""

    def __init__(self, ratio: float) -> None:
        self._below = round(ratio * (1 << 64))

    def wants(self, ids: TraceIds) -> bool:
        return ids.rank < self._below

    def traceparent(self, event_id: str) -> str:
        """The W3C header with which a reader goes on; it also says whether the message is traced."""
        ids = TraceIds.of(event_id)
        return f"00-{ids.trace:032x}-{ids.publish:016x}-{self.wants(ids):02x}"


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
