"""The local stack as a whole: which servers, in what order, and how the gateway reaches them."""

import asyncio
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

import gateway
from gateway.errors import ConfigurationError
from gateway.localstack.packages import missing_servers
from gateway.localstack.postgres import PgBouncer, Postgres
from gateway.localstack.process import Server
from gateway.localstack.rabbitmq import RabbitMQ, RabbitMQCluster
from gateway.localstack.redis import MASTER_NAME, RedisServer, Sentinel
from gateway.localstack.site import Identity, Site
from gateway.server_secrets import write_secrets
from gateway.tasks import root_cause

ALL = ("postgres", "pgbouncer", "redis", "redis_replica", "sentinels", "rabbitmq")
CLUSTER = "rabbitmq_cluster"  # three nodes, for those who ask for it in place of the one
CONFIG_DIR = Path(gateway.__file__).resolve().parents[1] / "deploy"
_SENTINELS = 3


class LocalStack:
    """Every server the gateway writes to, on loopback, with fresh passwords, gone when the context ends.

    A directory of its own making is removed at the end; one that is given must be empty, and is kept.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        servers: Collection[str] = ALL,
        config_dir: Path = CONFIG_DIR,
    ) -> None:
        if unknown := set(servers) - {*ALL, CLUSTER}:
            raise ConfigurationError(
                f"no such server: {', '.join(sorted(unknown))}; there are {', '.join((*ALL, CLUSTER))}"
            )
        if missing := missing_servers():
            raise ConfigurationError(f"servers are not installed; run: apt-get install {' '.join(missing)}")
        if not (config_dir / "timescaledb" / "postgresql.conf").exists():
            raise ConfigurationError(f"{config_dir} holds no server configuration; run from a checkout")
        self._temporary = directory is None
        self._selected = frozenset(servers)
        identity = Identity.current()
        self.directory = _make_directory(directory, identity)
        secrets = self.directory / "secrets"
        secrets.mkdir(mode=0o700)
        self.passwords = write_secrets(secrets, config_dir)
        identity.give(secrets)
        site = Site(self.directory, config_dir, self.passwords, identity)
        self.postgres = Postgres(site)
        self.pgbouncer = PgBouncer(site, self.postgres)
        self.redis = RedisServer("redis", site, "master.conf")
        self.redis_replica = RedisServer("redis_replica", site, "replica.conf", self.redis)
        self.sentinels = tuple(
            Sentinel(f"sentinel{number}", site, "sentinel.conf", self.redis)
            for number in range(1, _SENTINELS + 1)
        )
        self.rabbitmq = RabbitMQ(site)
        self.rabbitmq_cluster = RabbitMQCluster(site)

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_database())
                group.create_task(self._start_cache())
                if "rabbitmq" in self._selected:
                    group.create_task(self.rabbitmq.start())
                if CLUSTER in self._selected:
                    group.create_task(self.rabbitmq_cluster.start())
        except BaseExceptionGroup as failures:
            await self._stop()
            # The others were only cancelled because the first one failed: it alone says why.
            raise root_cause(failures) from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start_database(self) -> None:
        if "postgres" in self._selected:
            await self.postgres.start()
        if "pgbouncer" in self._selected:
            await self.pgbouncer.start()

    async def _start_cache(self) -> None:
        if "redis" in self._selected:
            await self.redis.start()
        if "redis_replica" in self._selected:
            await self.redis_replica.start()
            await self.redis.wait_replica()
        if "sentinels" in self._selected:
            # After the replica: a Sentinel asks its master for replicas at once, and then every ten seconds.
            async with asyncio.TaskGroup() as group:
                for sentinel in self.sentinels:
                    group.create_task(sentinel.start())
            for sentinel in self.sentinels:
                await sentinel.wait_quorum()

    async def _stop(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.postgres.stop())
                # Nobody reads their data again, so nobody waits for them to put it in order.
                for server in self.all_servers:
                    if server is not self.postgres:
                        group.create_task(server.kill())
        finally:
            if self._temporary:
                await asyncio.to_thread(shutil.rmtree, self.directory)

    @property
    def all_servers(self) -> tuple[Server, ...]:
        """Every server, started or not."""
        return (
            self.pgbouncer,
            self.postgres,
            *self.sentinels,
            self.redis_replica,
            self.redis,
            self.rabbitmq,
            *(self.rabbitmq_cluster.servers if CLUSTER in self._selected else ()),
        )

    @property
    def environment(self) -> dict[str, str]:
        """The gateway's settings for this stack, Redis addressed directly."""
        settings = {}
        if "pgbouncer" in self._selected:
            settings["TELEGRAM_DB_DSN"] = self.pgbouncer.dsn()
        if "postgres" in self._selected:
            settings["TELEGRAM_DB_DIRECT_DSN"] = self.postgres.dsn
        if "redis" in self._selected:
            settings["TELEGRAM_REDIS_URL"] = f"redis://:{self.passwords.redis}@127.0.0.1:{self.redis.port}/0"
        if "rabbitmq" in self._selected:
            settings["TELEGRAM_RABBITMQ_URL"] = self.rabbitmq.url
        if CLUSTER in self._selected:
            settings["TELEGRAM_RABBITMQ_URL"] = self.rabbitmq_cluster.url
        return settings

    @property
    def sentinel_environment(self) -> dict[str, str]:
        """The same, Redis found through its Sentinels."""
        settings = {name: value for name, value in self.environment.items() if name != "TELEGRAM_REDIS_URL"}
        return settings | {
            "TELEGRAM_REDIS_SENTINELS": ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels),
            "TELEGRAM_REDIS_MASTER": MASTER_NAME,
            "TELEGRAM_REDIS_PASSWORD": self.passwords.redis,
            "TELEGRAM_REDIS_SENTINEL_PASSWORD": self.passwords.redis_sentinel,
        }


def _make_directory(directory: Path | None, identity: Identity) -> Path:
    """An empty directory that the servers' user can reach."""
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="telegram-stack-"))
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ConfigurationError(f"{directory} is not empty; name an empty directory, or one to be made")
    if identity.switch:
        for above in directory.parents:
            if not above.stat().st_mode & 0o001:
                raise ConfigurationError(
                    f"the servers run as an unprivileged user, who cannot enter {above}; "
                    "name a directory elsewhere, such as one in /tmp"
                )
    # The servers' user passes through to what is its own; nobody may list or change anything here.
    directory.chmod(0o711)
    return directory
