"""Who calls, and what they may do: the dependencies `Reader`, `Processor` and `Admin` of every operation.

A token is looked up in PostgreSQL and believed for a few seconds, so revoking it works within those. While
PostgreSQL is down, tokens that it confirmed lately go on working for some minutes; of others nothing is
known, which is a 503 and not a 401.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import structlog
from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from gateway.api import metrics
from gateway.api.connections import Database
from gateway.api.problems import Problem, unavailable
from gateway.api.rate_limit import AddressLimit
from gateway.database.connection import CONNECTION_LOST
from gateway.errors import GatewayError
from gateway.tokens import LAST_USED_SECONDS, PREFIX, SCOPES, Token, find_token, hash_of, note_used

if TYPE_CHECKING:
    from gateway.api.resources import Resources

log = structlog.get_logger()

FRESH_SECONDS = 3.0  # how long a revoked token may still work
GRACE_SECONDS = 300.0  # how long a token that PostgreSQL confirmed works without PostgreSQL
ANSWER_SECONDS = 2.0  # what a request waits for PostgreSQL at most; a pooler would make it wait for longer
REMEMBERED = 10_000  # tokens, and as many hashes that are of none
LONGEST_TOKEN = 256

BEARER = "bearer"
# The web console's token is in a cookie, which counts only beside a header that no other site can send.
CONSOLE_COOKIE = "telegram_gateway_console"
CONSOLE_HEADER = "X-Console"
_CHALLENGE = 'Bearer realm="telegram-gateway"'


@dataclass(frozen=True, slots=True)
class Caller:
    """Who holds the token of this request. `chats` None: it may see all; else the chat keys it may see."""

    token_id: int
    name: str
    scopes: frozenset[str]
    chats: frozenset[str] | None

    def may_see(self, chat_key: str) -> bool:
        """Whether the chat (`channel_id`, or `scope/channel_id` where ids count per account) is visible."""
        return self.chats is None or chat_key in self.chats

    def require_chat(self, chat_key: str) -> None:
        """Raises a 404 when the chat is not visible: for this caller it does not exist."""
        if not self.may_see(chat_key):
            raise Problem(404, "Not Found", "There is no such chat.")

    @classmethod
    def of(cls, token: Token) -> "Caller":
        """The caller with this token; its scopes include the ones that they imply."""
        highest = max(SCOPES.index(scope) for scope in token.scopes)
        return cls(token.id, token.name, frozenset(SCOPES[: highest + 1]), token.chats)


@dataclass(slots=True)
class _Known:
    token: Token
    caller: Caller
    expires_at: float  # Unix seconds
    confirmed_at: float
    asked_at: float


class Authenticator:
    """Turns what a request presents into a caller."""

    def __init__(
        self,
        database: Database,
        failures: AddressLimit,
        start: Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"],
    ) -> None:
        self._database = database
        self._failures = failures
        self._start = start
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, float] = {}
        self._lookups: dict[bytes, asyncio.Task[bool]] = {}
        self._used: set[int] = set()

    async def authenticate(self, secret: str | None, address: str) -> Caller:
        """The caller with this token. Raises a 401, 429 or 503 problem."""
        if secret is None:
            self._failures.refuse_if_exhausted(address)
            raise self._refused(address, "missing", "Send a token: Authorization: Bearer tgw_…", code=None)
        if len(secret) > LONGEST_TOKEN or not secret.startswith(PREFIX):
            self._failures.refuse_if_exhausted(address)
            raise self._refused(address, "malformed", "This is no token of this gateway's.")
        digest = hash_of(secret)
        now = time.monotonic()
        known = self._known.get(digest)
        if known is None or now - known.asked_at >= FRESH_SECONDS:
            known = await self._look_up(digest, known, now, address)
        if known is None:
            raise self._refused(address, "unknown", "The token is unknown or was revoked.")
        if known.expires_at <= time.time():
            raise self._refused(address, "expired", "The token has expired.")
        self._used.add(known.caller.token_id)
        return known.caller

    async def run(self) -> None:
        """Writes down every minute which tokens were used, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(LAST_USED_SECONDS)
                await self._write_used()
        finally:
            await self._write_used()

    async def _look_up(self, digest: bytes, known: _Known | None, now: float, address: str) -> _Known | None:
        if known is None:
            if now - self._unknown.get(digest, -FRESH_SECONDS) < FRESH_SECONDS:
                return None
            # Each of these costs a query: an address that only guesses gets no more of them.
            self._failures.refuse_if_exhausted(address)
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = self._start(self._ask(digest), "token lookup")
        if await self._database.answered(lookup, ANSWER_SECONDS) and lookup.result():
            return self._known.get(digest)
        if known is None or now - known.confirmed_at >= GRACE_SECONDS:
            raise unavailable("Tokens cannot be checked now: the database does not answer.")
        known.asked_at = time.monotonic()
        return known

    async def _ask(self, digest: bytes) -> bool:
        """Whether the database answered; what it said is remembered."""
        try:
            token = await find_token(self._database, digest)
        except (GatewayError, asyncpg.PostgresError, *CONNECTION_LOST, TimeoutError) as error:
            log.warning("token_lookup_failed", reason=str(error) or type(error).__name__)
            return False
        finally:
            del self._lookups[digest]
        now = time.monotonic()
        if token is None:
            self._known.pop(digest, None)
            _make_room(self._unknown)
            self._unknown[digest] = now
        else:
            expires_at = token.expires_at.timestamp() if token.expires_at else float("inf")
            _make_room(self._known)
            self._known[digest] = _Known(token, Caller.of(token), expires_at, now, now)
        return True

    async def _write_used(self) -> None:
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await note_used(self._database, used)
        except (GatewayError, asyncpg.PostgresError, *CONNECTION_LOST, TimeoutError) as error:
            self._used |= used
            log.warning("token_use_not_noted", reason=str(error) or type(error).__name__)

    def _refused(self, address: str, reason: str, detail: str, code: str | None = "invalid_token") -> Problem:
        metrics.AUTHENTICATION_FAILED.labels(reason).inc()
        log.warning("token_refused", address=address, reason=reason)
        self._failures.count(address)
        challenge = f'{_CHALLENGE}, error="{code}"' if code else _CHALLENGE
        return Problem(401, "Unauthorized", detail, headers={"WWW-Authenticate": challenge})


