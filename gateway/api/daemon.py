"""Asks the gateway's daemon on this host, on its own HTTP port, what it is doing."""

from typing import Any

import aiohttp
import msgspec

from gateway.errors import GatewayNotRunning

ANSWER_SECONDS = 2.0


class DaemonClient:
    """What the gateway's daemon on this host says of itself, from its own port. Raises GatewayNotRunning."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._http: aiohttp.ClientSession | None = None

    async def health(self) -> dict[str, Any]:
        """`{"status": healthy|degraded|down, "problems": […]}`."""
        return await self._get("/health")

    async def status(self) -> dict[str, Any]:
        """Accounts, journal and sinks, as `telegram-gateway status --json` shows them."""
        return await self._get("/status")

    async def gaps(self) -> dict[str, Any]:
        """The open gaps, oldest first, and how many there are beyond those."""
        return await self._get("/gaps")

    async def close(self) -> None:
        """Closes the connection."""
        if self._http is not None:
            await self._http.close()

    async def _get(self, path: str) -> dict[str, Any]:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        host, port = self._address
        try:
            async with self._http.get(f"http://{host}:{port}{path}") as answer:
                return msgspec.json.decode(await answer.read(), type=dict[str, Any])
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise GatewayNotRunning(f"no daemon answers at {host}:{port}") from error
