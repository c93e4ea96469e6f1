"""Answers kept for a few seconds: in Redis for every process of the API, and at the client by ETag.

Why a cached answer never shows a message as unprocessed after its ack was answered:

- an answer is stored with its *stamp*: the marks (`gateway.generations`) of what it depends on, as they were
  before it was computed, and it counts only while they are all the same;
- an ack renews its consumer's mark after its commit and before its own answer (`ResponseCache.changed`), so
  what was computed, or is being computed, from older data can never match again;
- a mark that Redis lost begins anew with a random value, and the stamp holds the server's replication id,
  which changes with every failover: what an older master knew counts for nothing.

A mark that cannot be renewed, because Redis is away, is renewed as soon as it is back; this process serves
nothing under it before. Only where the one who acknowledges is cut off from a Redis that others still reach
may those read what they cached for up to `LONGEST_SECONDS` more.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import metrics
from gateway.api.auth import Caller
from gateway.generations import KEEP_SECONDS, renew

log = structlog.get_logger()

LONGEST_SECONDS = 30
LARGEST_BYTES = 512 << 10  # what is larger is not worth the memory of the hot cache
COMPRESSED_BYTES = 1024  # smaller answers are not worth the time
COMPRESSION_LEVEL = 4  # within 5 % of the best on JSON, in a third of the time
ANSWER_SECONDS = 0.25  # a slow cache is none
RETRY_SECONDS = 1.0

# KEYS: the answer, then the marks it depends on. ARGV: a new mark, how long to keep it. Returns the stamp,
# and the answer if it was stored under that stamp.
_READ = """
local stamp = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
for i = 2, #KEYS do
  local mark = redis.call('GET', KEYS[i])
  if not mark then
    mark = ARGV[1]
    redis.call('SET', KEYS[i], mark, 'EX', ARGV[2])
  end
  stamp = stamp .. ':' .. mark
end
local stored = redis.call('GET', KEYS[1])
if stored and string.sub(stored, 1, #stamp + 1) == stamp .. '\\n' then
  return {stamp, string.sub(stored, #stamp + 2)}
end
return {stamp}
"""


class ResponseCache:
    """At `resources.cache`. Without Redis it computes every answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._read = redis.register_script(_READ)
        self._unrenewed: set[str] = set()
        self._lost = asyncio.Event()

    async def cached(
        self,
        key_parts: Sequence[object],
        generation_keys: Sequence[str],
        compute: Callable[[], Awaitable[bytes]],
        *,
        caller: Caller,
        seconds: int = LONGEST_SECONDS,
    ) -> bytes:
        """The answer's body, computed or kept from a caller who sees the same chats.

        `key_parts` are the operation's name and everything else the answer depends on (each by its `repr`);
        the chats that `caller` may see are added. `generation_keys` are the marks under which it is true,
        such as `generation_key(consumer)` for each consumer whose state is in it; they are read before
        `compute` is called. At most 30 s old, or `seconds` if that is less.
        """
        if self._unrenewed.intersection(generation_keys):
            metrics.CACHE.labels("off").inc()
            return await compute()
        key = _key(key_parts, caller)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await self._read(keys=[key, *generation_keys], args=[uuid.uuid4().hex, KEEP_SECONDS])
        except (RedisError, OSError, TimeoutError):
            metrics.CACHE.labels("off").inc()
            return await compute()
        if len(found) == 2 and not self._unrenewed.intersection(generation_keys):
            metrics.CACHE.labels("hit").inc()
            return bytes(found[1])
        metrics.CACHE.labels("miss").inc()
        body = await compute()
        if len(body) <= LARGEST_BYTES:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._redis.set(key, found[0] + b"\n" + body, ex=min(seconds, LONGEST_SECONDS))
        return body

    async def changed(self, *generation_keys: str) -> None:
        """Ends every cached answer under these marks. Call it after the commit and before answering.

        Never fails: without Redis nothing is served from it either, and they are renewed once it is back.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await renew(self._redis, *generation_keys)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("cache_marks_not_renewed", reason=type(error).__name__)
            self._unrenewed.update(generation_keys)
            self._lost.set()

    async def run(self) -> None:
        """Renews the marks that could not be renewed when they should have been, until cancelled."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            while self._unrenewed:
                await asyncio.sleep(RETRY_SECONDS)
                waiting = tuple(self._unrenewed)
                with suppress(RedisError, OSError, TimeoutError):
                    await renew(self._redis, *waiting)
                    self._unrenewed.difference_update(waiting)
                    log.info("cache_marks_renewed", marks=len(waiting))


def answer(
    request: Request,
    body: bytes,
    *,
    media_type: str = "application/json",
    max_age_seconds: int = 0,
    headers: Mapping[str, str] | None = None,
    etag: str | None = None,
    encoding: str | None = None,
) -> Response:
    """`body` with an ETag (`etag_of` it, if it is not known yet), or 304 when the client has it.

    With an `encoding` the body is in that one already, and the ETag is that of what it holds.

    Unless `max_age_seconds` says otherwise a client may keep it but has to ask whether it still holds.
    """
    etag = etag or etag_of(body)
    keep = f"private, max-age={max_age_seconds}" if max_age_seconds else "private, no-cache"
    all_headers = {
        **(headers or {}),
        "ETag": etag,
        "Cache-Control": keep,
        # Of what is not compressed yet, the layer that does it says so.
        "Vary": "Authorization, X-API-Token" + (", Accept-Encoding" if encoding is not None else ""),
    }
    if _matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=all_headers)
    if encoding is not None:
        all_headers["Content-Encoding"] = encoding
    return Response(body, headers=all_headers, media_type=media_type)


def etag_of(body: bytes) -> str:
    """Weak: the same answer may go out compressed or not."""
    return f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def _matches(if_none_match: str, etag: str) -> bool:
    if not if_none_match:
        return False
    opaque = etag.removeprefix("W/")
    return any(
        candidate == "*" or candidate.removeprefix("W/") == opaque
        for candidate in (each.strip() for each in if_none_match.split(","))
    )


def _key(key_parts: Sequence[object], caller: Caller) -> str:
    visible = None if caller.chats is None else sorted(caller.chats)
    digest = hashlib.blake2b(repr((*key_parts, visible)).encode(), digest_size=16).hexdigest()
    return f"telegram:api:answer:{digest}"
