"""What people ask of running gateways through the database: which chats are off, and comparisons.

Each statement stands by itself, so that all of it works through a transaction pooler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from gateway.database.connection import Connection

# A gateway says every two seconds that it works on a request; silent for this long, it is gone.
SILENCE = timedelta(seconds=20)
OPEN_AT_ONCE = 100

_OFF = "SELECT account_scope, id FROM telegram_gateway.channels WHERE NOT is_active"
_OPEN = """
SELECT id, lease, account_scope, channel_id, since
FROM telegram_gateway.sync_requests
WHERE state = 'pending' OR state = 'running' AND renewed_at < now() - $1::interval
ORDER BY requested_at LIMIT $2
"""
_TAKE = """
UPDATE telegram_gateway.sync_requests AS request
SET state = 'running', taken_by = $3, renewed_at = now(), started_at = coalesce(started_at, now()),
    attempts = attempts + 1
FROM (
    SELECT id, lease FROM telegram_gateway.sync_requests
    WHERE (id, lease) = ($1, $2)
        AND (state = 'pending' OR state = 'running' AND renewed_at < now() - $4::interval)
    FOR UPDATE SKIP LOCKED
) AS free
WHERE (request.id, request.lease) = (free.id, free.lease)
RETURNING true
"""
_REPORT = """
UPDATE telegram_gateway.sync_requests
SET state = $4, result = $5::jsonb, error = $6, renewed_at = now(),
    finished_at = CASE WHEN $4 IN ('done', 'failed') THEN now() END
WHERE (id, lease, taken_by) = ($1, $2, $3) AND state = 'running'
"""


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """Compare with Telegram: all chats of a gateway, or one, and that one since a moment."""

    id: UUID
    lease: str
    account_scope: int
    channel_id: str | None
    since: datetime | None


@dataclass(slots=True)
class SyncOutcome:
    """How far a gateway is with a request."""

    state: str = "running"
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


async def chats_off(connection: Connection) -> list[tuple[int, str]]:
    """Account scope and id of every chat that is switched off."""
    return [(row[0], row[1]) for row in await connection.fetch(_OFF)]


async def open_requests(connection: Connection) -> list[SyncRequest]:
    """Requests that nobody works on, the oldest first."""
    return [SyncRequest(**row) for row in await connection.fetch(_OPEN, SILENCE, OPEN_AT_ONCE)]


async def take_request(connection: Connection, request: SyncRequest, taker: str) -> bool:
    """Whether `taker` has it now; not when another was faster."""
    return bool(await connection.fetchval(_TAKE, request.id, request.lease, taker, SILENCE))


async def report_requests(
    connection: Connection, taker: str, outcomes: Sequence[tuple[SyncRequest, SyncOutcome]]
) -> None:
    """Says how far `taker` is with each, or how it ended."""
    for request, outcome in outcomes:
        result = msgspec.json.encode(outcome.result).decode()
        await connection.execute(
            _REPORT, request.id, request.lease, taker, outcome.state, result, outcome.error
        )
