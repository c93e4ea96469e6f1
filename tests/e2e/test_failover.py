"""What a cluster is for: a broker's node or the cache's master dies under load, and nobody loses anything.

Three RabbitMQ nodes and a Redis with its replica and Sentinels, all with the configuration that is shipped.
The seconds that each recovery took are printed (`-s` shows them).
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest_asyncio
from aio_pika import connect
from redis.exceptions import RedisError

from gateway.demo.comparison import compare_cache, compare_database, compare_queue
from gateway.demo.consumer import SampleConsumer
from gateway.demo.process import POLL_SECONDS, GatewayProcess
from gateway.localstack import LocalStack
from gateway.localstack.rabbitmq import ClusterNode, url_of
from gateway.localstack.stack import CONFIG_DIR
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import phone, populate
from tests.clock import ticking
from tests.e2e.conftest import Rig

SERVERS = ("postgres", "pgbouncer", "redis", "redis_replica", "sentinels", "rabbitmq_cluster")
QUEUE = "telegram.consumer.failover"
# RabbitMQ 3.10 itself may never find a leader again for a quorum queue that is younger than this.
QUEUE_AGE_SECONDS = 4.0
PATIENCE_SECONDS = 120.0
RESUMED_SECONDS = 60.0
RATE = 150.0


@pytest_asyncio.fixture(scope="module")
async def stack() -> AsyncIterator[LocalStack]:
    async with LocalStack(servers=SERVERS) as running:
        yield running


@dataclass
class Clustered(Rig):
    """A gateway that knows its broker by three addresses and its cache by three Sentinels."""

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        return self.stack.rabbitmq_cluster.nodes

    async def node_in_use(self) -> ClusterNode:
        """The node that the gateway publishes to, once it is one."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                ports = {
                    connection.raddr.port
                    for connection in psutil.Process(self.gateway.pid).net_connections("tcp")
                    if connection.raddr and connection.status == psutil.CONN_ESTABLISHED
                }
                nodes = [node for node in self.nodes if node.port in ports]
                if len(nodes) == 1:
                    return nodes[0]
                await asyncio.sleep(POLL_SECONDS)

    async def members(self, asked: ClusterNode) -> dict[str, dict[str, Any]]:
        """The consumer's quorum queue as each node has it, by node name."""
        answer = await asked.control(
            "quorum_status", QUEUE, "--vhost", "telegram", "--formatter", "json", tool="rabbitmq-queues"
        )
        return {member["Node Name"]: member for member in json.loads(answer)}

    async def leader(self) -> ClusterNode:
        """The node that leads the queue, once an election is over."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                members = await self.members(self.nodes[0])
                leaders = [name for name, member in members.items() if member["Raft State"] == "leader"]
                if len(leaders) == 1:
                    return next(node for node in self.nodes if node.node_name == leaders[0])

    async def status(self, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The first status that is as wanted."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (status := await self.gateway.status()) is None or not wanted(status):
                await asyncio.sleep(POLL_SECONDS)
        return status

    async def sink(self, name: str) -> dict[str, Any]:
        status = await self.status()
        found: dict[str, Any] = next(sink for sink in status["sinks"] if sink["name"] == name)
        return found | {"last_seq": status["journal"]["last_seq"]}

    async def until(self, name: str, wanted: Callable[[dict[str, Any]], bool]) -> float:
        """The seconds until the sink's state is as `wanted`."""
        async with asyncio.timeout(PATIENCE_SECONDS), ticking() as clock:
            while not wanted(await self.sink(name)):
                await asyncio.sleep(POLL_SECONDS)
            return clock.time()

    async def recovered(self, name: str) -> float:
        """The seconds until what is in the journal now has reached the sink."""
        goal = (await self.sink(name))["last_seq"]
        return await self.until(name, lambda sink: sink["up"] and sink["cursor"] >= goal)

    async def assert_nothing_is_missing(self) -> None:
        """Queue and database hold everything, the queue in each chat's order."""
        truth = self.sandbox.truth(self.scene.accounts[0], self.since)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            await self.gateway.wait_delivered(sinks=3)
            queue = compare_queue(self.consumer, truth)
            database = await compare_database(self.stack.environment["TELEGRAM_DB_DIRECT_DSN"], truth)
            if not (queue.problems or database.problems) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        assert queue.expected > 100
        assert (list(queue.problems), list(database.problems)) == ([], [])


