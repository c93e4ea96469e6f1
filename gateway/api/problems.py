"""Every error of the API is a problem document (RFC 9457), whoever raised it and wherever.

An error nobody foresaw says only that it happened, and the id under which the log has the rest.
"""

import http
import uuid
from collections.abc import Mapping
from typing import Any

import asyncpg
import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from gateway.errors import ConfigurationError, GatewayError, SchemaError, SinkUnavailable

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"
RETRY_SECONDS = 5  # what a 503 asks for: about as long as a failover or a restart takes


class Problem(HTTPException):
    """Raise it anywhere in an endpoint: it becomes the answer.

    `extensions` are further members of the document, in camelCase; they must be encodable as JSON.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str | None = None,
        *,
        type: str = "about:blank",  # the RFC's name
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(status, detail or title, dict(headers or {}))
        self.document = {"type": type, "title": title, "status": status}
        if detail is not None:
            self.document["detail"] = detail
        self.document |= extensions


class ProblemDocument(BaseModel):
    """An RFC 9457 problem document; `instance` names the log entry with the rest."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None


def problem_response(problem: Problem) -> Response:
    """The answer for `problem`."""
    return Response(
        msgspec.json.encode(problem.document),
        problem.status_code,
        headers={"Cache-Control": "no-store", **(problem.headers or {})},
        media_type=PROBLEM_JSON,
    )


def unavailable(what: str) -> Problem:
    """A 503: something the answer needs is down, and the same request will work later."""
    return Problem(503, "Service Unavailable", what, headers={"Retry-After": str(RETRY_SECONDS)})


def unexpected(scope: Scope, error: BaseException) -> Problem:
    """A 500 that tells nothing of `error` but the id under which it is in the log."""
    instance = f"urn:uuid:{uuid.uuid4()}"
    route = getattr(scope.get("route"), "path", None)
    log.error("request_failed", instance=instance, method=scope["method"], route=route, exc_info=error)
    return Problem(500, "Internal Server Error", "This is our fault; the log has more.", instance=instance)


def install(app: FastAPI) -> None:
    """Makes `app` answer every error with a problem document."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (
        SinkUnavailable,
        ConfigurationError,
        SchemaError,
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        asyncpg.CannotConnectNowError,
        asyncpg.QueryCanceledError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InsufficientResourcesError,
        asyncpg.UndefinedTableError,
        asyncpg.ProtocolViolationError,
        ConnectionError,
        TimeoutError,
    ):
        app.add_exception_handler(kind, _unavailable)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        return problem_response(error)
    title = http.HTTPStatus(error.status_code).phrase
    detail = None if error.detail == title else error.detail
    return problem_response(Problem(error.status_code, title, detail, headers=error.headers))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Not pydantic's `input` and `ctx`: they hold what was sent.
    errors = [
        {"location": [str(part) for part in each["loc"]], "message": each["msg"], "code": each["type"]}
        for each in error.errors()
    ]
    return problem_response(
        Problem(422, "Unprocessable Content", "The request is not what this operation takes.", errors=errors)
    )


async def _unavailable(request: Request, error: Exception) -> Response:
    # The operator's words may name hosts and users; the caller learns only that something is down.
    reason = str(error) if isinstance(error, GatewayError) else f"{type(error).__name__}: {error}"
    route = getattr(request.scope.get("route"), "path", None)
    log.warning("request_unavailable", method=request.method, route=route, reason=reason)
    return problem_response(unavailable("Something that this answer needs cannot be reached now."))
