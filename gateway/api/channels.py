"""The chats, and which of them are captured: `channels.is_active` is what people want, the daemon obeys.

Nothing here touches messages. Who takes a chat off the list switches it off; what was captured of it stays.
"""

import base64
import binascii
from typing import Annotated, Any, Literal

import asyncpg
import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field, StrictBool

from gateway.api.auth import Admin, Reader
from gateway.api.model import ApiModel, Moment
from gateway.api.parameters import CHANNEL_ID, ChannelPath, ScopeQuery
from gateway.api.problems import Problem
from gateway.api.resources import Resources

router = APIRouter(prefix="/api/channels", tags=["channels"])

ChatType = Literal["private", "group", "supergroup", "channel"]
Health = Literal["inactive", "active", "quiet", "silent"]
ChannelId = Annotated[str, Field(pattern=CHANNEL_ID, description="A marked id.", examples=["-1001649127710"])]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag that the channel must still have.", examples=['"0"']),
]

_FIELDS = """
account_scope, id, title, username, type, is_active, first_message_id, first_message_date, last_message_id,
last_message_date, switched_at, hidden_at, version
"""
_SORT_KEY = "lower(coalesce(title, username, id))"
_LIST = f"""
SELECT {_FIELDS}, {_SORT_KEY} AS sort_key
FROM telegram_gateway.channels
WHERE (hidden_at IS NOT NULL) = $1
  AND ($2::text IS NULL OR type = $2)
  AND ($3::boolean IS NULL OR is_active = $3)
  AND ($4::text IS NULL OR title ILIKE $4 OR username ILIKE $4 OR id = $5)
  AND ($6::text[] IS NULL
       OR CASE WHEN account_scope = 0 THEN id ELSE account_scope || '/' || id END = ANY ($6))
  AND ($7::text IS NULL OR ({_SORT_KEY}, id, account_scope) > ($7, $8, $9::bigint))
ORDER BY sort_key, id, account_scope
LIMIT $10
"""  # noqa: S608 - names of columns
_ONE = f"SELECT {_FIELDS} FROM telegram_gateway.channels WHERE (account_scope, id) = ($1, $2)"  # noqa: S608
_LOCKED = f"{_ONE} FOR UPDATE"
_HEALTH = """
SELECT health, silent_seconds, messages_last_day, not_live_last_day, mean_delay_seconds
FROM telegram_gateway.channel_health_summary WHERE (account_scope, id) = ($1, $2)
"""
_SWITCH = f"""
UPDATE telegram_gateway.channels
SET is_active = $3,
    hidden_at = CASE WHEN $4 THEN coalesce(hidden_at, now()) END,
    switched_at = CASE WHEN is_active = $3 THEN switched_at ELSE now() END,
    version = version + 1, updated_at = now()
WHERE (account_scope, id) = ($1, $2)
RETURNING {_FIELDS}
"""  # noqa: S608
_ADD = f"""
INSERT INTO telegram_gateway.channels
    (account_scope, id, type, title, username, is_active, seen_at, switched_at)
VALUES ($1, $2, $3, $4, $5, $6, to_timestamp(0), now())
ON CONFLICT DO NOTHING
RETURNING {_FIELDS}
"""  # noqa: S608


class Channel(ApiModel):
    """A chat that messages come from, or will come from."""

    channel_id: str
    account_scope: int
    title: str | None
    username: str | None
    type: ChatType
    is_active: bool = Field(description="Whether it is captured. The daemon obeys within seconds.")
    first_message_id: int | None
    first_message_date: Moment | None
    last_message_id: int | None
    last_message_date: Moment | None
    switched_at: Moment | None = Field(description="When it was last switched on or off.")
    hidden_at: Moment | None = Field(description="When it was taken off the list; null while it is on it.")
    version: int = Field(description="How often people changed it; also its ETag.")


class ChannelHealth(ApiModel):
    """How lively a chat is."""

    health: Health
    silent_seconds: float | None
    messages_last_day: int
    not_live_last_day: int = Field(description="Of these, how many were fetched later (backfill).")
    mean_delay_seconds: float | None


class ChannelDetails(Channel):
    """A chat, and how it is."""

    health: ChannelHealth


