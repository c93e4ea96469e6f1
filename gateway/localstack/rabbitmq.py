"""RabbitMQ with the files of `deploy/rabbitmq`, and the port mapper that its node registers with."""

import asyncio
import secrets as random_secrets
import shutil
import struct
from pathlib import Path

import aio_pika
from aio_pika.exceptions import AMQPError

from gateway.localstack.packages import program
from gateway.localstack.process import Server
from gateway.localstack.secrets import write_private
from gateway.localstack.site import Site

VHOST = "telegram"
USER = "telegram"
_EPMD_NAMES_REQUEST = struct.pack(">HB", 1, ord("n"))


class PortMapper(Server):
    """Erlang's epmd, for this one node: left to itself, Erlang starts one that stays for ever."""

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

    def __init__(self, site: Site) -> None:
        super().__init__("rabbitmq", site)
        self._dist_port = site.ports.take()
        self.management_port = site.ports.take()
        self.prometheus_port = site.ports.take()
        self._mapper = PortMapper("epmd", site)

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{self.site.passwords.rabbitmq}@127.0.0.1:{self.port}/{VHOST}"

    async def prepare(self) -> None:
        for name in ("rabbitmq.conf", "rabbitmq-env.conf", "enabled_plugins"):
            shutil.copyfile(self.site.config_dir / "rabbitmq" / name, self.directory / name)
        (self.directory / "conf.d").mkdir()
        (self.directory / "conf.d" / "stack.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\n"
            f"management.tcp.port = {self.management_port}\n"
            f"prometheus.tcp.port = {self.prometheus_port}\n"
            f"load_definitions = {self.site.secrets}/definitions.json\n"
        )
        cookie = self.directory / ".erlang.cookie"
        write_private(cookie, random_secrets.token_hex(24))
        cookie.chmod(0o400)

    def command(self) -> list[str | Path]:
        return [program("rabbitmq-server")]

    def variables(self) -> dict[str, str]:
        return {
            "RABBITMQ_CONF_ENV_FILE": f"{self.directory}/rabbitmq-env.conf",
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
