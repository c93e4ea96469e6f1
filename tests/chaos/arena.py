"""All that chaos needs: a Telegram, the servers behind proxies, a gateway with two accounts, a consumer."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from gateway.demo.consumer import SampleConsumer
from gateway.demo.process import GatewayProcess
from gateway.localstack import LocalStack
from gateway.localstack.redis import MASTER_NAME, RedisServer
from gateway.sandbox import Sandbox
from gateway.sandbox.chats import Chat
from gateway.sandbox.scene import phone, populate
from gateway.sandbox.traffic import Traffic
from gateway.sandbox.users import User
from tests.chaos.disk import small_disk
from tests.chaos.keeper import Keeper
from tests.chaos.line import Line

NAMES = ("main", "second")  # of the accounts
SIDE_CHANNELS = 4  # that the accounts join and leave
SIDE_RATE = 1.0  # changes a second in each


@dataclass
class Arena:
    """What the actions act on, and what the oracle compares."""

    sandbox: Sandbox
    users: list[User]
    chats: list[Chat]  # where the main traffic goes
    side: list[Chat]  # channels to join and leave, each with traffic of its own
    stack: LocalStack
    lines: dict[str, Line]
    gateway: GatewayProcess
    keeper: Keeper
    consumer: SampleConsumer
    since: int = 0  # the world's position when the gateway was first ready
    side_traffic: dict[Chat, Traffic] = field(default_factory=dict)

    async def start_side(self, chat: Chat) -> None:
        traffic = self.side_traffic.setdefault(chat, Traffic(self.sandbox.world, seed=chat.id))
        await traffic.start(SIDE_RATE, chats=[chat])

    async def stop_side(self, chat: Chat) -> None:
        await self.side_traffic[chat].stop()

    async def redis_master(self) -> RedisServer:
        """The one that a Sentinel names; the first one where none answers."""
        for sentinel in self.stack.sentinels:
            with contextlib.suppress(OSError, RedisError):
                _, port = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
                if int(port) == self.stack.redis_replica.announced_port:
                    return self.stack.redis_replica
                break
        return self.stack.redis

    async def redis_url(self) -> str:
        """The present master, directly."""
        master = await self.redis_master()
        return f"redis://:{master.password}@127.0.0.1:{master.port}/0"


@asynccontextmanager
async def arena(directory: Path, *, seed: int, disk_bytes: int) -> AsyncIterator[Arena]:
    """Starts it all below `directory`; enters once the gateway is ready and nothing has happened yet."""
    async with AsyncExitStack() as exits:
        stack = LocalStack(directory / "servers")
        lines: dict[str, Line] = {}
        for server in (stack.pgbouncer, stack.postgres, stack.redis, stack.redis_replica, stack.rabbitmq):
            line = lines[server.name] = Line(server.port)
            await line.start()
            exits.push_async_callback(line.close)
        for redis in (stack.redis, stack.redis_replica):
            redis.announced_port = lines[redis.name].proxy_port
        await exits.enter_async_context(stack)
        sandbox = await exits.enter_async_context(Sandbox(state_dir=directory / "sandbox", seed=seed))
        # As Telegram does: a difference has messages in their present form, and none that are gone.
        sandbox.world.replays_revisions = False
        scene = populate(sandbox.world, accounts=len(NAMES))
        scene.chats.append(sandbox.world.add_group("Grupo que cresce", [*scene.accounts, *_friends(sandbox)]))
        side = [sandbox.world.add_channel(f"Sala {n + 1}", _friends(sandbox)) for n in range(SIDE_CHANNELS)]
        gateway = GatewayProcess(directory, _environment(sandbox, stack, lines))
        disk = await exits.enter_async_context(small_disk(gateway.state_dir, disk_bytes))
        exits.push_async_callback(gateway.close)
        await gateway.command("db", "migrate", environment={"TELEGRAM_DB_DIRECT_DSN": stack.postgres.dsn})
        consumer = SampleConsumer(stack.rabbitmq.url, name="chaos")
        await exits.enter_async_context(consumer.running())
        for number, name in enumerate(NAMES):
            await gateway.login(phone(number), account=name)
        await gateway.start()
        yield Arena(
            sandbox=sandbox,
            users=scene.accounts,
            chats=scene.chats,
            side=side,
            stack=stack,
            lines=lines,
            gateway=gateway,
            keeper=Keeper(gateway, disk),
            consumer=consumer,
            since=sandbox.world.position,
        )


def _friends(sandbox: Sandbox) -> list[User]:
    return [user for user in sandbox.world.users.values() if user.phone is None]


def _environment(sandbox: Sandbox, stack: LocalStack, lines: dict[str, Line]) -> dict[str, str]:
    settings = dict(stack.sentinel_environment)
    behind = {
        "TELEGRAM_DB_DSN": stack.pgbouncer,
        "TELEGRAM_DB_DIRECT_DSN": stack.postgres,
        "TELEGRAM_RABBITMQ_URL": stack.rabbitmq,
    }
    for setting, server in behind.items():
        settings[setting] = settings[setting].replace(
            f":{server.port}/", f":{lines[server.name].proxy_port}/"
        )
    return settings | {
        "TELEGRAM_ACCOUNTS": ",".join(NAMES),
        "TELEGRAM_API_ID": "1",
        "TELEGRAM_API_HASH": "sandbox",
        "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
        "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
    }
