"""Listens for HTTP: what the small servers for metrics and health have in common."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway.errors import ConfigurationError


@asynccontextmanager
async def listening(app: web.Application, address: tuple[str, int], refused: str) -> AsyncIterator[int]:
    """Serves `app` inside, on the port that it yields.

    Raises ConfigurationError where the address cannot be had; `refused` is what its message says to do, with
    `{reason}` in it.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, *address).start()
        except OSError as error:
            reason = f"cannot listen on {address[0]}:{address[1]} ({error.strerror})"
            raise ConfigurationError(refused.format(reason=reason)) from None
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
