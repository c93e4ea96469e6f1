"""What a consumer exports, in any registry: base units, one label that is the consumer's name."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_HANDLER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


class _Family:
    """The metrics of all consumers that share one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"telegram_consumer_{name}", text, ("consumer", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"telegram_consumer_{name}", text, ("consumer",), registry=registry, buckets=buckets
            )

        self.received = counter(
            "received_total", "Events that came in, repeats included, by where from.", "source"
        )
        self.handled = counter(
            "handled_total",
            "Events that are done with: handled, ignored, parked, duplicate or unwanted.",
            "outcome",
        )
        self.retries = counter("retries_total", "Failed attempts after which another one follows.")
        self.parked = counter(
            "parked_total", "Events given up, by why: attempts, rejected, unreadable.", "why"
        )
        self.handler_seconds = histogram("handler_seconds", "One run of the handler.", _HANDLER_BUCKETS)
        self.lag_seconds = histogram(
            "lag_seconds", "From the gateway's receipt of an event to the end of its effect.", _LAG_BUCKETS
        )
        self.in_flight = Gauge(
            "telegram_consumer_in_flight",
            "Events that are being handled, or wait for another attempt.",
            ("consumer",),
            registry=registry,
        )
        self.queue_connected = Gauge(
            "telegram_consumer_queue_connected",
            "1 while the queue delivers.",
            ("consumer",),
            registry=registry,
        )
        self.reconnects = counter("reconnects_total", "Connections to RabbitMQ that were lost or refused.")
        self.poll_seconds = histogram("poll_seconds", "One poll, without the handling.", _HANDLER_BUCKETS)
        self.cache_hits = counter("cache_hits_total", "Polled events that Redis had.")
        self.cache_misses = counter("cache_misses_total", "Polled events that only the database had.")
        self.fallbacks = counter(
            "fallbacks_total", "Polls that the database answered because Redis could not."
        )


_families: dict[CollectorRegistry, _Family] = {}


class ConsumerMetrics:
    """The metrics of one consumer. Consumers of one process may share a registry."""

    def __init__(self, consumer: str, registry: CollectorRegistry | None = None) -> None:
        registry = registry if registry is not None else REGISTRY
        family = _families.get(registry)
        if family is None:
            family = _families[registry] = _Family(registry)
        self._family = family
        self._consumer = consumer
        self.retries = family.retries.labels(consumer)
        self.handler_seconds = family.handler_seconds.labels(consumer)
        self.lag_seconds = family.lag_seconds.labels(consumer)
        self.in_flight = family.in_flight.labels(consumer)
        self.queue_connected = family.queue_connected.labels(consumer)
        self.reconnects = family.reconnects.labels(consumer)
        self.poll_seconds = family.poll_seconds.labels(consumer)
        self.cache_hits = family.cache_hits.labels(consumer)
        self.cache_misses = family.cache_misses.labels(consumer)
        self.fallbacks = family.fallbacks.labels(consumer)

    def received(self, source: str) -> None:
        """One event came in from `source`: queue, cache or database."""
        self._family.received.labels(self._consumer, source).inc()

    def handled(self, outcome: str) -> None:
        """One event is done with."""
        self._family.handled.labels(self._consumer, outcome).inc()

    def parked(self, why: str) -> None:
        """One event was given up."""
        self._family.parked.labels(self._consumer, why).inc()
