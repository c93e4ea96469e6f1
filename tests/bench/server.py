"""The sandbox in a process of its own: posts stamped messages when told to, as fast as told to."""

import asyncio
import gc
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import uvloop

from gateway.sandbox import Sandbox
from tests.bench import stamp
from tests.bench.child import run, serve
from tests.bench.login import PHONE

CHANNELS = 20  # unless told otherwise
# A channel of the real Telegram keeps enough for any client that is connected; the default here is smaller.
LOG_LIMIT = 200_000
TURN = 50  # pushes between two turns of the event loop, when there is no rate to keep


class Poster:
    """Posts to all channels in turn; messages are numbered through the life of the process."""

    def __init__(self, sandbox: Sandbox, channels: int) -> None:
        world = sandbox.world
        world.log_limit = LOG_LIMIT
        self._members = members = [world.add_user("Operador", phone=PHONE)]
        self._world = world
        self._channels = [world.add_channel(f"Sinais {number}", members) for number in range(channels)]
        self._numbers = count()
        self._pushes = count()

    async def post(self, messages: int, rate: float | None = None, per_push: int = 1) -> dict[str, Any]:
        """Posts `messages`, `per_push` in one push, at `rate` messages a second or at once.

        Answers when the last is posted: the first number, both times, and how late the schedule ran.
        """
        first = None
        latest = 0.0
        started = time.monotonic()
        started_ns = time.monotonic_ns()
        for push, done in enumerate(range(0, messages, per_push)):
            if rate:
                late = time.monotonic() - (started + done / rate)
                latest = max(latest, late)
                if late < 0:
                    await asyncio.sleep(-late)
            elif push % TURN == 0:
                await asyncio.sleep(0)
            numbers = [next(self._numbers) for _ in range(min(per_push, messages - done))]
            first = numbers[0] if first is None else first
            channel = self._channels[next(self._pushes) % len(self._channels)]
            self._world.post_many(channel, map(stamp.write, numbers), per_push=per_push)
        await asyncio.sleep(0)
        return {
            "first": first,
            "started_ns": started_ns,
            "finished_ns": time.monotonic_ns(),
            "late_ms": latest * 1e3,
        }

    async def import_history(self, messages: int) -> dict[str, Any]:
        """A further channel, in which so much was written before anybody listened; answers with its id."""
        channel = self._world.add_channel("Arquivo", self._members)
        self._world.import_history(channel, messages, text=stamp.HISTORY)
        return {"chat": channel.marked_id_for(self._members[0])}

    async def age(self, messages: int) -> dict[str, Any]:
        """Every channel has used up so many ids and shows one message behind them; answers with them all."""
        for channel in self._channels:
            self._world.skip_ids(channel, messages)
            self._world.import_history(channel, 1)
        return {"chats": [channel.marked_id_for(self._members[0]) for channel in self._channels]}


async def main(state_dir: Path, channels: int) -> None:
    async with Sandbox(state_dir=state_dir) as sandbox:
        poster = Poster(sandbox, channels)
        # The world only grows; a collector that walks all of it again and again would show up as latency.
        gc.collect()
        gc.disable()
        address = {"host": sandbox.host, "port": sandbox.port, "key": str(sandbox.public_key_path)}
        commands = {"post": poster.post, "import_history": poster.import_history, "age": poster.age}
        await serve(address, commands)


if __name__ == "__main__":
    run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else CHANNELS), uvloop.run)
