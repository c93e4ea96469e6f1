"""Everything that is monitored, running, with traffic and mishaps, and Prometheus in front of all of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from gateway.backup.stamp import Stamp, write_stamp
from gateway.localstack import LocalStack
from gateway.sandbox.signals import signal
from tests.console.conftest import Place, running_place
from tests.monitoring.exporters import running_exporters
from tests.monitoring.prometheus import Prometheus, running_prometheus
from tests.monitoring.worker import Worker

# A Sentinel would take the Redis that is killed here for good.
SERVERS = ("postgres", "pgbouncer", "redis", "redis_replica", "rabbitmq")
# They begin with the first mishap of their kind; a rate needs some scrapes of them.
COUNTED_LATE = (
    "telegram_gateway_rpc_errors_total",
    "telegram_gateway_flood_wait_seconds_total",
)


@dataclass
class Scene:
    """What runs, and since when Prometheus has watched it."""

    stack: LocalStack
    place: Place
    prometheus: Prometheus
    since: float

    async def live(self, rounds: int, pause: float = 0.05) -> None:
        """Signals, readers, a flood wait, an error answer, a gap, a lost connection, Redis away for a bit.

        A round is twenty posts with `pause` seconds after each; every sixth round has the mishaps.
        """
        sandbox, chance = self.place.sandbox, Random(5)
        channels = [chat for chat in self.place.scene.chats if chat.kind == "channel"]
        await sandbox.traffic.start(5)
        reader = self.place.api.client(("read",))
        for number in range(rounds):
            for _ in range(4):
                (await reader.get("/api/messages", params={"limit": 20})).raise_for_status()
            if number % 6 == 0:
                sandbox.faults.fail_calls("GetDifferenceRequest", 500, "INTERNAL", times=1)
                sandbox.drop_connections()
            if number % 6 == 1:
                await self.stack.redis.kill()
                # Posts that are not pushed, and a difference without them: a gap, to be closed from history.
                sandbox.faults.fault_pushes("swallow", times=2)
                sandbox.world.post_many(channels[0], ["unseen", "unseen as well"])
                sandbox.faults.fail_calls("GetChannelDifferenceRequest", 420, "FLOOD_WAIT_1", times=1)
                sandbox.faults.too_long(channels[0])
            for _ in range(20):
                sandbox.world.post(chance.choice(channels), signal(chance))
                await asyncio.sleep(pause)
            if number % 6 == 1:
                await self.stack.redis.start()
        await sandbox.traffic.stop()
        await self.place.gateway.wait_delivered(3)
        for counter in COUNTED_LATE:
            await self.prometheus.wait_query(f"count_over_time({counter}[5m]) > 2")


@asynccontextmanager
async def running_scene(directory: Path, interval: str = "2s") -> AsyncIterator[Scene]:
    """Starts all of it, in a world of its own; Prometheus scrapes every `interval`."""
    async with AsyncExitStack() as parts:
        stack = await parts.enter_async_context(LocalStack(servers=SERVERS))
        place = await parts.enter_async_context(running_place(stack, directory))
        # As a good backup leaves it.
        write_stamp(place.gateway.state_dir, Stamp(datetime.now(UTC), 1, "none"))
        exporters = await parts.enter_async_context(running_exporters(stack, directory))
        # One for each way of reading, because each shows figures that the other has not.
        workers = [Worker(place.api, directory, TP_CAPITAL_MODE=mode) for mode in ("queue", "polling")]
        for worker in workers:
            parts.push_async_callback(worker.kill)
            await worker.start()
        targets = {
            "telegram-gateway": [f"127.0.0.1:{place.gateway.port}"],
            "telegram-gateway-api": [f"127.0.0.1:{place.api.port}"],
            "tp-capital": [worker.address for worker in workers],
            **exporters.targets(),
        }
        prometheus = await parts.enter_async_context(
            running_prometheus(targets, redis_exporter=exporters.redis, interval=interval)
        )
        since = time.time()
        await prometheus.wait_query("min(up)", until=lambda found: bool(found) and found[0].value == 1)
        yield Scene(stack, place, prometheus, since)
