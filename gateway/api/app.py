"""The composition root of the API: the one module that knows all its endpoints."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from gateway import __version__
from gateway.api import (
    channels,
    console,
    dead_letters,
    messages,
    metrics,
    openapi,
    problems,
    processing,
    status,
    stream,
    sync,
)
from gateway.api.caching import COMPRESSED_BYTES, COMPRESSION_LEVEL
from gateway.api.middleware import Boundary
from gateway.api.resources import Resources
from gateway.api.routing import add_routes
from gateway.settings import Settings

_OPERATIONS = (status, processing, messages, dead_letters, channels, sync, stream, console)


def create_app(settings: Settings, *, registry: CollectorRegistry = metrics.REGISTRY) -> FastAPI:
    """The API as an ASGI application; its lifespan opens the `Resources` at `app.state.resources`.

    `registry` is what `/metrics` shows.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Resources(settings) as resources:
            app.state.resources = resources
            yield

    app = FastAPI(
        title="Telegram gateway",
        version=__version__,
        lifespan=lifespan,
        middleware=[
            Middleware(Boundary),
            Middleware(
                GZipMiddleware,
                minimum_size=COMPRESSED_BYTES,
                compresslevel=COMPRESSION_LEVEL,
                # Of what is sent from here. The default's many types are read anew for each request.
                exclude_content_types=("text/event-stream",),
            ),
        ],
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `Boundary` counts
        docs_url=None,
        redoc_url=None,
    )
    app.state.registry = registry
    problems.install(app)
    openapi.install(app)
    add_routes(app, [module.router for module in _OPERATIONS])
    return app