class ChannelPage(ApiModel):
    """Chats by title; `nextCursor` is null at the end."""

    channels: list[Channel]
    next_cursor: str | None


class NewChannel(ApiModel):
    """A chat by its id, ahead of its first message. What Telegram says later replaces title and type."""

    channel_id: ChannelId
    account_scope: int = Field(default=0, ge=0, lt=1 << 63, strict=True, examples=[0])
    type: ChatType | None = Field(default=None, description="By default what the id tells.")
    title: str | None = Field(default=None, max_length=255, pattern=r"^[^\x00]*$", examples=["TP Sinais"])
    username: str | None = Field(default=None, max_length=64, pattern=r"^[^\x00]*$", examples=["tp_sinais"])
    is_active: StrictBool = True


class ChannelUpdate(ApiModel):
    """What people decide about a chat."""

    is_active: StrictBool = Field(examples=[True])
    hidden: StrictBool = Field(
        default=False, description="Off the list. A hidden chat that is on is captured."
    )


@router.get("")
async def list_channels(
    request: Request,
    response: Response,
    caller: Reader,
    type: Annotated[ChatType | None, Query(examples=["channel"])] = None,
    active: Annotated[bool | None, Query(examples=[True])] = None,
    hidden: Annotated[bool, Query(description="Those taken off the list, instead of the list.")] = False,
    search: Annotated[
        str | None,
        Query(max_length=100, pattern=r"^[^\x00]*$", description="In title and name; or an id."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, examples=[100])] = 100,
    cursor: Annotated[
        str | None, Query(max_length=2000, description="`nextCursor` of the last page.")
    ] = None,
) -> ChannelPage:
    """The chats, by title."""
    title, channel_id, scope = _decoded(cursor) if cursor else (None, None, None)
    rows = await _resources(request).database.fetch(
        _LIST,
        hidden,
        type,
        active,
        f"%{_literally(search)}%" if search else None,
        search,
        None if caller.chats is None else list(caller.chats),
        title,
        channel_id,
        scope,
        limit + 1,
    )
    response.headers["Cache-Control"] = "no-store"
    last = rows[limit - 1] if len(rows) > limit else None
    return ChannelPage(
        channels=[_channel(row) for row in rows[:limit]], next_cursor=_encoded(last) if last else None
    )


@router.get("/{channelId}")
async def get_channel(
    request: Request,
    response: Response,
    caller: Reader,
    channel_id: ChannelPath,
    account_scope: ScopeQuery = 0,
) -> ChannelDetails:
    """One chat, also a hidden one, and how lively it is."""
    caller.require_chat(_key(channel_id, account_scope))
    database = _resources(request).database
    row = await database.fetchrow(_ONE, account_scope, channel_id)
    health = row and await database.fetchrow(_HEALTH, account_scope, channel_id)
    if row is None or health is None:
        raise _unknown()
    _describe(response, row)
    return ChannelDetails(**_fields(row), health=ChannelHealth(**health))


@router.post(
    "",
    status_code=201,
    responses={
        200: {
            "model": Channel,
            "description": "The chat was known; it is on the list and switched as asked.",
        },
        201: {"description": "Added.", "headers": {"Location": {"schema": {"type": "string"}}}},
    },
)
async def add_channel(request: Request, response: Response, caller: Admin, channel: NewChannel) -> Channel:
    """Puts a chat on the list, switched on or off, ahead of its first message. Idempotent.

    Which chats an account can see is Telegram's to say; `TELEGRAM_CHATS` stays the outer limit.
    """
    channel_id, scope = channel.channel_id, channel.account_scope
    _check_scope(channel_id, scope)
    caller.require_chat(_key(channel_id, scope))
    kind = channel.type or _kind(channel_id)
    if (kind in ("channel", "supergroup")) != (scope == 0) or (kind == "private") != (int(channel_id) > 0):
        raise Problem(422, "Unprocessable Content", f"A chat with the id {channel_id} is not of type {kind}.")
    async with _resources(request).database.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            _ADD, scope, channel_id, kind, channel.title, channel.username, channel.is_active
        )
        if row is None:
            response.status_code = 200
            row = await _switch(connection, channel_id, scope, None, active=channel.is_active, hidden=False)
    _describe(response, row)
    suffix = f"?accountScope={scope}" if scope else ""
    response.headers["Location"] = f"/api/channels/{channel_id}{suffix}"
    return _channel(row)


