"""The first baseline, and the least that any client costs: Telethon with a handler that only notes the time.

With `drain` it does not even decrypt: it reads packets off the socket, to see how fast the sandbox can push.
"""

import asyncio
import sys
import time
from typing import Any

from telethon import events

from tests.bench import stamp
from tests.bench.child import run, serve
from tests.bench.login import logged_in


async def main(host: str, port: str, key: str) -> None:
    client = await logged_in(host, port, key)
    arrivals: list[tuple[str, int]] = []

    @client.on(events.NewMessage)  # type: ignore[untyped-decorator]
    async def handle(event: Any) -> None:
        arrivals.append((event.message.message, time.monotonic_ns()))

    async def count() -> dict[str, Any]:
        return {"handled": len(arrivals), "failed": 0}

    async def take() -> dict[str, Any]:
        taken, arrivals[:] = arrivals[:], []
        return {"arrivals": [(*(stamp.read(text.encode()) or (-1, 0)), at) for text, at in taken]}

    await serve({}, {"count": count, "take": take})
    await client.disconnect()


async def drain(host: str, port: str, key: str) -> None:
    client = await logged_in(host, port, key)
    sender = client._sender
    sender._recv_loop_handle.cancel()
    read = {"bytes": 0, "last_ns": 0}

    async def discard() -> None:
        while True:
            read["bytes"] += len(await sender._connection.recv())
            read["last_ns"] = time.monotonic_ns()

    async def count() -> dict[str, Any]:
        return read

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(discard())
        await serve({}, {"count": count})
        reading.cancel()
    await client.disconnect()


if __name__ == "__main__":
    run((drain if sys.argv[1] == "drain" else main)(*sys.argv[2:]))
