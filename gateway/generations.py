"""Marks in Redis that say when cached answers stopped being true: one for each thing they depend on.

Whoever changes such a thing (a consumer's processing state, say) commits the change first and then renews its
mark; whoever caches reads the marks before it computes, and keeps them with what it computed
(`gateway.api.caching`). A mark is random, never counted: one that was evicted and begins again must not equal
any that was there before.
"""

import uuid

from redis.asyncio import Redis

KEEP_SECONDS = 3600  # longer than any cached answer lives; an absent mark is made anew by who reads it


def generation_key(consumer: str) -> str:
    """The mark of a consumer's processing state."""
    return f"telegram:api:generation:{consumer}"


async def renew(redis: Redis, *keys: str) -> None:
    """Makes every answer untrue that was cached under these marks. Raises RedisError."""
    for key in keys:
        await redis.set(key, uuid.uuid4().hex, ex=KEEP_SECONDS)
