"""How much a token may ask for, counted in Redis across processes, and how often an address may guess tokens.

The limit is a bucket of `limit` requests that refills evenly within a minute (GCRA: one moment per token says
when it will be full again). Each process asks Redis for that moment at most ten times a second and token,
and counts by itself in between and while Redis is down: a request waits for at most one round trip, most for
none.
"""

import asyncio
import math
import time
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import Request

from gateway.api import metrics
from gateway.api.problems import Problem

log = structlog.get_logger()

WINDOW_SECONDS = 60
POLICY = "requests"
SYNC_SECONDS = 0.1
ANSWER_SECONDS = 0.25
REMEMBERED = 10_000

# KEYS: the token's moment. ARGV: seconds for each request, how many were let through, how long to keep it.
# The server's clock is the one that counts. Returns by how many seconds the moment lies ahead.
_SCRIPT = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + ARGV[1] * ARGV[2]
redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'EX', ARGV[3])
return string.format('%.6f', full_at - now)
"""


@dataclass(slots=True)
class _Bucket:
    full_at: float = 0.0  # monotonic seconds
    uncounted: int = 0  # let through since Redis was last told
    synced_at: float = -math.inf
    syncing: bool = False


class RateLimiter:
    """Counts requests per token. `limit` requests a minute; 0 turns it off."""

    def __init__(self, redis: Redis, limit: int) -> None:
        self._limit = limit
        self._interval = WINDOW_SECONDS / limit if limit else 0.0
        self._script = redis.register_script(_SCRIPT)
        self._buckets: dict[int, _Bucket] = {}
        self._policy = f'"{POLICY}";q={limit};w={WINDOW_SECONDS}'

    async def count(self, request: Request, token_id: int) -> None:
        """Counts one request, and says so in its answer. Raises a 429 problem when none is left."""
        if not self._limit:
            return
        bucket = self._buckets.get(token_id)
        if bucket is None:
            if len(self._buckets) >= REMEMBERED:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[token_id] = _Bucket()
        now = time.monotonic()
        if not bucket.syncing and now - bucket.synced_at >= SYNC_SECONDS:
            await self._sync(bucket, token_id)
            now = time.monotonic()
        full_at = max(bucket.full_at, now) + self._interval
        behind = full_at - now
        allowed = behind <= WINDOW_SECONDS + 1e-6
        if allowed:
            bucket.full_at = full_at
            bucket.uncounted += 1
        else:
            behind -= self._interval
        left = max(0, int((WINDOW_SECONDS - behind) / self._interval + 1e-6))
        headers = {
            "RateLimit-Policy": self._policy,
            "RateLimit": f'"{POLICY}";r={left};t={math.ceil(behind)}',
        }
        if not allowed:
            metrics.RATE_LIMITED.labels("token").inc()
            wait = math.ceil(behind + self._interval - WINDOW_SECONDS)
            raise too_many(f"This token has made {self._limit} requests within a minute.", wait, headers)
        request.scope["state"]["headers"] = headers

    async def _sync(self, bucket: _Bucket, token_id: int) -> None:
        told, bucket.uncounted = bucket.uncounted, 0
        bucket.syncing = True
        key = f"telegram:api:rate:{token_id}"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                ahead = float(await self._script(keys=[key], args=[self._interval, told, WINDOW_SECONDS * 2]))
        except (RedisError, OSError, TimeoutError) as error:
            # What was let through counts once more with the next sync, and here and now all the same.
            bucket.uncounted += told
            log.debug("rate_limit_local", reason=type(error).__name__)
        else:
            bucket.full_at = time.monotonic() + ahead + bucket.uncounted * self._interval
        finally:
            bucket.syncing = False
            bucket.synced_at = time.monotonic()


class AddressLimit:
    """How many requests without a good token an address may make a minute, counted in this process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._interval = WINDOW_SECONDS / limit
        self._full_at: dict[str, float] = {}

    def count(self, address: str) -> None:
        """One more failed."""
        if len(self._full_at) >= REMEMBERED and address not in self._full_at:
            del self._full_at[next(iter(self._full_at))]
        self._full_at[address] = max(self._full_at.get(address, 0.0), time.monotonic()) + self._interval

    def refuse_if_exhausted(self, address: str) -> None:
        """Raises a 429 problem once the address has failed too often."""
        behind = self._full_at.get(address, 0.0) - time.monotonic() + self._interval
        if behind > WINDOW_SECONDS + 1e-6:
            metrics.RATE_LIMITED.labels("address").inc()
            raise too_many("Too many requests without a good token.", math.ceil(behind - WINDOW_SECONDS))


def too_many(detail: str, wait: float, headers: dict[str, str] | None = None) -> Problem:
    """A 429 that says when to come back."""
    seconds = max(1, math.ceil(wait))
    return Problem(429, "Too Many Requests", detail, headers={**(headers or {}), "Retry-After": str(seconds)})
