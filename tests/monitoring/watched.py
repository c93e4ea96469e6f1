"""Everything that alerts look at, each part to be stopped and started by itself, and Prometheus in front."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.backup.stamp import Stamp, write_stamp
from gateway.demo.process import GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import Scene, phone, populate
from tests.api.conftest import Api, running_api
from tests.monitoring.exporters import running_exporters
from tests.monitoring.prometheus import Prometheus, running_prometheus
from tests.monitoring.worker import Worker

# A Sentinel would take the Redis that is killed here for good.
SERVERS = ("postgres", "pgbouncer", "redis", "redis_replica", "rabbitmq")
TRAFFIC_RATE = 2.0  # messages a second


@dataclass
class Watched:
    """What runs."""

    stack: LocalStack
    sandbox: Sandbox
    scene: Scene
    gateway: GatewayProcess
    api: Api
    worker: Worker
    prometheus: Prometheus


@asynccontextmanager
async def watched(directory: Path, *, interval: str, hurry: float) -> AsyncIterator[Watched]:
    """Starts all of it with a little traffic; goes on once Prometheus has seen every part up."""
    async with AsyncExitStack() as parts:
        stack = await parts.enter_async_context(LocalStack(servers=SERVERS))
        sandbox = await parts.enter_async_context(Sandbox(state_dir=directory / "sandbox"))
        scene = populate(sandbox.world, channels=3)
        # systemd makes it.
        runtime = directory / "run"
        runtime.mkdir()
        gateway = GatewayProcess(
            directory,
            {
                **stack.environment,
                "TELEGRAM_API_ID": "1",
                "TELEGRAM_API_HASH": "sandbox",
                "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
                "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
                "TELEGRAM_RUNTIME_DIR": str(runtime),
            },
        )
        parts.push_async_callback(gateway.close)
        await gateway.command("db", "migrate")
        await gateway.login(phone(0))
        write_stamp(gateway.state_dir, Stamp(datetime.now(UTC), 1, "none"))
        await gateway.start()
        environment = {
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{gateway.port}",
            "TELEGRAM_RUNTIME_DIR": str(runtime),
        }
        api = await parts.enter_async_context(running_api(stack, directory, environment))
        worker = Worker(api, directory)
        parts.push_async_callback(worker.kill)
        await worker.start()
        exporters = await parts.enter_async_context(running_exporters(stack, directory))
        targets = {
            "telegram-gateway": [f"127.0.0.1:{gateway.port}"],
            "telegram-gateway-api": [f"127.0.0.1:{api.port}"],
            "tp-capital": [worker.address],
            **exporters.targets(),
        }
        prometheus = await parts.enter_async_context(
            running_prometheus(targets, redis_exporter=exporters.redis, interval=interval, hurry=hurry)
        )
        await sandbox.traffic.start(TRAFFIC_RATE)
        parts.push_async_callback(sandbox.traffic.stop)
        await prometheus.wait_query("min(up)", until=lambda found: bool(found) and found[0].value == 1)
        yield Watched(stack, sandbox, scene, gateway, api, worker, prometheus)
