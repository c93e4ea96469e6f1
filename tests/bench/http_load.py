"""The client of the API benchmark, in a process of its own: HTTP/1.1 over connections that are kept.

A client library would take longer for a request than the server does; this one takes some 20 µs.
"""

import asyncio
import re
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any, cast

import psutil
import uvloop

from tests.bench import stamp
from tests.bench.child import ChildFailed, run, serve
from tests.bench.report import quantile

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SOURCE = re.compile(rb"\r\nx-source: *(\w+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
LATE_SECONDS = 60.0  # how long the last events of a stream may take


class Connection(asyncio.Protocol):
    """One connection; `answered` is called with each answer to what was sent, one at a time."""

    def __init__(self) -> None:
        self.answered: Callable[[bytes, bytes], None] = lambda head, body: None
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end + 2)
        whole = end + len(_HEAD_END) + (int(length[1]) if length else 0)
        if len(self._buffer) < whole:
            return
        head, body = self._buffer[: end + 2], self._buffer[end + len(_HEAD_END) : whole]
        self._buffer = self._buffer[whole:]
        self.answered(head, body)

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """The head and the body of the answer."""
        answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self.answered = lambda head, body: answer.set_result((head, body))
        self.send(request)
        return await answer

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


class Listener(asyncio.Protocol):
    """One client of a stream: when each stamped event came."""

    def __init__(self, request: bytes, arrived: Callable[[int, int], None]) -> None:
        self.begun = asyncio.Event()
        self._request = request
        self._arrived = arrived
        self._rest = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        text = self._rest + data
        if not self.begun.is_set() and b"\n\n" in text.partition(_HEAD_END)[2]:
            self.begun.set()
        end = 0
        for found in stamp.STAMP.finditer(text):
            end = found.end()
            self._arrived(int(found[1]), int(found[2]))
        self._rest = text[max(end, len(text) - 256) :]


class Load:
    """What the parent tells it to do; requests come as text, each a whole HTTP request."""

    def __init__(self) -> None:
        self._arrivals: dict[int, list[float]] = {}
        self._count = 0
        self._listeners: list[Listener] = []

    async def ask(self, port: int, request: str) -> dict[str, Any]:
        """One request."""
        connection = await Connection.open(port)
        head, body = await connection.ask(request.encode())
        connection.close()
        return {"status": _status(head), "body": body.decode()}

    async def alternate(self, port: int, requests: dict[str, list[str]], rounds: int) -> dict[str, Any]:
        """In each round one request of every name, over one connection; the answers' sizes and sources."""
        connection = await Connection.open(port)
        waiting = {name: cycle([each.encode() for each in texts]) for name, texts in requests.items()}
        sizes: dict[str, int] = {}
        sources: dict[str, set[str]] = {name: set() for name in requests}
        for _ in range(rounds):
            for name, texts in waiting.items():
                head, body = await connection.ask(next(texts))
                if _status(head) >= 300:
                    raise ChildFailed(f"{name}: {_status(head)} {body[:300].decode()}")
                sizes[name] = len(body)
                if source := _SOURCE.search(head):
                    sources[name].add(source[1].decode())
        connection.close()
        return {"sizes": sizes, "sources": {name: sorted(found) for name, found in sources.items()}}

    async def flood(self, port: int, requests: list[str], connections: int, seconds: float) -> dict[str, Any]:
        """As many requests as are answered in `seconds`, one at a time on each connection."""
        texts = cycle([each.encode() for each in requests])
        opened = [await Connection.open(port) for _ in range(connections)]
        until = time.monotonic() + seconds
        done, failed = 0, 0
        finished: asyncio.Queue[None] = asyncio.Queue()

        def answered(connection: Connection, head: bytes, _: bytes) -> None:
            nonlocal done, failed
            done += 1
            failed += _status(head) >= 300
            if time.monotonic() < until:
                connection.send(next(texts))
            else:
                finished.put_nowait(None)

        began, cpu = time.monotonic(), _cpu()
        for connection in opened:
            connection.answered = partial(answered, connection)
            connection.send(next(texts))
        for _ in opened:
            await finished.get()
        took = time.monotonic() - began
        for connection in opened:
            connection.close()
        return {"done": done, "failed": failed, "seconds": took, "cpu": _cpu() - cpu}

    async def listen(self, port: int, request: str, clients: int) -> dict[str, Any]:
        """Opens so many streams; answers once all have begun."""
        self._count, self._arrivals = 0, {}
        for _ in range(clients):
            listener = Listener(request.encode(), self._arrived)
            await asyncio.get_running_loop().create_connection(partial(_itself, listener), "127.0.0.1", port)
            self._listeners.append(listener)
        for listener in self._listeners:
            await listener.begun.wait()
        return {"cpu": _cpu()}

    async def heard(self, events: int) -> dict[str, Any]:
        """Waits for so many events at each client, and closes the streams."""
        wanted = events * len(self._listeners)
        began = time.monotonic()
        while self._count < wanted and time.monotonic() - began < LATE_SECONDS:
            await asyncio.sleep(0.02)
        for listener in self._listeners:
            assert listener.transport is not None
            listener.transport.abort()
        self._listeners.clear()
        latencies = [each for arrived in self._arrivals.values() for each in arrived]
        last = [max(arrived) for arrived in self._arrivals.values()]
        return {
            "missing": wanted - self._count,
            "p50": quantile(latencies, 0.5),
            "p99": quantile(latencies, 0.99),
            "last_p50": quantile(last, 0.5),
            "cpu": _cpu(),
        }

    def _arrived(self, number: int, posted_ns: int) -> None:
        self._count += 1
        self._arrivals.setdefault(number, []).append((time.monotonic_ns() - posted_ns) / 1e6)


def _status(head: bytes) -> int:
    return int(head[9:12])


def _itself(listener: Listener) -> Listener:
    return listener


def _cpu() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


async def main() -> None:
    load = Load()
    await serve(
        {},
        {
            "ask": load.ask,
            "alternate": load.alternate,
            "flood": load.flood,
            "listen": load.listen,
            "heard": load.heard,
        },
    )


if __name__ == "__main__":
    run(main(), uvloop.run)