@router.put("/{channelId}", responses={412: {"description": "The chat was changed since."}})
async def update_channel(
    request: Request,
    response: Response,
    caller: Admin,
    channel_id: ChannelPath,
    update: ChannelUpdate,
    account_scope: ScopeQuery = 0,
    if_match: IfMatch = None,
) -> Channel:
    """Switches a chat on or off.

    Off: from a few seconds on nothing of it is captured. On: what came meanwhile is fetched from its history,
    and edits and deletions of what was captured before are looked for.
    """
    caller.require_chat(_key(channel_id, account_scope))
    async with _resources(request).database.acquire() as connection, connection.transaction():
        row = await _switch(
            connection, channel_id, account_scope, if_match, active=update.is_active, hidden=update.hidden
        )
    _describe(response, row)
    return _channel(row)


@router.delete("/{channelId}", responses={412: {"description": "The chat was changed since."}})
async def remove_channel(
    request: Request,
    response: Response,
    caller: Admin,
    channel_id: ChannelPath,
    account_scope: ScopeQuery = 0,
    if_match: IfMatch = None,
) -> Channel:
    """Switches a chat off and takes it off the list. No message is deleted: all that was captured stays."""
    caller.require_chat(_key(channel_id, account_scope))
    async with _resources(request).database.acquire() as connection, connection.transaction():
        row = await _switch(connection, channel_id, account_scope, if_match, active=False, hidden=True)
    _describe(response, row)
    return _channel(row)


async def _switch(
    connection: Any, channel_id: str, scope: int, if_match: str | None, *, active: bool, hidden: bool
) -> asyncpg.Record:
    """The row as it is then; it is written only when that changes something."""
    row: asyncpg.Record | None = await connection.fetchrow(_LOCKED, scope, channel_id)
    if row is None:
        raise _unknown()
    if if_match is not None and not {"*", f'"{row["version"]}"'} & {
        tag.strip() for tag in if_match.split(",")
    }:
        raise Problem(412, "Precondition Failed", "The chat was changed since.", version=row["version"])
    if (row["is_active"], row["hidden_at"] is not None) == (active, hidden):
        return row
    switched: asyncpg.Record = await connection.fetchrow(_SWITCH, scope, channel_id, active, hidden)
    return switched


def _check_scope(channel_id: str, scope: int) -> None:
    if (int(channel_id) < -1_000_000_000_000) != (scope == 0):
        raise Problem(
            422,
            "Unprocessable Content",
            "A private chat or basic group needs the user id of its account as accountScope; "
            "a channel or supergroup has none.",
        )


def _kind(channel_id: str) -> ChatType:
    marked = int(channel_id)
    return "private" if marked > 0 else "channel" if marked < -1_000_000_000_000 else "group"


def _key(channel_id: str, scope: int) -> str:
    return f"{scope}/{channel_id}" if scope else channel_id


def _fields(row: asyncpg.Record) -> dict[str, Any]:
    fields = dict(row)
    fields["channel_id"] = fields.pop("id")
    fields.pop("sort_key", None)
    return fields


def _channel(row: asyncpg.Record) -> Channel:
    return Channel(**_fields(row))


def _describe(response: Response, row: asyncpg.Record) -> None:
    response.headers["ETag"] = f'"{row["version"]}"'
    # The ETag speaks of what people changed; messages change the rest.
    response.headers["Cache-Control"] = "no-store"


def _unknown() -> Problem:
    return Problem(404, "Not Found", "There is no such chat.")


def _literally(search: str) -> str:
    return search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _encoded(row: asyncpg.Record) -> str:
    key = msgspec.json.encode([row["sort_key"], row["id"], row["account_scope"]])
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[str, str, int]:
    none_of_ours = Problem(422, "Unprocessable Content", "The cursor is none that this API gave.")
    try:
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        title, channel_id, scope = msgspec.json.decode(key, type=tuple[str, str, int])
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise none_of_ours from None
    if "\0" in title + channel_id or not 0 <= scope < 1 << 63:
        raise none_of_ours
    return title, channel_id, scope


def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources
