"""One way to fail: a server that does not answer is SinkUnavailable, whatever its client raises."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from redis.exceptions import RedisError

from gateway.database.connection import CONNECTION_LOST
from gateway.errors import SinkUnavailable

# Connections, transactions in conflict, resources, locks, operators and the system: not what was asked.
_PASSING = {"08", "25", "40", "53", "55", "57", "58"}


@contextmanager
def answering(server: str) -> Iterator[None]:
    """Raises SinkUnavailable when `server` fails inside; not when the question was wrong."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "")[:2] not in _PASSING:
            raise
        raise SinkUnavailable(f"{server} did not answer: {error}") from error
    except (*CONNECTION_LOST, RedisError) as error:
        raise SinkUnavailable(f"{server} did not answer: {str(error) or type(error).__name__}") from error