class Requires(SecurityBase):
    """The dependency that admits callers with `scope`, and counts the request against their limit."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.model = HTTPBearer(description="A token made with `telegram-gateway token create`.")
        self.scheme_name = BEARER

    async def __call__(self, request: Request) -> Caller:
        known = request.scope["state"]
        caller: Caller | None = known.get("caller")
        if caller is None:
            resources: Resources = request.app.state.resources
            address = request.client.host if request.client else ""
            caller = await resources.authenticator.authenticate(presented(request), address)
            await resources.rate_limiter.count(request, caller.token_id)
            known["caller"] = caller
        if self.scope not in caller.scopes:
            raise Problem(
                403,
                "Forbidden",
                f"This needs a token with the scope {self.scope}.",
                headers={
                    "WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{self.scope}"'
                },
                missingScope=self.scope,
            )
        return caller


def presented(request: Request) -> str | None:
    """The token that a request carries, wherever it does."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    if (token := request.headers.get("x-api-token")) is not None:
        return token
    return request.cookies.get(CONSOLE_COOKIE) if CONSOLE_HEADER in request.headers else None


def _make_room(remembered: dict[bytes, Any]) -> None:
    if len(remembered) >= REMEMBERED:
        del remembered[next(iter(remembered))]


Reader = Annotated[Caller, Security(Requires("read"), scopes=["read"])]
Processor = Annotated[Caller, Security(Requires("process"), scopes=["process"])]
Admin = Annotated[Caller, Security(Requires("admin"), scopes=["admin"])]