@pytest_asyncio.fixture
async def rig(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Clustered]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox:
        sandbox.world.replays_revisions = False
        scene = populate(sandbox.world)
        gateway = GatewayProcess(
            tmp_path,
            {
                **stack.sentinel_environment,
                "TELEGRAM_API_ID": "1",
                "TELEGRAM_API_HASH": "sandbox",
                "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
                "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
            },
        )
        await gateway.command("db", "migrate")
        database = await asyncpg.connect(stack.postgres.dsn)
        await database.execute("TRUNCATE telegram_gateway.messages, telegram_gateway.message_revisions")
        await database.close()
        for cache in (stack.redis, stack.redis_replica):
            with suppress(OSError, RedisError):  # only the master, whichever it is now, can be emptied
                await cache.ask("FLUSHALL")
        # The gateway starts at the first node, the consumer at the second.
        nodes = stack.rabbitmq_cluster.nodes
        consumer = SampleConsumer(url_of(*nodes[1:], nodes[0]), name=QUEUE.rpartition(".")[2])
        try:
            async with consumer.running():
                declared = time.monotonic()
                await gateway.login(phone(0))
                await gateway.start()
                await asyncio.sleep(declared + QUEUE_AGE_SECONDS - time.monotonic())
                yield Clustered(sandbox, scene, gateway, consumer, stack, sandbox.world.position)
        finally:
            await gateway.close()
            for node in nodes:
                await back_again(node)
            async with await connect(nodes[0].url) as broker:
                await (await broker.channel()).queue_delete(QUEUE)


async def back_again(node: ClusterNode) -> None:
    """A node that paused for want of a majority resumes by itself, but with RabbitMQ 3.10 not every time."""
    try:
        async with asyncio.timeout(RESUMED_SECONDS):
            await node.start()
            await node.wait_ready()
    except TimeoutError:
        await node.kill()
        await node.start()


async def test_the_cluster_runs_the_shipped_files_and_every_queue_has_three_members(
    stack: LocalStack,
) -> None:
    cluster = stack.rabbitmq_cluster
    shipped = CONFIG_DIR / "rabbitmq"
    listening: set[str] = set()
    for node in cluster.nodes:
        assert (node.directory / "rabbitmq.conf").read_bytes() == (shipped / "rabbitmq.conf").read_bytes()
        fragment = node.directory / "conf.d" / "10-cluster.conf"
        assert fragment.read_bytes() == (shipped / "cluster.conf").read_bytes()
        overrides = (node.directory / "conf.d" / "stack.conf").read_text().splitlines()
        assert {line.partition(" = ")[0] for line in overrides} == {
            "listeners.tcp.local",
            "management.tcp.port",
            "prometheus.tcp.port",
            "load_definitions",
            *(f"cluster_formation.classic_config.nodes.{number}" for number in (1, 2, 3)),
        }
        assert node.pid is not None
        broker = psutil.Process(node.pid)
        for process in (broker, *broker.children(recursive=True)):
            assert 0 not in process.uids()
            connections = process.net_connections("inet")
            listening |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    status = json.loads(await cluster.nodes[2].control("cluster_status", "--formatter", "json"))
    assert sorted(status["running_nodes"]) == [node.node_name for node in cluster.nodes]
    assert (status["cluster_name"], status["partitions"], status["alarms"]) == ("telegram", {}, [])
    answer = await cluster.nodes[0].control(
        *("list_queues", "name", "members", "policy"),
        *("--vhost", "telegram", "--formatter", "json"),
    )
    queues = {queue["name"]: queue for queue in json.loads(answer)}
    assert len(queues["telegram.messages.dlq"]["members"]) == 3
    assert queues["telegram.messages.dlq"]["policy"] == "telegram-dead-letters"


