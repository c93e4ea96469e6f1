"""Every error is a problem document, and none of them tells what it should not."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.api import problems
from gateway.api.app import create_app
from gateway.api.middleware import LARGEST_BODY
from gateway.api.problems import Problem
from gateway.settings import load_settings
from tests.api.conftest import Api

GAPS = "/api/gateway/gaps"
BROKEN = "/broken"


def document(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    assert found["title"]
    return found


async def test_what_is_not_there_and_what_is_not_allowed_there(api: Api) -> None:
    client = api.client(scopes=("admin",))
    assert document(await client.get("/api/nothing"))["title"] == "Not Found"
    refused = await client.delete(GAPS)
    assert document(refused)["status"] == 405
    assert refused.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/health", "/api/gateway/status", "/api/messages?limit=1", "/api/nothing"])
async def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    client = api.client()
    got, head = await client.get(path), await client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert int(head.headers["content-length"]) > 0
    for name in ("content-type", "cache-control"):
        assert head.headers.get(name) == got.headers.get(name)


async def test_the_head_of_what_never_ends_is_refused(api: Api) -> None:
    refused = await api.client().head("/api/stream")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET"


async def test_a_bad_parameter_is_named_and_not_repeated(api: Api) -> None:
    found = document(await api.client(scopes=("admin",)).get(GAPS, params={"limit": "secretive"}))
    assert found["status"] == 422
    assert found["errors"][0]["location"] == ["query", "limit"]
    assert "secretive" not in json.dumps(found)


@pytest.mark.parametrize(
    ("accept", "code"),
    [
        ("image/png", 406),
        ("application/json;q=0", 406),
        ("image/png, application/*;q=0.1", 200),
        ("*/*", 200),
    ],
)
async def test_a_client_that_takes_no_json_is_told_so(api: Api, accept: str, code: int) -> None:
    answer = await api.client().get("/api/gateway/status", headers={"Accept": accept})
    assert answer.status_code == code
    if code != 200:
        document(answer)


@pytest.fixture
async def broken() -> AsyncIterator[httpx.AsyncClient]:
    """The application with endpoints that fail, called without a server."""
    app: FastAPI = create_app(load_settings())

    @app.get(BROKEN)
    async def fail() -> None:
        raise RuntimeError("the password is swordfish")

    @app.get("/refused")
    async def refuse() -> None:
        raise ConnectionRefusedError("10.0.0.7 is closed")

    @app.get("/own")
    async def own() -> None:
        raise Problem(409, "Conflict", "Someone was faster.", type="urn:example:race", winner="them")

    @app.post("/body")
    async def body(value: dict[str, str]) -> dict[str, str]:
        return value

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


async def test_an_unforeseen_error_tells_only_where_it_is_logged(
    broken: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await broken.get(BROKEN)
    found = document(answer)
    assert found["status"] == 500
    assert "swordfish" not in answer.text
    assert "RuntimeError" not in answer.text
    logged = "".join(capsys.readouterr())
    assert found["instance"] in logged
    assert "RuntimeError" in logged


async def test_a_server_that_is_down_is_a_503_that_names_no_address(broken: httpx.AsyncClient) -> None:
    answer = await broken.get("/refused")
    assert document(answer)["status"] == 503
    assert answer.headers["retry-after"] == str(problems.RETRY_SECONDS)
    assert "10.0.0.7" not in answer.text


async def test_an_endpoints_own_problem_keeps_its_type_and_members(broken: httpx.AsyncClient) -> None:
    assert document(await broken.get("/own")) == {
        "type": "urn:example:race",
        "title": "Conflict",
        "status": 409,
        "detail": "Someone was faster.",
        "winner": "them",
    }


async def test_a_body_beyond_the_limit_is_refused_announced_or_not(broken: httpx.AsyncClient) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(LARGEST_BODY // 1024 + 2):
            yield b" " * 1024

    for content in (b" " * (LARGEST_BODY + 1), trickle()):
        answer = await broken.post("/body", content=content, headers={"Content-Type": "application/json"})
        assert document(answer)["status"] == 413


async def test_a_body_that_is_no_json_is_a_problem(broken: httpx.AsyncClient) -> None:
    for content in (b"{", b"\xff\xfe", b"[1]"):
        answer = await broken.post("/body", content=content, headers={"Content-Type": "application/json"})
        assert document(answer)["status"] in (400, 422)


async def test_the_log_of_a_running_api_is_json(api: Api, tmp_path: Path) -> None:
    lines = api.log.splitlines()
    assert lines
    assert json.loads(lines[0][3:])["event"] == "api_ready"
