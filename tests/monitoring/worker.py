"""TP Capital's worker as a child process, for whoever watches it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import aiohttp

from tests.api.conftest import Api
from tests.monitoring.exporters import wait_answering


class Worker:
    """Reads what the API's stack holds; `settings` are further environment variables."""

    def __init__(self, api: Api, directory: Path, **settings: str) -> None:
        port = api.stack.postgres.site.ports.take()
        self.address = f"127.0.0.1:{port}"
        self._environment = {**api.environment, "TP_CAPITAL_METRICS_ADDR": self.address, **settings}
        self._directory = directory
        self._log = directory / f"worker-{port}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns once it shows metrics."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "SIGKILL", "--"),
                *(sys.executable, "-m", "gateway", "tp-capital", "run"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with aiohttp.ClientSession() as http:
            await wait_answering(http, self.address, self._process, self._directory)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
