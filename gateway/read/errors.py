"""One way to fail: a server that does not answer is SinkUnavailable, whatever its client raises."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from redis.exceptions import RedisError

from gateway.errors import SinkUnavailable


@contextmanager
def answering(server: str) -> Iterator[None]:
    """Raises SinkUnavailable when `server` fails inside."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, RedisError, OSError) as error:
        raise SinkUnavailable(f"{server} did not answer: {str(error) or type(error).__name__}") from error
