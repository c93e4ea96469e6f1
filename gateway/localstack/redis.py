"""Redis master, replica and Sentinels, with the files of `deploy/redis`."""

from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.localstack.packages import program
from gateway.localstack.process import READY_LIMIT, Server, ServerFailed
from gateway.localstack.site import Site

MASTER_NAME = "telegram"
_SHIPPED_MONITOR = "sentinel monitor telegram 127.0.0.1 6379 2"
_SHIPPED_REPLICAOF = "replicaof 127.0.0.1 6379"


class RedisServer(Server):
    """A master or a replica.

    Each runs on a copy of the shipped file with port, path and passwords appended, because Redis rewrites
    its own file on a failover, and must find it as it left it after a restart.
    """

    not_ready = (OSError, RedisError)
    _mode: tuple[str, ...] = ()
    _passwords_file = "redis-passwords.conf"

    def __init__(self, name: str, site: Site, shipped: str, master: "RedisServer | None" = None) -> None:
        super().__init__(name, site)
        self._shipped = site.config_dir / "redis" / shipped
        self._master = master
        # Where the others find it, when that is not where it listens: a proxy stands in between.
        self.announced_port = self.port

    @property
    def password(self) -> str:
        return self.site.passwords.redis

    async def prepare(self) -> None:
        text = self._shipped.read_text()
        master_port = str((self._master or self).announced_port)
        # A second `sentinel monitor` would be a second master, so here the port itself is replaced.
        text = text.replace(_SHIPPED_MONITOR, _SHIPPED_MONITOR.replace("6379", master_port))
        text = text.replace(_SHIPPED_REPLICAOF, _SHIPPED_REPLICAOF.replace("6379", master_port))
        overrides = f"port {self.port}\ninclude {self.site.secrets}/{self._passwords_file}\n"
        if self.announced_port != self.port:
            overrides += f"replica-announce-ip 127.0.0.1\nreplica-announce-port {self.announced_port}\n"
        (self.directory / "redis.conf").write_text(text + overrides)

    def command(self) -> list[str | Path]:
        return [program("redis-server"), self.directory / "redis.conf", *self._mode]

    async def ask(self, *command: str | int, limit: float = 10.0) -> Any:
        """Sends one command, once, and returns the answer; `limit` is in seconds."""
        client = Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password,
            socket_timeout=limit,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()

    async def probe(self) -> None:
        await self.ask("PING")

    async def wait_replica(self) -> None:
        """Returns when a replica has all that this master has."""
        in_step = await self.ask("WAIT", 1, int(READY_LIMIT * 1000), limit=READY_LIMIT + 1)
        if in_step < 1:
            raise ServerFailed(f"no replica followed {self.name} within {READY_LIMIT:.0f} s")


class Sentinel(RedisServer):
    """One of the three that watch the master and promote the replica."""

    _mode = ("--sentinel",)
    _passwords_file = "sentinel-passwords.conf"

    @property
    def password(self) -> str:
        return self.site.passwords.redis_sentinel

    async def wait_quorum(self) -> None:
        """Returns when this Sentinel knows the replica and enough other Sentinels to fail over."""
        await self.wait_until(self._quorum)

    async def _quorum(self) -> None:
        await self.ask("SENTINEL", "CKQUORUM", MASTER_NAME)
        replicas = await self.ask("SENTINEL", "REPLICAS", MASTER_NAME)
        others = await self.ask("SENTINEL", "SENTINELS", MASTER_NAME)
        if not replicas or len(others) < 2:
            raise RedisError("the Sentinels have not found each other yet")