async def test_a_broker_node_killed_under_load_costs_seconds_and_no_message(rig: Clustered) -> None:
    assert len(await rig.members(rig.nodes[0])) == 3
    await rig.sandbox.traffic.start(RATE)
    for which in ("the gateway's node", "the queue's leader"):
        victim = await (rig.leader() if which == "the queue's leader" else rig.node_in_use())
        await rig.recovered("rabbitmq")
        await victim.kill()
        seconds = await rig.recovered("rabbitmq")
        print(f"\n{which} killed: everything received by then confirmed after {seconds:.1f} s")
        assert seconds < 15
        assert await rig.node_in_use() is not victim
        await asyncio.sleep(1)
        await victim.start()
    await rig.sandbox.traffic.stop()
    await rig.assert_nothing_is_missing()
    # The nodes that were away have all of it too.
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            members = (await rig.members(rig.nodes[0])).values()
            states = sorted(member["Raft State"] for member in members)
            if states == ["follower", "follower", "leader"] and len({m["Log Index"] for m in members}) == 1:
                break
            await asyncio.sleep(0.5)


async def test_without_a_majority_of_nodes_publishing_waits_and_says_so(rig: Clustered) -> None:
    await rig.sandbox.traffic.start(RATE)
    await rig.recovered("rabbitmq")
    in_use = await rig.node_in_use()
    down = [node for node in rig.nodes if node is not in_use]
    async with asyncio.TaskGroup() as group:
        for node in down:
            group.create_task(node.kill())
    try:

        def waits_alone(status: dict[str, Any]) -> bool:
            lags = {sink["name"]: sink["lag_events"] for sink in status["sinks"]}
            up = {sink["name"] for sink in status["sinks"] if sink["up"]}
            waiting = lags.pop("rabbitmq")
            return (
                up == {"timescaledb", "redis"}
                and waiting > 5 * RATE
                and max(lags.values()) < waiting / 2
                and any(problem.startswith("sink rabbitmq is down") for problem in status["problems"])
            )

        status = await rig.status(waits_alone)
        sink = next(sink for sink in status["sinks"] if sink["name"] == "rabbitmq")
        print(f"\none of three nodes left: {sink['lag_events']} events wait ({sink['reason']})")
    finally:
        async with asyncio.TaskGroup() as group:
            for node in down:
                group.create_task(node.start())
    seconds = await rig.recovered("rabbitmq")
    print(f"all of it confirmed {seconds:.1f} s after the nodes answered again")
    await rig.sandbox.traffic.stop()
    await rig.assert_nothing_is_missing()


async def test_a_killed_redis_master_is_replaced_inside_ten_seconds_and_nothing_else_notices(
    rig: Clustered,
) -> None:
    await rig.sandbox.traffic.start(RATE)
    await rig.recovered("redis")
    position = rig.sandbox.world.position
    shares: list[float] = []  # of the events that wait for Redis, those that wait for another sink as well

    async def watch() -> None:
        while True:
            status = await rig.status()
            assert [sink["name"] for sink in status["sinks"] if not sink["up"]] in ([], ["redis"])
            lags = {sink["name"]: sink["lag_events"] for sink in status["sinks"]}
            waited = lags.pop("redis")
            if waited > RATE:
                shares.append(max(lags.values()) / waited)
            await asyncio.sleep(0.2)

    async with ticking() as clock, asyncio.TaskGroup() as group:
        await rig.stack.redis.kill()
        killed = clock.time()
        watching = group.create_task(watch())
        await rig.until("redis", lambda sink: not sink["up"])
        await rig.until("redis", lambda sink: sink["up"])
        await rig.recovered("redis")
        seconds = clock.time() - killed
        watching.cancel()
    print(f"\nRedis master killed: the new one had everything after {seconds:.1f} s")
    assert seconds < 10
    # Not at every moment: after one in which the machine stood still, everybody has much to do.
    assert statistics.median(shares) < 0.5
    await asyncio.sleep(1)
    await rig.sandbox.traffic.stop()
    await rig.assert_nothing_is_missing()
    replica = rig.stack.redis_replica
    url = f"redis://:{replica.password}@127.0.0.1:{replica.port}/0"
    account = rig.scene.accounts[0]
    # What the old master had acknowledged and not yet replicated may be forgotten; nothing else may.
    everything = await compare_cache(url, rig.sandbox.truth(account, rig.since), may_forget=True)
    assert list(everything.problems) == []
    afterwards = await compare_cache(url, rig.sandbox.truth(account, position))
    assert afterwards.expected > 5 * RATE
    assert (afterwards.flaws["lost"], afterwards.flaws["wrong"]) == (0, 0)
