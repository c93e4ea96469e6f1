"""The OpenAPI document: what FastAPI finds in the endpoints, and what all of them have in common."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.api.auth import BEARER
from gateway.api.middleware import ENDLESS
from gateway.api.problems import PROBLEM_JSON, Problem, ProblemDocument, problem_response

API_TOKEN = "apiToken"  # noqa: S105 - the name of a scheme

_DESCRIPTION = """\
Messages that the gateway captured from Telegram, what consumers did with them, and the gateway itself.

Errors are problem documents (RFC 9457). Lists are paged with a cursor. Times are UTC. Where message ids count
per account (private chats and basic groups), `accountScope` stands beside `channelId`.
"""
_TAGS = [
    {"name": "messages", "description": "What was captured, newest first or by search."},
    {"name": "processing", "description": "What each consumer has done with which message."},
    {"name": "channels", "description": "The chats, and which of them are captured."},
    {"name": "sync", "description": "Fetching a chat's history on demand."},
    {"name": "stream", "description": "Messages as they come, as server-sent events."},
    {"name": "dead letters", "description": "Messages that consumers gave up on."},
    {"name": "gateway", "description": "The daemon, its accounts and its sinks."},
    {"name": "operations", "description": "Health and metrics of this API; no token needed."},
]
_ALWAYS = {"500": "An error nobody foresaw; `instance` is its id in the log."}
_WITH_TOKEN = {
    "401": "No token, or one that is unknown, revoked or expired.",
    "403": "The token lacks the scope.",
    "406": "The client accepts neither JSON nor what this operation sends.",
    "429": "Too many requests; `Retry-After` says when to come back.",
    "503": "Something that the answer needs is down.",
}
_WITH_INPUT = {"422": "The request is not what this operation takes."}
_WITH_BODY = {"413": "The body is too large.", "400": "The body cannot be read."}
_WITH_CHAT = {"404": "It is not there, or the token may not see it."}
_SCHEMA = "ProblemDocument"


def install(app: FastAPI) -> None:
    """Makes `app` serve the document at /openapi.json, and name in a 405 what the document allows."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    async def not_allowed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # The router's own Allow has the methods of one operation, not of all with this path.
        allowed = _methods(app.openapi(), request.url.path) or (error.headers or {}).get("Allow", "")
        return problem_response(Problem(405, "Method Not Allowed", headers={"Allow": allowed}))

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way
    app.add_exception_handler(405, not_allowed)


def _methods(document: dict[str, Any], path: str) -> str:
    paths = document["paths"]
    for template in (path, *paths):
        pattern = re.sub(r"\\{[^/]+\\}", "[^/]+", re.escape(template))
        if template in paths and re.fullmatch(pattern, path):
            methods = {method.upper() for method in paths[template]}
            if "GET" in methods and path != ENDLESS:
                methods.add("HEAD")
            return ", ".join(sorted(methods))
    return ""


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=_DESCRIPTION,
        routes=app.routes,
        tags=_TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/"}],
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas[_SCHEMA] = ProblemDocument.model_json_schema()
    components.setdefault("securitySchemes", {})[API_TOKEN] = {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Token",
        "description": "The same token, for clients that cannot send Authorization.",
    }
    for path in document["paths"].values():
        for operation in path.values():
            _complete(operation)
    return document


def _complete(operation: dict[str, Any]) -> None:
    security = operation.get("security", [])
    for each in list(security):
        if BEARER in each:
            security.append({API_TOKEN: each[BEARER]})
    common = dict(_ALWAYS)
    if security:
        common |= _WITH_TOKEN
    parameters = operation.get("parameters", ())
    if any(each["in"] == "path" or each["name"] == "channelId" for each in parameters):
        common |= _WITH_CHAT
    if parameters or "requestBody" in operation:
        common |= _WITH_INPUT
    if "requestBody" in operation:
        common |= _WITH_BODY
    responses = operation["responses"]
    if (old := responses.get("422")) and "HTTPValidationError" in str(old):
        del responses["422"]
    for code, description in common.items():
        responses.setdefault(code, {"description": description})
    for code, response in responses.items():
        if code[0] in "45" and "content" not in response:
            response["content"] = {PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{_SCHEMA}"}}}
