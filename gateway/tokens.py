"""The API's bearer tokens: made once, shown once, known afterwards by their SHA-256 alone.

A token is 256 random bits, so its hash needs neither salt nor a slow function: there is nothing to guess.
Looking a hash up in an index says nothing about the token by the time it takes, for whoever asks cannot
choose the hash.
"""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import asyncpg

from gateway.errors import ConfigurationError, SchemaError

SCOPES = ("read", "process", "admin")  # each includes the ones before it
PREFIX = "tgw_"
RANDOM_BYTES = 32
SHOWN_CHARACTERS = len(PREFIX) + 6
LAST_USED_SECONDS = 60

_CREATE = """
INSERT INTO telegram_gateway.api_tokens (name, prefix, hash, scopes, chats, expires_at)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING *
"""
_ALL = "SELECT * FROM telegram_gateway.api_tokens ORDER BY id"
_FIND = "SELECT * FROM telegram_gateway.api_tokens WHERE hash = $1 AND revoked_at IS NULL"
_REVOKE = """
UPDATE telegram_gateway.api_tokens SET revoked_at = now()
WHERE (name = $1 OR prefix = $1 OR id::text = $1) AND revoked_at IS NULL RETURNING *
"""
_USED = """
UPDATE telegram_gateway.api_tokens SET last_used_at = now()
WHERE id = ANY ($1::bigint[]) AND (last_used_at IS NULL OR last_used_at < now() - make_interval(secs => $2))
"""


class _Database(Protocol):
    """A connection or a pool of them."""

    async def fetch(self, query: str, *args: Any) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: Any) -> Any: ...

    async def execute(self, query: str, *args: Any) -> str: ...


@dataclass(frozen=True)
class Token:
    """What is known of a token. `chats` None: all."""

    id: int
    name: str
    prefix: str
    scopes: frozenset[str]
    chats: frozenset[str] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


def hash_of(secret: str) -> bytes:
    """What a token is stored and looked up by."""
    return hashlib.sha256(secret.encode()).digest()


async def create_token(
    database: _Database,
    name: str,
    scopes: Collection[str],
    chats: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, Token]:
    """A new token, which nobody can see again, and its record.

    Raises ConfigurationError when `name` is taken.
    """
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    try:
        row = await database.fetchrow(
            _CREATE,
            name,
            secret[:SHOWN_CHARACTERS],
            hash_of(secret),
            sorted(scopes, key=SCOPES.index),
            sorted(chats) if chats else None,
            expires_at,
        )
    except asyncpg.UniqueViolationError:
        raise ConfigurationError(
            f"there is a token named {name!r} already; choose another name, or revoke that one first"
        ) from None
    except asyncpg.UndefinedTableError:
        raise _no_table() from None
    return secret, _token(row)


async def all_tokens(database: _Database) -> list[Token]:
    """Every token ever made, oldest first."""
    try:
        return [_token(row) for row in await database.fetch(_ALL)]
    except asyncpg.UndefinedTableError:
        raise _no_table() from None


async def find_token(database: _Database, digest: bytes) -> Token | None:
    """The token of this hash, unless it was revoked; it may have expired."""
    row = await database.fetchrow(_FIND, digest)
    return _token(row) if row is not None else None


async def revoke_token(database: _Database, which: str) -> list[Token]:
    """Ends the token of this name, prefix or id for good; returns what was ended."""
    try:
        return [_token(row) for row in await database.fetch(_REVOKE, which)]
    except asyncpg.UndefinedTableError:
        raise _no_table() from None


async def note_used(database: _Database, ids: Collection[int]) -> None:
    """Remembers that these tokens were used, to the minute."""
    await database.execute(_USED, list(ids), LAST_USED_SECONDS)


def _token(row: Any) -> Token:
    chats = row["chats"]
    return Token(
        id=row["id"],
        name=row["name"],
        prefix=row["prefix"],
        scopes=frozenset(row["scopes"]),
        chats=frozenset(chats) if chats is not None else None,
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )


def _no_table() -> SchemaError:
    return SchemaError("the database has no table of tokens; run: telegram-gateway db migrate")
