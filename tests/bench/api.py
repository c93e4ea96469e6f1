"""The API and its client, each in a process of its own, over the benchmark's servers."""

import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from gateway.localstack import LocalStack
from gateway.tokens import create_token
from tests.bench.child import Child, ChildFailed
from tests.bench.subjects import cpu

MANY_REQUESTS = "1000000000"  # a minute: the limit counts as ever, and lets everything through
_HITS = re.compile(r'^telegram_gateway_api_cache_total{result="hit"} (\S+)', re.MULTILINE)
OURS, BARE = "ours", "bare"  # the labels of requests


class Api:
    """What scenarios ask of both."""

    def __init__(self, server: Child, load: Child, port: int, token: str) -> None:
        self._server = server
        self._load = load
        self._port = port
        self._token = token

    def get(self, path: str, label: str = "") -> str:
        """A request as a poller sends it, which takes its answers uncompressed."""
        return self._request("GET", path, label)

    def post(self, path: str, body: Any, label: str = "") -> str:
        """A request with a JSON body."""
        return self._request("POST", path, label, json.dumps(body))

    async def prepare(self, chat: str, newest: list[int]) -> None:
        """Which messages the bare round trips ask for."""
        await self._server.ask("prepare", chat=chat, newest=newest)

    async def ask(self, request: str) -> Any:
        """The JSON of one answer."""
        return json.loads(await self._text(request))

    async def cache_hits(self) -> int:
        """How many answers have come from the response cache."""
        found = _HITS.search(await self._text(self.get("/metrics")))
        return int(float(found[1])) if found else 0

    async def alternate(
        self, requests: Mapping[str, list[str]], rounds: int
    ) -> tuple[dict[str, list[float]], dict[str, int], dict[str, list[str]]]:
        """Each label's milliseconds within the server; each name's last answer's size, and who answered it.

        In each round there is one request of every name.
        """
        unkept = warm_up(rounds)
        answer = await self._load.ask("alternate", port=self._port, requests=requests, rounds=unkept + rounds)
        taken = await self._server.ask("take")
        times = {label: [each * 1e3 for each in seconds[unkept:]] for label, seconds in taken.items()}
        return times, answer["sizes"], answer["sources"]

    async def flood(self, requests: list[str], connections: int, seconds: float) -> dict[str, float]:
        """Requests that were answered, the seconds, and both processes' CPU."""
        before = cpu(self._server.pid)
        answer = await self._load.ask(
            "flood", port=self._port, requests=requests, connections=connections, seconds=seconds
        )
        if answer["failed"]:
            raise ChildFailed(f"{answer['failed']} of {answer['done']} requests failed: {requests[0]}")
        return {**answer, "server_cpu": cpu(self._server.pid) - before}

    async def listen(self, request: str, clients: int) -> dict[str, float]:
        """Opens streams; both processes' CPU so far."""
        answer = await self._load.ask("listen", port=self._port, request=request, clients=clients)
        return {**answer, "server_cpu": cpu(self._server.pid)}

    async def heard(self, events: int) -> dict[str, Any]:
        """What came of them, and both processes' CPU by then."""
        answer = await self._load.ask("heard", events=events)
        return {**answer, "server_cpu": cpu(self._server.pid)}

    @property
    def port(self) -> int:
        return self._port

    async def _text(self, request: str) -> str:
        return str((await self._load.ask("ask", port=self._port, request=request))["body"])

    def _request(self, method: str, path: str, label: str, body: str = "") -> str:
        head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {self._token}"]
        if label:
            head.append(f"X-Bench: {label}")
        if body:
            head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*head, "", body])


def warm_up(rounds: int) -> int:
    """How many rounds come before those whose times are kept."""
    return rounds // 10 + 1


@asynccontextmanager
async def running_api(stack: LocalStack, directory: Path) -> AsyncIterator[Api]:
    """The API, with a token that may do everything, and its client."""
    connection = await asyncpg.connect(stack.postgres.dsn, ssl=False)
    try:
        token, _ = await create_token(connection, f"bench {os.urandom(4).hex()}", ("admin",))
    finally:
        await connection.close()
    port = stack.postgres.site.ports.take()
    environment = {
        **stack.environment,
        "TELEGRAM_API_ADDR": f"127.0.0.1:{port}",
        "TELEGRAM_API_RATE_LIMIT": MANY_REQUESTS,
        # Nobody is there: the API says degraded, and reads go on.
        "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{stack.postgres.site.ports.take()}",
    }
    server = Child("tests.bench.api_server", log=directory / "api.log", environment=environment)
    load = Child("tests.bench.http_load", log=directory / "http_load.log")
    try:
        await server.start()
        await load.start()
        yield Api(server, load, port, token)
    finally:
        await load.stop()
        await server.stop()
