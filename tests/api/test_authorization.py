"""Every operation against every kind of token: a new one is tried here without anybody adding it."""

import importlib
import pkgutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter
from fastapi.routing import APIRoute

import gateway.api
from gateway.event import encode
from gateway.tokens import SCOPES
from tests.api.conftest import Api
from tests.api.operations import PUBLIC, Operation, operations
from tests.sink_events import CHANNEL, new

OPERATIONS = list(operations())
GUARDED = [operation for operation in OPERATIONS if str(operation) not in PUBLIC]
OF_CHATS = [
    operation for operation in GUARDED if "hannelId" in str(operation.spec) or "essage" in str(operation)
]
SECRET = "only for those who may see this chat"


async def status_of(client: httpx.AsyncClient, operation: Operation) -> httpx.Response:
    """The answer, without the rest of one that never ends."""
    answer = await client.send(operation.request(client), stream=True)
    if not answer.headers["content-type"].startswith("text/event-stream"):
        await answer.aread()
    await answer.aclose()
    return answer


@pytest_asyncio.fixture(scope="module")
async def tokens(api: Api) -> dict[str, str]:
    """One of each kind that must not open anything, and one of each scope."""
    revoked = await api.token(("admin",))
    connection = await asyncpg.connect(api.stack.postgres.dsn)
    await connection.execute(
        "UPDATE telegram_gateway.api_tokens SET revoked_at = now() WHERE starts_with($1, prefix)", revoked
    )
    await connection.close()
    return {
        "garbage": "tgw_" + "0" * 43,
        "revoked": revoked,
        "expired": await api.token(("admin",), expires_at=datetime.now(UTC) - timedelta(seconds=1)),
        **{scope: await api.token((scope,)) for scope in SCOPES},
    }


def test_operations_that_need_no_token_are_the_ones_that_are_meant_to() -> None:
    assert {str(operation) for operation in OPERATIONS if not operation.spec.get("security")} == PUBLIC


def test_every_other_operation_declares_one_scope() -> None:
    assert [str(each) for each in GUARDED if len(each.scopes) != 1 or not each.scopes <= set(SCOPES)] == []


def test_only_the_console_has_pages_that_the_document_does_not_name() -> None:
    hidden = set()
    for module in pkgutil.walk_packages(gateway.api.__path__, "gateway.api."):
        router = getattr(importlib.import_module(module.name), "router", None)
        if isinstance(router, APIRouter):
            hidden |= {
                module.name
                for route in router.routes
                if not isinstance(route, APIRoute) or not route.include_in_schema
            }
    assert {name for name in hidden if not name.startswith("gateway.api.console")} == set()


@pytest.mark.parametrize("operation", GUARDED, ids=str)
@pytest.mark.parametrize("kind", ["none", "garbage", "revoked", "expired"])
async def test_without_a_token_that_holds_it_is_closed(
    api: Api, tokens: dict[str, str], operation: Operation, kind: str
) -> None:
    answer = await status_of(api.client_with(tokens.get(kind)), operation)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("operation", GUARDED, ids=str)
async def test_a_lesser_scope_does_not_open_it_and_its_own_does(
    api: Api, tokens: dict[str, str], operation: Operation
) -> None:
    (needed,) = operation.scopes
    for scope in SCOPES:
        answer = await status_of(api.client_with(tokens[scope]), operation)
        if SCOPES.index(scope) < SCOPES.index(needed):
            assert (answer.status_code, answer.json()["missingScope"]) == (403, needed)
        else:
            assert answer.status_code not in (401, 403)


@pytest_asyncio.fixture
async def seen_elsewhere(api: Api) -> AsyncIterator[None]:
    """Messages in the chat of the examples, which the restricted token may not see."""
    connection = await asyncpg.connect(api.stack.postgres.dsn)
    bodies = [encode(new(number, text=SECRET)).decode() for number in (4711, 4712)]
    await connection.fetchval("SELECT telegram_gateway.ingest($1)", f"[{','.join(bodies)}]")
    yield
    await connection.close()


@pytest.mark.usefixtures("seen_elsewhere")
@pytest.mark.parametrize("operation", OF_CHATS, ids=str)
async def test_a_chat_that_a_token_may_not_see_does_not_exist_for_it(api: Api, operation: Operation) -> None:
    client = api.client(("admin",), chats=("-1009",))
    request = operation.request(client)
    if operation.streams:
        return  # what it may carry is tried where the stream is
    answer = await client.send(request)
    assert SECRET not in answer.text
    if CHANNEL in str(request.url) or CHANNEL.encode() in request.content:
        # Of several things in one request it may say for each that it is not there.
        assert answer.status_code in (404, 200), answer.text
    if CHANNEL in request.url.path:
        assert answer.status_code == 404, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
