"""What the worker exports: signals by outcome, and the consumer library's figures, four of them renamed.

Base units, no chat ids as labels. The library's own names (`telegram_consumer_…`) are there as well.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_AS_OURS = {
    "telegram_consumer_lag_seconds": "tp_capital_polling_lag_seconds",
    "telegram_consumer_cache_hits": "tp_capital_cache_hits",
    "telegram_consumer_cache_misses": "tp_capital_cache_misses",
    "telegram_consumer_fallbacks": "tp_capital_fallbacks",
}


class Metrics:
    """One worker's metrics; `registry` has all of them, `library` is for the consumer library to fill."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.library = CollectorRegistry()
        self.registry.register(_AlsoAsOurs(self.library))
        self.signals = Counter(
            "tp_capital_signals_total",
            "Messages read: stored, outdated, withdrawn, failed or ignored, and why.",
            ("outcome", "reason"),
            registry=self.registry,
        )


class _AlsoAsOurs(Collector):
    def __init__(self, library: CollectorRegistry) -> None:
        self._library = library

    def collect(self) -> Iterable[Metric]:
        for metric in self._library.collect():
            yield metric
            if metric.name in _AS_OURS:
                yield _renamed(metric, _AS_OURS[metric.name])


def _renamed(metric: Metric, name: str) -> Metric:
    renamed = Metric(name, metric.documentation, metric.type)
    for sample in metric.samples:
        if sample.name.endswith("_created"):
            continue
        labels = {label: value for label, value in sample.labels.items() if label != "consumer"}
        renamed.samples.append(Sample(name + sample.name.removeprefix(metric.name), labels, sample.value))
    return renamed
