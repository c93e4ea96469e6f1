"""A collector for traces: takes OTLP over HTTP and keeps every span, or hangs on purpose."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_SECONDS = 90.0


class Collector:
    """`endpoint` is what TELEGRAM_TRACING_ENDPOINT names."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        self.requests = 0
        self.endpoint = ""
        self.hangs = False
        self._grown = asyncio.Condition()

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        collector = cls()
        app = web.Application()
        app.router.add_post("/v1/traces", collector._take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        collector.endpoint = f"http://{host}:{port}"
        try:
            yield collector
        finally:
            await runner.cleanup()

    async def until(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """All spans, once there are enough of them."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._grown:
            await self._grown.wait_for(lambda: enough(self.spans))
        return self.spans

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.hangs:
            await asyncio.Event().wait()
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        async with self._grown:
            self._grown.notify_all()
        return web.Response(content_type="application/x-protobuf")
