"""What both databases are reduced to so that they can be compared: rows of one form, and fingerprints of
them.

A row is one message as the old stack could hold it: its newest content, and what one consumer made of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from gateway.database.connection import CONNECTION_LOST
from gateway.errors import GatewayError

# Over the columns of a row in that form. Numbers and keys of JSON are normalised by jsonb on both sides.
CONTENT = """
md5(jsonb_build_array(
    (extract(epoch FROM telegram_date) * 1000000)::bigint, (extract(epoch FROM received_at) *
    1000000)::bigint,
    thread_id, text, caption, media_type, media, sender_id, sender_name, sender_username, metadata
)::text)
"""
# What a consumer ignored and what it published are the same to the old stack: it is done.
STATE = """
md5(jsonb_build_array(
    CASE status WHEN 'ignored' THEN 'published' ELSE coalesce(status, 'received') END, coalesce(attempts,
    0), error,
    (extract(epoch FROM deleted_at) * 1000000)::bigint
)::text)
"""
# Of a chat's day: how many messages, and the sum of their fingerprints, which no order changes.
BUCKETS = """
SELECT channel_id, day, count(*) AS messages,
    sum(('x' || left(content, 15))::bit(60)::bigint) AS content,
    sum(('x' || left(state, 15))::bit(60)::bigint) AS state
FROM compared GROUP BY channel_id, day
"""
# The fields that a row may lack because the old table has no column for them.
OPTIONAL = (
    *("thread_id", "caption", "media_type", "media", "sender_id", "sender_name", "sender_username"),
    *("metadata", "attempts", "error", "deleted_at"),
)
EXTRA = "old_gateway"  # in our metadata: the old row's columns that have no place of their own here
CHANNELS_ABOVE = 1_000_000_000_000  # marked ids of channels and supergroups are below minus this


@contextmanager
def working_on(side: str) -> Iterator[None]:
    """Says of which of the two databases a failure is. Raises GatewayError."""
    try:
        yield
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        raise GatewayError(
            f"the {side} database did not carry it out: {error}; put it right, and run this again"
        ) from error
