"""Every metric of the API's process, in one place.

All start with `telegram_gateway_api_`; no ids as labels.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)

_P = "telegram_gateway_api_"
REQUESTS = Counter(
    f"{_P}requests_total",
    "Answered requests, by the route's template.",
    ("method", "route", "code"),
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    f"{_P}request_seconds",
    "Time from a request's arrival to the first byte of its answer.",
    ("method", "route"),
    registry=REGISTRY,
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_FLIGHT = Gauge(
    f"{_P}requests_in_flight", "Requests being answered now, streams included.", registry=REGISTRY
)
CACHE = Counter(
    f"{_P}cache_total",
    "Answers looked up in the response cache: hit, miss, or off.",
    ("result",),
    registry=REGISTRY,
)
RATE_LIMITED = Counter(
    f"{_P}rate_limited_total", "Requests refused with 429, by limit.", ("limit",), registry=REGISTRY
)
AUTHENTICATION_FAILED = Counter(
    f"{_P}authentication_failed_total",
    "Requests without a token that holds, by why.",
    ("reason",),
    registry=REGISTRY,
)
STREAM_CLIENTS = Gauge(f"{_P}stream_clients", "Clients that listen to a live stream.", registry=REGISTRY)
DEPENDENCY_UP = Gauge(
    f"{_P}dependency_up", "1 while it answered when it was last asked.", ("name",), registry=REGISTRY
)
