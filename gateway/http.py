"""The daemon's own HTTP port: `/metrics`, `/health`, `/ready`, `/status`, `/gaps`; on loopback by default."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gateway.health import OpenGaps, Status
from gateway.listening import listening

_encoder = msgspec.json.Encoder()


@asynccontextmanager
async def serve(
    address: tuple[str, int],
    registry: CollectorRegistry,
    status: Callable[[], Awaitable[Status]],
    gaps: Callable[[], Awaitable[OpenGaps]],
) -> AsyncIterator[int]:
    """Serves until the block ends; yields the port (of use when `address` asks for port 0).

    Raises ConfigurationError when the address cannot be bound.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_request: web.Request) -> web.Response:
        now = await status()
        return _json({"status": now.health, "problems": now.problems}, 503 if now.health == "down" else 200)

    async def ready(_request: web.Request) -> web.Response:
        now = await status()
        return _json({"ready": now.ready}, 200 if now.ready else 503)

    async def full_status(_request: web.Request) -> web.Response:
        return _json(await status(), 200)

    async def open_gaps(_request: web.Request) -> web.Response:
        return _json(await gaps(), 200)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/status", full_status)
    app.router.add_get("/gaps", open_gaps)
    refused = "TELEGRAM_METRICS_ADDR: {reason}; another gateway may be running, or choose another port"
    async with listening(app, address, refused) as port:
        yield port


def _json(value: Any, status: int) -> web.Response:
    return web.Response(body=_encoder.encode(value), status=status, content_type="application/json")
