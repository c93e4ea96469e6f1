"""The API as it is shipped, in a process of its own, bare endpoints beside it and a clock round requests.

A bare endpoint is a Starlette route of the same server in the same process, before all of the API's layers:
one answers with as many bytes as it is asked for, the others make one round trip over the API's connections.
"""

import asyncio
import gc
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import uvloop
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api import server
from gateway.api.app import create_app
from gateway.api.resources import Resources
from gateway.logs import configure_logging
from gateway.settings import Settings, load_settings
from gateway.sinks.redis_script import message_key, recent_key
from gateway.systemd import Notifier
from tests.bench.child import run, serve

LABEL = b"x-bench"  # the request's header that says under which name to keep its time
BARE_TABLE = "CREATE TABLE IF NOT EXISTS bench_marks (id bigint PRIMARY KEY, at timestamptz NOT NULL)"
_MESSAGE = """
SELECT * FROM telegram_gateway.messages
WHERE (account_scope, channel_id, message_id, telegram_date) = (0, $1, $2, $3)
"""
_NEWEST = """
SELECT * FROM telegram_gateway.messages WHERE channel_id = $1 AND telegram_date < $2
ORDER BY telegram_date DESC LIMIT 100
"""
_INSERT = (
    "INSERT INTO bench_marks SELECT nextval('bench_numbers'), now() FROM generate_series(1, $1::integer)"
)


class Bench:
    """The outermost layer: keeps the seconds of requests that bear a label, has the bare endpoints."""

    def __init__(self, app: ASGIApp, bare: Starlette, seconds: dict[str, list[float]]) -> None:
        self._app = app
        self._bare = bare
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        await (self._bare if scope["path"].startswith("/bare/") else self._app)(scope, receive, send)
        took = time.perf_counter() - began
        for name, value in scope["headers"]:
            if name == LABEL:
                self._seconds[value.decode()].append(took)


class BareEndpoints:
    """One round trip each, or none, and a stream that hands on what is posted to it."""

    def __init__(self, product: FastAPI) -> None:
        self._product = product
        self._bodies: dict[int, bytes] = {}
        self._listeners: set[asyncio.Queue[bytes]] = set()
        self.chat = ""
        self.newest: list[int] = []
        self.at: Any = None
        self.app = Starlette(
            routes=[
                Route("/bare/body/{size:int}", self._body),
                Route("/bare/newest", self._newest),
                Route("/bare/get", self._get),
                Route("/bare/select", self._select),
                Route("/bare/page", self._page),
                Route("/bare/insert/{rows:int}", self._insert, methods=["POST"]),
                Route("/bare/stream", self._stream),
                Route("/bare/publish", self._publish, methods=["POST"]),
            ]
        )

    @property
    def _resources(self) -> Resources:
        resources: Resources = self._product.state.resources
        return resources

    async def prepare(self, chat: str, newest: list[int]) -> dict[str, Any]:
        """Whose messages the round trips ask for."""
        self.chat, self.newest = chat, newest
        for statement in (BARE_TABLE, "CREATE SEQUENCE IF NOT EXISTS bench_numbers"):
            await self._resources.database.execute(statement)
        self.at = await self._resources.database.fetchval(
            "SELECT telegram_date FROM telegram_gateway.messages WHERE channel_id = $1 AND message_id = $2",
            chat,
            newest[0],
        )
        return {}

    async def _body(self, request: Request) -> Response:
        size = request.path_params["size"]
        body = self._bodies.setdefault(size, b" " * size)
        return Response(body, media_type="application/json")

    async def _newest(self, request: Request) -> Response:
        pipeline = self._resources.redis.pipeline(transaction=False)
        pipeline.zrevrange(recent_key(self.chat), 0, len(self.newest) - 1)
        pipeline.mget([message_key(self.chat, number) for number in self.newest])
        names, _bodies = await pipeline.execute()
        return JSONResponse(len(names))

    async def _get(self, request: Request) -> Response:
        body = await self._resources.redis.get(message_key(self.chat, self.newest[0]))
        return JSONResponse(len(body or b""))

    async def _select(self, request: Request) -> Response:
        row = await self._resources.database.fetchrow(_MESSAGE, self.chat, self.newest[0], self.at)
        return JSONResponse(row is not None)

    async def _page(self, request: Request) -> Response:
        return JSONResponse(len(await self._resources.database.fetch(_NEWEST, self.chat, self.at)))

    async def _insert(self, request: Request) -> Response:
        await self._resources.database.execute(_INSERT, request.path_params["rows"])
        return JSONResponse(None)

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield b"retry: 2000\n\n"
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def _publish(self, request: Request) -> Response:
        event = b"data: %b\n\n" % await request.body()
        for queue in self._listeners:
            queue.put_nowait(event)
        return JSONResponse(len(self._listeners))


async def main() -> None:
    settings = load_settings()
    configure_logging(settings.log_level)
    seconds: dict[str, list[float]] = defaultdict(list)
    listening = asyncio.Event()
    bare: list[BareEndpoints] = []

    def create(settings: Settings) -> FastAPI:
        app = create_app(settings)
        bare.append(BareEndpoints(app))
        app.add_middleware(Bench, bare=bare[0].app, seconds=seconds)
        return app

    class Told(Notifier):
        def ready(self, status: str) -> None:
            listening.set()

    async def take() -> dict[str, Any]:
        taken = dict(seconds)
        seconds.clear()
        return taken

    async def prepare(chat: str, newest: list[int]) -> dict[str, Any]:
        return await bare[0].prepare(chat, newest)

    gc.collect()
    gc.freeze()
    with mock.patch.object(server, "create_app", create):
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(settings, Told(None)))
            await listening.wait()
            await serve({}, {"take": take, "prepare": prepare})
            os.kill(os.getpid(), signal.SIGTERM)
            await serving


if __name__ == "__main__":
    run(main(), uvloop.run)
