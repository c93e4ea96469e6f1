"""The control interface over HTTP: every command is a POST with JSON arguments to its own path.

    curl -d '{"chat": "-1001600000001", "text": "COMPRA PETR4"}' http://127.0.0.1:PORT/post

`GET /` describes the world, `GET /stats` counts, `GET /truth?user=ID` is the ground truth as JSON lines.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from gateway.errors import ConfigurationError
from gateway.sandbox.backend import RpcError
from gateway.sandbox.commands import Commands

if TYPE_CHECKING:
    from gateway.sandbox.sandbox import Sandbox

_to_json = msgspec.json.Encoder().encode


class ControlServer:
    """Serves one sandbox, on the loopback interface only."""

    def __init__(self, sandbox: Sandbox, port: int) -> None:
        self._sandbox = sandbox
        self._commands = Commands(sandbox)
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._describe)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/truth", self._truth)
        app.router.add_post("/{command}", self._command)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"cannot listen on 127.0.0.1:{self._port} ({error.strerror}); choose another control port"
            ) from error
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _describe(self, request: web.Request) -> web.Response:
        return _answer(self._commands.describe())

    async def _stats(self, request: web.Request) -> web.Response:
        return _answer(self._commands.stats())

    async def _truth(self, request: web.Request) -> web.StreamResponse:
        try:
            user = self._commands.user(int(request.query["user"]))
            since = int(request.query.get("since", "0"))
        except (KeyError, ValueError) as error:
            return _answer({"error": f"{error}; say /truth?user=ID[&since=POSITION]"}, status=400)
        lines = [_to_json(event) + b"\n" for event in self._sandbox.truth(user, since)]
        return web.Response(body=b"".join(lines), content_type="application/x-ndjson")

    async def _command(self, request: web.Request) -> web.Response:
        name = request.match_info["command"].replace("-", "_")
        command = Commands.PUBLIC.get(name)
        if command is None:
            known = ", ".join(sorted(Commands.PUBLIC))
            return _answer({"error": f"there is no command {name!r}; there are {known}"}, status=404)
        try:
            body = await request.read()
            arguments = json.loads(body) if body else {}
            result = command(self._commands, **arguments)
            return _answer(await result if inspect.isawaitable(result) else result)
        except (TypeError, ValueError, KeyError, RpcError) as error:
            return _answer({"error": f"{name}: {error}"}, status=400)


def _answer(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=_to_json(value), status=status, content_type="application/json")
