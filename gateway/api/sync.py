"""Asking the gateways to compare with Telegram now. A request waits in the database for whoever can do it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import asyncpg
import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from gateway.api.auth import Admin, Caller
from gateway.api.channels import ChannelId
from gateway.api.model import ApiModel, GivenMoment, Moment
from gateway.api.problems import Problem
from gateway.api.resources import Resources

router = APIRouter(prefix="/api/sync", tags=["sync"])

State = Literal["pending", "running", "done", "failed"]
KEPT = timedelta(days=30)
OPEN_LIMIT = 100
SILENCE = timedelta(minutes=1)  # after which nobody waits for an account's gateway to take its part

_CHAT = "SELECT is_active FROM telegram_gateway.channels WHERE (account_scope, id) = ($1, $2)"
_OPEN = "SELECT count(*) FROM telegram_gateway.sync_requests WHERE state IN ('pending', 'running')"
_FORGET = """
DELETE FROM telegram_gateway.sync_requests
WHERE state IN ('done', 'failed') AND finished_at < now() - $1::interval
"""
# A comparison of everything has a part for each account under a lease; without leases, one for any gateway.
_ADD = """
WITH held AS (
    SELECT name FROM telegram_gateway.account_leases
    WHERE $3::text IS NULL AND name LIKE 'user:%' AND released_at IS NULL AND acquired_at IS NOT NULL
      AND renewed_at > now() - $6::interval
)
INSERT INTO telegram_gateway.sync_requests (id, lease, account_scope, channel_id, since, requested_by)
SELECT $1::uuid, name, $2::bigint, $3, $4::timestamptz, $5::text
FROM (SELECT name FROM held UNION ALL SELECT '' WHERE NOT EXISTS (SELECT FROM held)) part
"""
_PARTS = "SELECT * FROM telegram_gateway.sync_requests WHERE id = $1 ORDER BY lease"


class SyncOrder(ApiModel):
    """Without a channel: every chat's newest message is compared. With one: what is newer than anything known
    of it is fetched, and with a moment also its history from then on.
    """

    channel_id: ChannelId | None = None
    account_scope: int = Field(default=0, ge=0, lt=1 << 63, strict=True, examples=[0])
    since: GivenMoment | None = Field(default=None, examples=["2026-11-01T00:00:00Z"])


class SyncCounts(ApiModel):
    """What came of it so far; a count that does not apply is 0."""

    accounts: int = Field(default=0, description="Accounts whose chats were all compared.")
    channels_behind: int = Field(default=0, description="Channels whose update state was behind.")
    gaps_opened: int = Field(
        default=0, description="Ranges of messages found missing; backfill fetches them."
    )
    messages: int = Field(default=0, description="Ids of the one channel to be fetched.")
    messages_left: int = 0
    messages_absent: int = Field(default=0, description="Of these, ids that Telegram turned out not to have.")


class SyncRequest(ApiModel):
    """A request and what became of it. Pending means that no gateway that could do it has taken it yet."""

    id: UUID
    state: State
    channel_id: str | None
    account_scope: int
    since: Moment | None
    requested_by: str
    requested_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    attempts: int = Field(description="More than one after a gateway stopped in the middle.")
    counts: SyncCounts
    error: str | None


@router.post(
    "",
    status_code=202,
    responses={
        202: {"headers": {"Location": {"schema": {"type": "string"}}}},
        404: {"description": "There is no such chat."},
        409: {"description": "The chat is switched off, or too many requests wait."},
    },
)
async def start_sync(request: Request, response: Response, caller: Admin, order: SyncOrder) -> SyncRequest:
    """Has the gateways compare with Telegram now. Ask `Location` what became of it."""
    resources: Resources = request.app.state.resources
    database = resources.database
    await _check(resources, caller, order)
    if await database.fetchval(_OPEN) >= OPEN_LIMIT:
        raise Problem(409, "Conflict", f"{OPEN_LIMIT} requests wait already; is a gateway running?")
    await database.execute(_FORGET, KEPT)
    id_ = uuid4()
    await database.execute(
        _ADD, id_, order.account_scope, order.channel_id, order.since, caller.name, SILENCE
    )
    response.headers["Location"] = f"/api/sync/{id_}"
    response.headers["Cache-Control"] = "no-store"
    return _request(await database.fetch(_PARTS, id_))


@router.get("/{id}", responses={404: {"description": "There is no such request, or it is forgotten."}})
async def get_sync(
    request: Request,
    response: Response,
    caller: Admin,
    id: Annotated[UUID, Path(examples=["6f1c1d2e-58f0-4a0e-9c52-0c7c1f0a9b11"])],
) -> SyncRequest:
    """What became of a request. Kept for 30 days."""
    parts = await request.app.state.resources.database.fetch(_PARTS, id)
    if not parts or not _may_see(caller, parts[0]["channel_id"], parts[0]["account_scope"]):
        raise Problem(404, "Not Found", "There is no such request; they are kept for 30 days.")
    response.headers["Cache-Control"] = "no-store"
    return _request(parts)


async def _check(resources: Resources, caller: Caller, order: SyncOrder) -> None:
    if order.channel_id is None:
        if order.since is not None or order.account_scope:
            raise Problem(422, "Unprocessable Content", "since and accountScope need a channelId.")
        if caller.chats is not None:
            raise Problem(403, "Forbidden", "This token is for some chats only: name one of them.")
        return
    if order.since is not None:
        now = datetime.now(UTC)
        retention = resources.settings.db_retention
        try:
            order.since.astimezone(UTC)
        except OverflowError:
            raise Problem(422, "Unprocessable Content", "since is not within the years 1 to 9999.") from None
        if order.since > now:
            raise Problem(422, "Unprocessable Content", "since lies in the future.")
        if retention is not None and order.since < now - retention:
            raise Problem(
                422,
                "Unprocessable Content",
                f"The database keeps {retention.days} days (TELEGRAM_DB_RETENTION): what is older would be "
                "dropped at once.",
            )
    if not _may_see(caller, order.channel_id, order.account_scope):
        raise Problem(404, "Not Found", "There is no such chat.")
    active = await resources.database.fetchval(_CHAT, order.account_scope, order.channel_id)
    if active is None:
        raise Problem(404, "Not Found", "There is no such chat.")
    if not active:
        raise Problem(409, "Conflict", "The chat is switched off; switching it on fetches what it missed.")


def _may_see(caller: Caller, channel_id: str | None, scope: int) -> bool:
    if channel_id is None:
        return caller.chats is None
    return caller.may_see(f"{scope}/{channel_id}" if scope else channel_id)


def _request(parts: list[asyncpg.Record]) -> SyncRequest:
    states = {part["state"] for part in parts}
    ended = states <= {"done", "failed"}
    state: State = (
        ("failed" if "failed" in states else "done")
        if ended
        else ("pending" if states == {"pending"} else "running")
    )
    counts: dict[str, int] = {}
    for part in parts:
        for name, count in msgspec.json.decode(part["result"]).items():
            counts[name] = counts.get(name, 0) + count
    known: dict[str, Any] = {name: counts[name] for name in SyncCounts.model_fields if name in counts}
    started = [part["started_at"] for part in parts if part["started_at"] is not None]
    first = parts[0]
    return SyncRequest(
        id=first["id"],
        state=state,
        channel_id=first["channel_id"],
        account_scope=first["account_scope"],
        since=first["since"],
        requested_by=first["requested_by"],
        requested_at=first["requested_at"],
        started_at=min(started, default=None),
        finished_at=max(part["finished_at"] for part in parts) if ended else None,
        attempts=max(part["attempts"] for part in parts),
        counts=SyncCounts(**known),
        error="; ".join(part["error"] for part in parts if part["error"]) or None,
    )
