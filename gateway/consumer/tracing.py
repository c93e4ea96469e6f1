"""Lets a handler go on with the trace that the gateway began, in a program that uses OpenTelemetry itself."""

import sys
from contextlib import AbstractContextManager, nullcontext

from gateway.consumer.delivery import Delivery

_OFF: AbstractContextManager[object] = nullcontext()


def traced(delivery: Delivery, consumer: str) -> AbstractContextManager[object]:
    """The span of one attempt, with the program's own provider; nothing in a program that has none."""
    if delivery.traceparent is None or "opentelemetry.trace" not in sys.modules:
        return _OFF
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # imported, and not set up
        return _OFF

    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return trace.get_tracer("gateway.consumer").start_as_current_span(
        f"process {consumer}",
        context=TraceContextTextMapPropagator().extract({"traceparent": delivery.traceparent}),
        kind=trace.SpanKind.CONSUMER,
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": consumer,
        },
        # What a handler raises may quote the message.
        record_exception=False,
        set_status_on_exception=False,
    )
