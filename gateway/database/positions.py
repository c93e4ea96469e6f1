"""Where the holder of a lease stands with its account: written by it, read by the next one.

A position is one row for the account and one for each chat; only what changed is written.
"""

from collections.abc import Sequence

import msgspec

from gateway.database.connection import Connection
from gateway.database.leases import Claim
from gateway.journal import ChatPosition, Position

# The lock keeps the lease where it is until what was written under it is committed.
_HOLDS = """
SELECT true FROM telegram_gateway.account_leases
WHERE (name, holder, epoch) = ($1, $2, $3) AND released_at IS NULL FOR SHARE
"""
_LEAVE_ACCOUNT = """
INSERT INTO telegram_gateway.account_positions (lease, epoch, pts, date) VALUES ($1, $2, $3, $4)
ON CONFLICT (lease) DO UPDATE
SET epoch = excluded.epoch, pts = excluded.pts, date = excluded.date, left_at = now()
"""
_CLEAR_CHATS = "DELETE FROM telegram_gateway.chat_positions WHERE lease = $1"
_LEAVE_CHATS = """
INSERT INTO telegram_gateway.chat_positions (lease, chat, position)
SELECT $1, chat, position FROM unnest($2::bigint[], $3::jsonb[]) AS changed (chat, position)
ON CONFLICT (lease, chat) DO UPDATE SET position = excluded.position
"""
_ACCOUNT = "SELECT pts, date FROM telegram_gateway.account_positions WHERE lease = $1"
_CHATS = "SELECT position FROM telegram_gateway.chat_positions WHERE lease = $1"


async def leave_position(
    connection: Connection, claim: Claim, position: Position, chats: Sequence[ChatPosition], *, anew: bool
) -> bool:
    """Writes the account's position and those `chats` of it that changed, or with `anew` forgets all others.

    Returns False, and writes nothing, when the claim does not hold any more. Raises what asyncpg raises.
    """
    async with connection.transaction():
        if not await connection.fetchval(_HOLDS, *claim):
            return False
        await connection.execute(_LEAVE_ACCOUNT, claim.name, claim.epoch, position.pts, position.date)
        if anew:
            await connection.execute(_CLEAR_CHATS, claim.name)
        encoded = [msgspec.json.encode(chat).decode() for chat in chats]
        await connection.execute(_LEAVE_CHATS, claim.name, [chat.chat for chat in chats], encoded)
    return True


async def left_position(connection: Connection, lease: str) -> Position | None:
    """What was last written under this lease's name. Raises what asyncpg raises."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        account = await connection.fetchrow(_ACCOUNT, lease)
        rows = await connection.fetch(_CHATS, lease)
    if account is None:
        return None
    chats = [msgspec.json.decode(row["position"], type=ChatPosition) for row in rows]
    return Position(account["pts"], account["date"], {chat.chat: chat for chat in chats})
