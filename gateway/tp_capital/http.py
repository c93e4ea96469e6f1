"""The worker's own HTTP port, on loopback by default: `/metrics`, `/health` and `/ready`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gateway.listening import listening


@dataclass(frozen=True)
class Health:
    """How the worker stands: `down` while nothing reaches it, `degraded` while a way to it is missing."""

    status: Literal["healthy", "degraded", "down"]
    problems: tuple[str, ...] = ()


@asynccontextmanager
async def serve(
    address: tuple[str, int], registry: CollectorRegistry, health: Callable[[], Health]
) -> AsyncIterator[None]:
    """Serves until the block ends. Raises ConfigurationError when the address cannot be bound."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_health(_request: web.Request) -> web.Response:
        now = health()
        body = {"status": now.status, "problems": now.problems}
        return web.json_response(body, status=503 if now.status == "down" else 200)

    async def ready(_request: web.Request) -> web.Response:
        is_ready = health().status != "down"
        return web.json_response({"ready": is_ready}, status=200 if is_ready else 503)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", show_health)
    app.router.add_get("/ready", ready)
    refused = "TP_CAPITAL_METRICS_ADDR: {reason}; another worker may be running, or choose another port"
    async with listening(app, address, refused):
        yield
