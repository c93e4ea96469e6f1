"""Time for the servers: while a test only prepares, a machine that stands still for seconds is no outage."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

LIMITS = (
    *("gateway.sinks.redis.CONNECT_TIMEOUT", "gateway.sinks.redis.ANSWER_TIMEOUT"),
    *("gateway.sinks.rabbitmq.OPEN_TIMEOUT", "gateway.sinks.rabbitmq.CHECK_TIMEOUT"),
    *("gateway.sinks.amqp.CONFIRM_TIMEOUT", "gateway.dead_letters.OPEN_TIMEOUT"),
)


@contextmanager
def patience(seconds: float = 90.0) -> Iterator[None]:
    """Sinks that are opened inside wait so long for their servers, and the dead letters for theirs."""
    with ExitStack() as stack:
        for limit in LIMITS:
            stack.enter_context(patch(limit, seconds))
        yield
