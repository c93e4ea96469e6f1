"""The outermost layer of every request: its metrics, its limits, and that no error leaves as it is.

Plain ASGI: Starlette's BaseHTTPMiddleware would put a task and a queue around each request.
"""

import functools
import time

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import metrics
from gateway.api.problems import Problem, problem_response, unexpected

log = structlog.get_logger()

LARGEST_BODY = 1 << 20  # bytes
_JSON_ONLY = "/api/"  # below this path the API speaks JSON, and event streams
_SPOKEN = (
    "*/*",
    "application/*",
    "application/json",
    "application/problem+json",
    "text/*",
    "text/event-stream",
)
_UNMATCHED = "(none)"
ENDLESS = "/api/stream"  # the one path whose answer has no end, so that nobody can ask for its head alone


class Boundary:
    """Wraps the whole application. Headers left in `scope["state"]["headers"]` go onto the answer.

    HEAD is GET without the body (RFC 9110, 9.3.2), for every path but the endless one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        size = 0
        method = scope["method"]
        head_alone = method == "HEAD" and scope["path"] != ENDLESS
        if head_alone:
            scope = {**scope, "method": "GET"}
        state = scope.setdefault("state", {})

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                headers.append((b"x-content-type-options", b"nosniff"))
                for name, value in state.get("headers", {}).items():
                    headers.append((name.lower().encode(), value.encode()))
                _observe(method, scope, status, time.perf_counter() - started)
            elif head_alone:
                message["body"] = b""
            await send(message)

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > LARGEST_BODY:
                    raise _too_large()
            return message

        metrics.IN_FLIGHT.inc()
        try:
            if (problem := _refused(scope)) is not None:
                await problem_response(problem)(scope, receive, answer)
            else:
                await self._app(scope, bounded, answer)
        except Exception as error:
            problem = unexpected(scope, error)
            if status:
                raise  # half an answer is out: only breaking the connection tells the client
            await problem_response(problem)(scope, receive, answer)
        finally:
            metrics.IN_FLIGHT.dec()


def _observe(method: str, scope: Scope, status: int, seconds: float) -> None:
    method = method if method in _METHODS else "OTHER"
    route = getattr(scope.get("route"), "path", _UNMATCHED)
    count, histogram = _measures(method, route, status)
    count.inc()
    histogram.observe(seconds)
    log.debug("request", method=method, route=route, status=status, seconds=round(seconds, 4))


@functools.cache  # of what there is only so much of: methods, routes, codes
def _measures(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    count = metrics.REQUESTS.labels(method, route, str(status))
    return count, metrics.REQUEST_SECONDS.labels(method, route)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _refused(scope: Scope) -> Problem | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > LARGEST_BODY:
            return _too_large()
        if name == b"accept" and scope["path"].startswith(_JSON_ONLY) and not _acceptable(value):
            return Problem(406, "Not Acceptable", "This API answers in application/json.")
    return None


def _acceptable(accept: bytes) -> bool:
    if accept == b"*/*":
        return True
    for choice in accept.decode("latin-1").split(","):
        kind, *parameters = choice.lower().replace(" ", "").split(";")
        if kind in _SPOKEN and not {"q=0", "q=0.0", "q=0.00", "q=0.000"} & set(parameters):
            return True
    return not accept.strip()


def _too_large() -> Problem:
    return Problem(413, "Content Too Large", f"A request's body has at most {LARGEST_BODY} bytes.")
