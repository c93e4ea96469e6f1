"""The line between the gateway and a server: a TCP proxy that can be slow, stall and be cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiomisc.pytest import TCPProxy


class Line(TCPProxy):
    """As the library's, but refuses when the server does, and forgets connections that have ended."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self._flow = asyncio.Event()
        self._flow.set()

    @asynccontextmanager
    async def slow(self, seconds: float) -> AsyncIterator[None]:
        """Every packet takes `seconds` longer, in both directions."""
        with self.slowdown(seconds, seconds):
            yield

    @asynccontextmanager
    async def stalled(self, *, requests: bool) -> AsyncIterator[None]:
        """Nothing passes: neither way, or (without `requests`) the answers only. No connection is closed."""
        self._flow.clear()
        self.set_content_processors(self._held if requests else None, self._held)
        try:
            yield
        finally:
            self._flow.set()
            self.set_content_processors(None, None)

    async def cut(self) -> None:
        """Ends every connection."""
        self._forget_ended()
        await self.disconnect_all()

    async def _held(self, data: bytes) -> bytes:
        await self._flow.wait()
        return data

    async def _handle_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._forget_ended()
        try:
            await super()._handle_client(reader, writer)
        except OSError:
            self.clients = {client for client in self.clients if client.client_writer is not writer}
            writer.transport.abort()

    def _forget_ended(self) -> None:
        ended = {client for client in self.clients if client.tasks and all(t.done() for t in client.tasks)}
        self.clients -= ended
