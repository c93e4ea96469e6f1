"""The daemon's control socket: how the commands of this host ask the running gateway to do something.

`control.sock` in the state directory is HTTP on a Unix socket that only the gateway's user can open. JSON
goes in and out; an error is `{"error": …}` in words for the operator; what takes long answers with one JSON
value a line. The parts bring their routes, the composition root puts them together (`gateway.daemon`).
"""

import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
import structlog
from aiohttp import web

from gateway.errors import (
    EXIT_CRASHED,
    EXIT_NEEDS_OPERATOR,
    GatewayError,
    GatewayNotRunning,
    NeedsOperator,
)

log = structlog.get_logger()

SOCKET_NAME = "control.sock"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # for an answer in one piece
LONGEST_LINE = 1 << 20  # bytes, of an answer in many pieces
CLOSE_SECONDS = 1.0  # how long a stopping daemon waits for requests under way

_JSON_LINES = "application/x-ndjson"
_encoder = msgspec.json.Encoder()

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Send = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def serve_control(state_dir: Path, routes: Iterable[web.RouteDef]) -> AsyncIterator[None]:
    """Serves `routes` (`web.get(path, handler)`, …) until the block ends.

    The caller holds the journal's lock, so a socket file that is there belongs to a gateway that is gone.
    A handler may raise GatewayError; its message is what the operator reads.
    """
    app = web.Application(middlewares=[_errors_as_json])
    app.router.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)
    server = _bind(state_dir)
    try:
        await runner.setup()
        await web.SockSite(runner, server).start()
        yield
    finally:
        (state_dir / SOCKET_NAME).unlink(missing_ok=True)
        await runner.cleanup()
        server.close()


def answer(value: Any, status: int = 200) -> web.Response:
    """`value`, anything msgspec can encode, as an answer in one piece."""
    return web.Response(body=_encoder.encode(value), status=status, content_type="application/json")


async def body_of(request: web.Request, form: type[T]) -> T:
    """The request's JSON as `form`; raises GatewayError when it is not that."""
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=form)
    except msgspec.DecodeError as error:
        raise GatewayError(f"the gateway does not understand the request: {error}") from None


@asynccontextmanager
async def json_lines(request: web.Request) -> AsyncIterator[tuple[web.StreamResponse, Send]]:
    """An answer in many pieces: `async with json_lines(request) as (response, send)`, then return `response`.

    `send` raises ConnectionResetError once nobody listens any more. A GatewayError inside the block becomes
    the last line, and the client raises it.
    """
    response = web.StreamResponse(headers={"Content-Type": _JSON_LINES})
    await response.prepare(request)

    async def send(value: Any) -> None:
        await response.write(_encoder.encode(value) + b"\n")

    try:
        yield response, send
    except GatewayError as error:
        await send(_error(error))
    await response.write_eof()


class ControlClient:
    """The commands' side: asks the gateway that runs with `state_dir`.

    Every call raises GatewayNotRunning when none does, and GatewayError (NeedsOperator when a repeat would
    not help) with the gateway's own words when it refuses.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    async def get(self, path: str, **query: str | int) -> Any:
        """The decoded answer."""
        return await self._ask("GET", path, params={name: str(value) for name, value in query.items()})

    async def post(self, path: str, body: Any = None) -> Any:
        """The decoded answer; `body` is anything msgspec can encode."""
        return await self._ask("POST", path, data=_encoder.encode({} if body is None else body))

    async def stream(self, path: str, body: Any = None) -> AsyncIterator[Any]:
        """The values of an answer in many pieces, as they come."""
        async with self._request("POST", path, None, data=_encoder.encode(body or {})) as response:
            if response.status >= 400:
                raise _refusal(await _decoded(response))
            async for line in response.content:
                value = msgspec.json.decode(line)
                if isinstance(value, dict) and "error" in value:
                    raise _refusal(value)
                yield value

    async def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        async with self._request(method, path, ANSWER_SECONDS, **arguments) as response:
            value = await _decoded(response)
            if response.status >= 400:
                raise _refusal(value)
            return value

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, seconds: float | None, **arguments: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        arguments["read_bufsize"] = LONGEST_LINE
        try:
            with _short_path(self._state_dir) as socket_path:
                async with (
                    aiohttp.ClientSession(
                        connector=aiohttp.UnixConnector(path=socket_path),
                        timeout=timeout,
                        read_bufsize=1 << 20,
                    ) as http,
                    http.request(method, f"http://gateway{path}", **arguments) as response,
                ):
                    yield response
        except PermissionError as error:
            raise self._not_ours() from error
        except (aiohttp.ClientConnectorError, FileNotFoundError, NotADirectoryError) as error:
            if isinstance(getattr(error, "os_error", None), PermissionError):
                raise self._not_ours() from error
            raise GatewayNotRunning(
                f"no gateway runs with this state directory ({self._state_dir}); start it with "
                "systemctl start telegram-gateway, or set TELEGRAM_STATE_DIR as it has it"
            ) from error
        except TimeoutError as error:
            raise GatewayError(
                f"the gateway did not answer within {ANSWER_SECONDS:g} s; see telegram-gateway status"
            ) from error
        except (aiohttp.ClientError, msgspec.DecodeError, OSError) as error:
            raise GatewayError(
                "the gateway stopped answering in the middle; see its log, and telegram-gateway status"
            ) from error

    def _not_ours(self) -> NeedsOperator:
        return NeedsOperator(
            f"{self._state_dir / SOCKET_NAME} is not yours to open; run this as the gateway's user"
        )


def _bind(state_dir: Path) -> socket.socket:
    path = state_dir / SOCKET_NAME
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise NeedsOperator(f"{path} is there and is no socket; move it away")
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    umask = os.umask(0o177)  # the file must never be there with more than 0600
    try:
        with _short_path(state_dir) as short:
            server.bind(short)
    except OSError:
        server.close()
        raise
    finally:
        os.umask(umask)
    return server


@contextmanager
def _short_path(state_dir: Path) -> Iterator[str]:
    # The address of a Unix socket has 107 bytes; a directory's path may have more.
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        return answer(_error(error), 422 if isinstance(error, NeedsOperator) else 409)
    except web.HTTPException as error:
        text = f"this gateway has no {request.method} {request.path}; restart it, its version is another"
        return answer({"error": text, "exit_code": EXIT_CRASHED}, error.status)
    except ConnectionResetError:
        raise  # whoever asked has gone
    except Exception:  # the request's boundary: what failed here must not be read as an answer
        log.exception("control_request_failed", method=request.method, path=request.path)
        text = "the gateway failed at this request; its log says why"
        return answer({"error": text, "exit_code": EXIT_CRASHED}, 500)


def _error(error: GatewayError) -> dict[str, Any]:
    return {"error": str(error), "exit_code": error.exit_code}


async def _decoded(response: aiohttp.ClientResponse) -> Any:
    return msgspec.json.decode(await response.read())


def _refusal(value: dict[str, Any]) -> GatewayError:
    kind = NeedsOperator if value.get("exit_code") == EXIT_NEEDS_OPERATOR else GatewayError
    return kind(value["error"])
