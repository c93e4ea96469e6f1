"""The spans of traced messages, made with OpenTelemetry and sent over OTLP/HTTP by a thread of their own.

Every span is made after the fact, when a commit or a batch is through. At most MESSAGE_SPANS messages of one
commit or batch get spans; the span of the batch links to more of them. What the collector does not take in
time is dropped: nothing here waits for it.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from heapq import nsmallest

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway import __version__
from gateway.event import Event
from gateway.journal import Record
from gateway.logs import redact
from gateway.metrics import TRACE_SPANS
from gateway.tracing import Sampling, TraceIds

log = structlog.get_logger()

MESSAGE_SPANS = 32  # of one commit or batch
LINKS = 128  # of a batch's span; OpenTelemetry's own limit
QUEUED_SPANS = 4096  # some 3 KB each; beyond them the oldest are dropped
SEND_SECONDS = 1.0  # between two requests to the collector
ANSWER_SECONDS = 5.0
CLOSE_SECONDS = 2.0  # that a stop waits for the last spans to be taken

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_PUBLISHER = "rabbitmq"


class Tracing:
    """Makes the spans of the messages that `sampling` wants; used from the event loop only."""

    def __init__(self, endpoint: str, sampling: Sampling) -> None:
        self._sampling = sampling
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # only what is wanted comes this far
            resource=Resource.create({"service.name": "telegram-gateway", "service.version": __version__}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        # It tells of a collector that is away at every attempt; `_Reporting` does so once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _Reporting(OTLPSpanExporter(endpoint, timeout=ANSWER_SECONDS)),
                max_queue_size=QUEUED_SPANS,
                schedule_delay_millis=SEND_SECONDS * 1000,
                max_export_batch_size=512,
            )
        )
        self._tracer = self._provider.get_tracer("gateway", __version__)

    def journaled(self, records: Sequence[Record], appended: int, durable: int) -> None:
        """The records became durable together; both times are in nanoseconds since 1970."""
        for ids, record in self._chosen(records)[:MESSAGE_SPANS]:
            event = record.event
            received = _received(event)
            self._ids.given = (ids.trace, ids.receive)
            receive = self._tracer.start_span(
                "receive",
                context=Context(),
                kind=SpanKind.CONSUMER,
                start_time=received,
                attributes={
                    "messaging.system": "telegram",
                    "messaging.operation.type": "receive",
                    "messaging.message.id": event.id,
                    "messaging.destination.name": event.channel_id,
                    "telegram_gateway.account": event.account,
                    "telegram_gateway.kind": event.kind,
                    "telegram_gateway.source": event.source,
                },
            )
            journal = self._tracer.start_span(
                "journal",
                context=set_span_in_context(receive),
                start_time=max(received, appended),
                attributes={
                    "telegram_gateway.seq": record.seq,
                    "telegram_gateway.commit.events": len(records),
                },
            )
            journal.end(durable)
            receive.end(durable)
            TRACE_SPANS.labels("made").inc(2)

    def delivered(
        self, sink: str, records: Sequence[Record], begun: int, ended: int, refused: Mapping[int, str]
    ) -> None:
        """The sink has acknowledged the records, but for those that it refused for good."""
        chosen = self._chosen(records)
        if not chosen:
            return
        batch = self._batch(sink, records, chosen, begun)
        link = Link(batch.get_span_context())
        for ids, record in chosen[:MESSAGE_SPANS]:
            if sink == _PUBLISHER:
                self._ids.given = (ids.trace, ids.publish)
            event = record.event
            span = self._tracer.start_span(
                f"deliver {sink}",
                context=_inside(ids),
                kind=SpanKind.PRODUCER if sink == _PUBLISHER else SpanKind.CLIENT,
                start_time=begun,
                links=(link,),
                attributes={
                    "telegram_gateway.sink": sink,
                    "telegram_gateway.seq": record.seq,
                    "telegram_gateway.body.bytes": len(record.body),
                    "telegram_gateway.waited_seconds": max(0, begun - _received(event)) / 1e9,
                    "messaging.message.id": event.id,
                },
            )
            if reason := refused.get(record.seq):
                span.set_status(StatusCode.ERROR, redact(reason))
            span.end(ended)
        batch.end(ended)
        TRACE_SPANS.labels("made").inc(1 + min(len(chosen), MESSAGE_SPANS))

    def failed(self, sink: str, records: Sequence[Record], begun: int, ended: int, reason: str) -> None:
        """The sink did not take the records; they will be offered again."""
        if chosen := self._chosen(records):
            batch = self._batch(sink, records, chosen, begun)
            batch.set_status(StatusCode.ERROR, redact(reason))
            batch.end(ended)
            TRACE_SPANS.labels("made").inc()

    def close(self) -> None:
        """Sends what is left, as far as the collector takes it at once."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _chosen(self, records: Sequence[Record]) -> list[tuple[TraceIds, Record]]:
        """The records that are traced, by trace id: of too many, every stage takes the same ones."""
        choose = self._sampling.choose
        found = [(ids, record) for record in records if (ids := choose(record.event.id)) is not None]
        return nsmallest(LINKS, found, key=lambda each: each[0].trace)

    def _batch(
        self, sink: str, records: Sequence[Record], chosen: Sequence[tuple[TraceIds, Record]], begun: int
    ) -> Span:
        return self._tracer.start_span(
            f"batch {sink}",
            context=Context(),
            kind=SpanKind.CLIENT,
            start_time=begun,
            links=[Link(_receipt(ids)) for ids, _ in chosen],
            attributes={
                "telegram_gateway.sink": sink,
                "messaging.batch.message_count": len(records),
                "telegram_gateway.body.bytes": sum(len(record.body) for record in records),
            },
        )


class _GivenIds(RandomIdGenerator):
    """Random ids, but for the next span when `given` says which it has."""

    given: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.given[0] if self.given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        given, self.given = self.given, None
        return given[1] if given else super().generate_span_id()


class _Reporting(SpanExporter):
    """Counts what the collector takes, and says once that it is away and once that it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        away = result is not SpanExportResult.SUCCESS
        TRACE_SPANS.labels("failed" if away else "exported").inc(len(spans))
        if away and not self._away:
            log.warning("tracing_collector_away", spans=len(spans))
        elif self._away and not away:
            log.info("tracing_collector_back")
        self._away = away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _receipt(ids: TraceIds) -> SpanContext:
    return SpanContext(ids.trace, ids.receive, is_remote=False, trace_flags=_SAMPLED)


def _inside(ids: TraceIds) -> Context:
    return set_span_in_context(NonRecordingSpan(_receipt(ids)), Context())


def _received(event: Event) -> int:
    return round(event.received_at.timestamp() * 1e6) * 1000
