"""RabbitMQ with the files of `deploy/rabbitmq`: one node, or a cluster; and the port mapper of its nodes."""

import asyncio
import secrets as random_secrets
import shutil
import struct
from pathlib import Path

import aio_pika
from aio_pika.exceptions import AMQPError

from gateway.localstack.packages import program
from gateway.localstack.process import Server, run_once
from gateway.localstack.site import Site
from gateway.server_secrets import write_private

VHOST = "telegram"
USER = "telegram"
NODES = 3
_EPMD_NAMES_REQUEST = struct.pack(">HB", 1, ord("n"))


class PortMapper(Server):
    """Erlang's epmd, for these nodes alone: left to itself, Erlang starts one that stays for ever."""

    async def prepare(self) -> None:
        return

    def command(self) -> list[str | Path]:
        return [program("epmd"), "-address", "127.0.0.1", "-port", str(self.port)]

    async def probe(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(_EPMD_NAMES_REQUEST)
            await reader.readexactly(4)
        finally:
            writer.close()


class RabbitMQ(Server):
    """The broker, with vhost, user, exchanges, dead-letter queue and policies of `definitions.json`."""

    not_ready = (OSError, AMQPError)
    _env_file = "rabbitmq-env.conf"

    def __init__(self, site: Site, name: str = "rabbitmq", mapper: PortMapper | None = None) -> None:
        super().__init__(name, site)
        self._dist_port = site.ports.take()
        self.management_port = site.ports.take()
        self.prometheus_port = site.ports.take()
        self._mapper = mapper or PortMapper("epmd", site)
        self._cookie = random_secrets.token_hex(24)

    @property
    def url(self) -> str:
        return url_of(self)

    async def prepare(self) -> None:
        shipped = self.site.config_dir / "rabbitmq"
        for name in ("rabbitmq.conf", self._env_file, "enabled_plugins"):
            shutil.copyfile(shipped / name, self.directory / name)
        (self.directory / "conf.d").mkdir()
        settings = self.settings()
        (self.directory / "conf.d" / "stack.conf").write_text(
            "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        cookie = self.directory / ".erlang.cookie"
        write_private(cookie, self._cookie)
        cookie.chmod(0o400)

    def settings(self) -> dict[str, object]:
        """What differs here from the shipped configuration: ports and paths."""
        return {
            "listeners.tcp.local": f"127.0.0.1:{self.port}",
            "management.tcp.port": self.management_port,
            "prometheus.tcp.port": self.prometheus_port,
            "load_definitions": self.site.secrets / "definitions.json",
        }

    def command(self) -> list[str | Path]:
        return [program("rabbitmq-server")]

    def variables(self) -> dict[str, str]:
        return {
            "RABBITMQ_CONF_ENV_FILE": f"{self.directory}/{self._env_file}",
            "RABBITMQ_CONFIG_FILE": f"{self.directory}/rabbitmq.conf",
            "RABBITMQ_CONFIG_FILES": f"{self.directory}/conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{self.directory}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.directory}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{self.directory}/mnesia",
            "RABBITMQ_LOG_BASE": f"{self.directory}/log",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_PORT": str(self._mapper.port),
            # Read by the start script: become the Erlang machine instead of a shell that waits for it.
            "detached": "true",
        }

    async def control(self, *command: str, tool: str = "rabbitmqctl") -> str:
        """Runs one of the broker's own command line tools against it; returns what it printed."""
        argv = self.site.identity.command(program(tool), *command)
        return await run_once(argv, self.directory, self.variables())

    async def probe(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.close()
        connection = await aio_pika.connect(self.url, timeout=4)
        await connection.close()

    async def start(self) -> None:
        await self._mapper.start()
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self._mapper.stop()

    async def kill(self) -> None:
        await super().kill()
        await self._mapper.kill()


class ClusterNode(RabbitMQ):
    """One of the nodes of a cluster: with the files of `deploy/rabbitmq` that make three hosts one broker."""

    _env_file = "rabbitmq-env.cluster.conf"

    def __init__(self, site: Site, number: int, mapper: PortMapper, cookie: str) -> None:
        super().__init__(site, f"rabbitmq{number}", mapper)
        self._cookie = cookie
        self.node_name = f"telegram{number}@localhost"

    async def prepare(self) -> None:
        await super().prepare()
        shipped = self.site.config_dir / "rabbitmq" / "cluster.conf"
        shutil.copyfile(shipped, self.directory / "conf.d" / "10-cluster.conf")

    def settings(self) -> dict[str, object]:
        hosts = {
            f"cluster_formation.classic_config.nodes.{number}": f"telegram{number}@localhost"
            for number in range(1, NODES + 1)
        }
        return super().settings() | hosts

    def variables(self) -> dict[str, str]:
        return super().variables() | {
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    async def stop(self) -> None:
        await Server.stop(self)

    async def kill(self) -> None:
        await Server.kill(self)


class RabbitMQCluster:
    """Three nodes on this machine, by node name and port, joined as on three hosts."""

    def __init__(self, site: Site) -> None:
        self._mapper = PortMapper("epmd_of_cluster", site)
        cookie = random_secrets.token_hex(24)
        self.nodes = tuple(ClusterNode(site, number, self._mapper, cookie) for number in range(1, NODES + 1))

    @property
    def url(self) -> str:
        """All nodes, as the gateway is given them."""
        return url_of(*self.nodes)

    @property
    def servers(self) -> tuple[Server, ...]:
        return (*self.nodes, self._mapper)

    async def start(self) -> None:
        """Starts all nodes at once; returns when they are one cluster, and each queue has three members."""
        await self._mapper.start()
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                group.create_task(node.start())
        # The node that was up first made the queues of the definitions when it was still alone.
        for node in self.nodes:
            await self.nodes[0].control("grow", node.node_name, "all", tool="rabbitmq-queues")


def url_of(*nodes: RabbitMQ) -> str:
    """The URL of one node or of several."""
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return f"amqp://{USER}:{nodes[0].site.passwords.rabbitmq}@{hosts}/{VHOST}"
