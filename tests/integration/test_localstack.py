"""The local stack holds what `deploy/` promises for production: the limits are observed, not only written."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import asyncpg
import psutil
import pytest
from aio_pika.exceptions import AMQPError, ChannelPreconditionFailed
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel as SentinelClient
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from gateway.localstack import LocalStack, Server
from gateway.localstack.packages import program
from gateway.localstack.redis import RedisServer
from gateway.localstack.stack import CONFIG_DIR

KeptStack = tuple[Path, psutil.Process, list[psutil.Process]]
SIZES = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


async def connect(dsn: str) -> asyncpg.Connection:
    return await asyncpg.connect(dsn, ssl=False, statement_cache_size=0)


def directives(file: Path) -> Iterator[tuple[str, str]]:
    """Name and value of each line of a redis.conf."""
    for line in file.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            yield name, value


def ini(file: Path, section: str) -> dict[str, str]:
    settings, current = {}, None
    for line in file.read_text().splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            current = heading[1]
        elif line and line[0] not in ";%" and current == section:
            name, _, value = line.partition("=")
            settings[name.strip()] = value.strip()
    return settings


def pgbouncer_show(stack: LocalStack, what: str) -> list[dict[str, str]]:
    """Asks PgBouncer's console, which speaks only the simple protocol: through psql."""
    result = subprocess.run(
        [program("psql"), "-XAF\t", "-Pfooter=off", f"-cSHOW {what}", stack.pgbouncer.dsn("pgbouncer")],
        check=True,
        capture_output=True,
        text=True,
    )
    head, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def tree(server: Server) -> list[psutil.Process]:
    assert server.pid is not None
    process = psutil.Process(server.pid)
    return [process, *process.children(recursive=True)]


def left_of(processes: list[psutil.Process], *, within: float) -> list[psutil.Process]:
    """Those that still run; one that has ended and was not collected by its parent yet does not."""
    deadline = time.monotonic() + within
    while True:
        _, running = psutil.wait_procs(processes, timeout=0.05)
        left = [process for process in running if not is_zombie(process)]
        if not left or time.monotonic() > deadline:
            return left


def is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_processes(stack: LocalStack) -> list[psutil.Process]:
    return [process for server in stack.all_servers for process in tree(server)]


async def management(stack: LocalStack, path: str) -> Any:
    headers = {"Authorization": aiohttp.encode_basic_auth("telegram", stack.passwords.rabbitmq)}
    url = f"http://127.0.0.1:{stack.rabbitmq.management_port}/api/{path}"
    async with aiohttp.request("GET", url, headers=headers, raise_for_status=True) as response:
        return await response.json()


# -- Reaching the servers ------------------------------------------------------------------------------


async def test_every_server_answers_with_the_settings_the_gateway_is_given(stack: LocalStack) -> None:
    for name in ("TELEGRAM_DB_DSN", "TELEGRAM_DB_DIRECT_DSN"):
        connection = await connect(stack.environment[name])
        assert await connection.fetchval("SELECT current_user") == "telegram"
        assert await connection.fetchval("SELECT current_database()") == "telegram_gateway"
        await connection.close()
    async with Redis.from_url(stack.environment["TELEGRAM_REDIS_URL"]) as client:
        assert await client.set("telegram:test", "1", ex=600)
    broker = await aio_pika.connect(stack.environment["TELEGRAM_RABBITMQ_URL"])
    await broker.close()
    settings = stack.sentinel_environment
    addresses = [
        (host, int(port))
        for host, _, port in (item.partition(":") for item in settings["TELEGRAM_REDIS_SENTINELS"].split(","))
    ]
    sentinel: Any = SentinelClient(  # type: ignore[no-untyped-call]
        addresses, sentinel_kwargs={"password": settings["TELEGRAM_REDIS_SENTINEL_PASSWORD"]}
    )
    master = sentinel.master_for("telegram", password=settings["TELEGRAM_REDIS_PASSWORD"])
    assert await master.get("telegram:test") == b"1"
    await master.aclose()


async def test_no_server_lets_anybody_in_without_its_password(stack: LocalStack) -> None:
    for server in (stack.postgres, stack.pgbouncer):
        with pytest.raises(asyncpg.PostgresError):
            await connect(f"postgresql://telegram:wrong@127.0.0.1:{server.port}/telegram_gateway")
    for cache in (stack.redis, stack.redis_replica, *stack.sentinels):
        async with Redis(port=cache.port, retry=Retry(NoBackoff(), 0)) as client:
            with pytest.raises(AuthenticationError):
                await client.get("telegram:test")
    for user in ("telegram:wrong", "guest:guest"):
        with pytest.raises(AMQPError):
            await aio_pika.connect(f"amqp://{user}@127.0.0.1:{stack.rabbitmq.port}/telegram")


async def test_every_listener_is_on_loopback_and_every_process_unprivileged(stack: LocalStack) -> None:
    processes = all_processes(stack)
    listeners = [
        connection.laddr
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in listeners} >= {server.port for server in stack.all_servers}
    assert {address.ip for address in listeners} == {"127.0.0.1"}
    assert 0 not in {uid for process in processes for uid in process.uids()}


async def test_no_password_is_in_a_command_line_or_in_a_log(stack: LocalStack) -> None:
    seen = [" ".join(process.cmdline()) for process in all_processes(stack)]
    seen += [file.read_text(errors="replace") for file in stack.directory.glob("*.log")]
    passwords = vars(stack.passwords).values()
    assert not [text for text in seen for password in passwords if password in text]


# -- PostgreSQL and PgBouncer ----------------------------------------------------------------------------


async def test_postgresql_runs_the_shipped_files_and_only_ports_and_paths_differ(stack: LocalStack) -> None:
    for name in ("postgresql.conf", "pg_hba.conf"):
        shipped = CONFIG_DIR / "timescaledb" / name
        assert (stack.postgres.directory / name).read_bytes() == shipped.read_bytes()
    connection = await connect(stack.postgres.admin_dsn)
    overridden = await connection.fetch("SELECT name FROM pg_settings WHERE source = 'command line'")
    applied = await connection.fetch("SELECT name, setting, error, sourcefile FROM pg_file_settings")
    settings = await connection.fetch("SELECT name, current_setting(name) AS value FROM pg_settings")
    effective = {row["name"]: row["value"] for row in settings}
    await connection.close()
    assert {row["name"] for row in overridden} <= {
        "config_file",
        "data_directory",
        "hba_file",
        "port",
        "unix_socket_directories",
    }
    assert {row["name"] for row in applied if row["error"]} == {"port", "unix_socket_directories"}
    assert {Path(row["sourcefile"]).name for row in applied} <= {"postgresql.conf", "timescaledb.conf"}
    expected = {
        "shared_buffers": "512MB",
        "max_connections": "50",
        "fsync": "on",
        "synchronous_commit": "on",
        "log_parameter_max_length": "0",
        "log_error_verbosity": "terse",
        "listen_addresses": "127.0.0.1",
    }
    assert {name: effective[name] for name in expected} == expected


async def test_role_settings_reach_a_client_of_the_pooler(stack: LocalStack) -> None:
    connection = await connect(stack.environment["TELEGRAM_DB_DSN"])
    names = ("jit", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone")
    values = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
    await connection.close()
    assert values == ["off", "30s", "10s", "1min", "UTC"]


async def test_a_failed_insert_does_not_put_its_row_into_the_log(stack: LocalStack) -> None:
    connection = await connect(stack.environment["TELEGRAM_DB_DSN"])
    await connection.execute("CREATE TEMP TABLE refused (body text CHECK (length(body) < 3))")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("INSERT INTO refused VALUES ($1)", "compra PETR4 agora")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("INSERT INTO refused VALUES ('venda VALE3 agora')")
    await connection.close()
    log = stack.postgres.log_path.read_text()
    assert "violates check constraint" in log
    assert "PETR4" not in log
    assert "VALE3" not in log


async def test_pgbouncer_runs_the_shipped_file_and_only_port_and_paths_differ(stack: LocalStack) -> None:
    shipped_file = CONFIG_DIR / "pgbouncer" / "pgbouncer.ini"
    assert (stack.pgbouncer.directory / "pgbouncer.ini").read_bytes() == shipped_file.read_bytes()
    effective = {row["key"]: row["value"] for row in pgbouncer_show(stack, "CONFIG")}
    shipped = ini(shipped_file, "pgbouncer")
    differing = {name for name, value in shipped.items() if effective[name] != value}
    assert differing == {"listen_port", "auth_file", "unix_socket_dir"}
    (database,) = [row for row in pgbouncer_show(stack, "DATABASES") if row["name"] == "telegram_gateway"]
    assert (database["host"], database["port"]) == ("127.0.0.1", str(stack.postgres.port))


async def test_sixty_clients_share_twenty_server_connections_per_transaction(stack: LocalStack) -> None:
    clients = [await connect(stack.environment["TELEGRAM_DB_DSN"]) for _ in range(60)]
    holding = asyncio.Semaphore(0)
    seen = asyncio.Event()

    async def transaction(client: asyncpg.Connection) -> int:
        async with client.transaction():
            backend = await client.fetchval("SELECT pg_backend_pid()")
            holding.release()
            await seen.wait()
        return int(backend)

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(transaction(client)) for client in clients]
            for _ in range(20):
                await holding.acquire()
            # Each of the twenty is held by one; the others wait.
            assert holding.locked()
            (pool,) = [row for row in pgbouncer_show(stack, "POOLS") if row["database"] == "telegram_gateway"]
            seen.set()
        assert int(pool["sv_active"]) + int(pool["sv_idle"]) + int(pool["sv_used"]) <= 20
        assert pool["pool_mode"] == "transaction"
        # All sixty stay connected, and each got its turn.
        assert len({task.result() for task in running}) == 20
    finally:
        for client in clients:
            client.terminate()


async def test_the_hundred_and_first_client_is_refused(stack: LocalStack) -> None:
    clients: list[asyncpg.Connection] = []
    try:
        for _ in range(100):
            clients.append(await connect(stack.environment["TELEGRAM_DB_DSN"]))
        with pytest.raises(asyncpg.PostgresError, match="no more connections allowed"):
            await connect(stack.environment["TELEGRAM_DB_DSN"])
    finally:
        for client in clients:
            client.terminate()
    await stack.pgbouncer.wait_ready()


async def test_nothing_holds_the_database_longer_than_the_files_allow(stack: LocalStack) -> None:
    """All three limits at once: the longest takes half a minute."""
    clients = [await connect(stack.environment["TELEGRAM_DB_DSN"]) for _ in range(21)]
    direct = [await connect(stack.environment["TELEGRAM_DB_DIRECT_DSN"]) for _ in range(3)]
    asleep, holder, waiting = direct

    async def refused_after(query: Awaitable[Any], expected: type[Exception]) -> float:
        started = time.monotonic()
        with pytest.raises(expected):
            await query
        return time.monotonic() - started

    try:
        await holder.execute("CREATE TABLE held ()")
        await holder.execute("BEGIN; LOCK TABLE held")
        for client in clients[:20]:
            await client.execute("BEGIN; SELECT 1")
        async with asyncio.TaskGroup() as group:
            statement = group.create_task(
                refused_after(asleep.execute("SELECT pg_sleep(120)"), asyncpg.QueryCanceledError)
            )
            lock = group.create_task(
                refused_after(waiting.execute("SELECT FROM held"), asyncpg.LockNotAvailableError)
            )
            pool = group.create_task(
                refused_after(clients[20].execute("SELECT 1"), asyncpg.PostgresConnectionError)
            )
        # By which limit each was ended, its error says; a busy machine may take its time to say so.
        assert 29 < statement.result() < 55
        assert 9 < lock.result() < 35
        assert 19 < pool.result() < 45
        await holder.execute("DROP TABLE held; COMMIT")
    finally:
        for client in (*clients, *direct):
            client.terminate()
    await stack.pgbouncer.wait_ready()


# -- Redis and Sentinel ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shipped"), [("redis", "master.conf"), ("redis_replica", "replica.conf")])
async def test_redis_runs_the_shipped_file_and_only_ports_differ(
    stack: LocalStack, name: str, shipped: str
) -> None:
    server: RedisServer = getattr(stack, name)
    differing = {}
    for directive, value in directives(CONFIG_DIR / "redis" / shipped):
        effective = (await server.ask("CONFIG", "GET", directive))[directive]
        if size := re.fullmatch(r"(\d+)(kb|mb|gb)", value):
            value = str(int(size[1]) * SIZES[size[2]])
        if effective != value.strip('"'):
            differing[directive] = effective
    assert set(differing) == ({"port"} if name == "redis" else {"port", "replicaof"})
    assert await server.ask("CONFIG", "GET", "maxmemory") == {"maxmemory": str(1 << 30)}


async def test_the_replica_follows_and_refuses_writes(stack: LocalStack) -> None:
    await stack.redis.ask("SET", "telegram:replicated", "yes", "EX", 600)
    await stack.redis.wait_replica()
    assert await stack.redis_replica.ask("GET", "telegram:replicated") == "yes"
    with pytest.raises(RedisError, match="read only"):
        await stack.redis_replica.ask("SET", "telegram:replicated", "no")


async def test_full_memory_costs_old_keys_and_never_a_write(stack: LocalStack) -> None:
    await stack.redis.ask("CONFIG", "SET", "maxmemory", 64 << 20)
    try:
        before = (await stack.redis.ask("INFO", "stats"))["evicted_keys"]
        for number in range(128):
            assert await stack.redis.ask("SET", f"telegram:filling:{number}", "x" * (1 << 20))
        assert (await stack.redis.ask("INFO", "stats"))["evicted_keys"] > before
        assert await stack.redis.ask("EXISTS", "telegram:filling:127") == 1
        assert await stack.redis.ask("EXISTS", "telegram:filling:0") == 0
    finally:
        await stack.redis.ask("CONFIG", "SET", "maxmemory", 1 << 30)
        await stack.redis.ask("FLUSHDB")


async def test_each_sentinel_holds_the_shipped_limits(stack: LocalStack) -> None:
    shipped = {
        name: value.split()[1]
        for line_name, value in directives(CONFIG_DIR / "redis" / "sentinel.conf")
        if line_name == "sentinel" and (name := value.split()[0]) not in {"monitor", "deny-scripts-reconfig"}
        for value in [" ".join(value.split()[1:])]
    }
    for sentinel in stack.sentinels:
        effective = await sentinel.ask("SENTINEL", "MASTER", "telegram")
        assert {name: effective[name] for name in shipped} == shipped
        assert effective["quorum"] == "2"
        assert effective["num-other-sentinels"] == "2"
        assert effective["num-slaves"] == "1"


async def test_a_killed_master_is_replaced_inside_ten_seconds_and_returns_as_replica() -> None:
    # A machine that stands still for two seconds makes the Sentinels wait for half a minute: once more then.
    for _ in range(3):
        if (took := await seconds_without_a_master()) < 10:
            break
    assert took < 10


async def seconds_without_a_master() -> float:
    """How long it takes to replace a killed master; everything else about it is as promised."""
    async with LocalStack(servers=("redis", "redis_replica", "sentinels")) as own:
        await own.redis.ask("SET", "telegram:before", "kept")
        await own.redis.wait_replica()
        started = time.monotonic()
        await own.redis.kill()

        async def promoted() -> None:
            await own.redis_replica.ask("SET", "telegram:after", "written")
            for sentinel in own.sentinels:
                _, port = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "telegram")
                if int(port) != own.redis_replica.port:
                    raise RedisError("not every Sentinel knows yet")

        await own.redis_replica.wait_until(promoted)
        took = time.monotonic() - started
        assert await own.redis_replica.ask("GET", "telegram:before") == "kept"

        # The promoted one keeps its role over a restart; the old master comes back behind it.
        await own.redis_replica.stop()
        await own.redis_replica.start()
        assert (await own.redis_replica.ask("ROLE"))[0] in {"master", b"master"}
        await own.redis_replica.ask("SET", "telegram:again", "written")
        await own.redis.start()

        async def demoted() -> None:
            if await own.redis.ask("GET", "telegram:again") != "written":
                raise RedisError("not a replica yet")

        await own.redis.wait_until(demoted)
    return took


# -- RabbitMQ ------------------------------------------------------------------------------------------------


async def test_rabbitmq_runs_the_shipped_files_and_only_ports_and_paths_differ(stack: LocalStack) -> None:
    for name in ("rabbitmq.conf", "rabbitmq-env.conf", "enabled_plugins"):
        assert (stack.rabbitmq.directory / name).read_bytes() == (CONFIG_DIR / "rabbitmq" / name).read_bytes()
    overrides = (stack.rabbitmq.directory / "conf.d" / "stack.conf").read_text().splitlines()
    assert {line.partition(" = ")[0] for line in overrides} == {
        "listeners.tcp.local",
        "management.tcp.port",
        "prometheus.tcp.port",
        "load_definitions",
    }
    url = f"http://127.0.0.1:{stack.rabbitmq.prometheus_port}/metrics"
    async with aiohttp.request("GET", url, raise_for_status=True) as response:
        metrics = await response.text()
    assert re.search(r"^rabbitmq_resident_memory_limit_bytes 768000000$", metrics, re.MULTILINE)
    assert re.search(r"^rabbitmq_disk_space_available_limit_bytes 1000000000$", metrics, re.MULTILINE)


async def test_the_definitions_differ_from_the_shipped_in_the_password_hash_only(stack: LocalStack) -> None:
    shipped = json.loads((CONFIG_DIR / "rabbitmq" / "definitions.json").read_text())
    loaded = json.loads((stack.directory / "secrets" / "definitions.json").read_text())
    (shipped_user,), (loaded_user,) = shipped.pop("users"), loaded.pop("users")
    assert loaded == shipped
    assert {key for key in shipped_user if shipped_user[key] != loaded_user[key]} == {"password_hash"}


async def test_vhost_exchange_and_policies_are_there(stack: LocalStack) -> None:
    exchange = await management(stack, "exchanges/telegram/telegram.messages")
    assert (exchange["type"], exchange["durable"]) == ("topic", True)
    async with asyncio.timeout(90):
        # The management plugin tells a queue's policy with its first figures, which come every five seconds.
        while "effective_policy_definition" not in (
            dead := await management(stack, "queues/telegram/telegram.messages.dlq")
        ):
            await asyncio.sleep(0.2)
    assert (dead["type"], dead["durable"]) == ("quorum", True)
    assert dead["effective_policy_definition"] == {
        "message-ttl": 24 * 3600 * 1000,
        "max-length": 10_000,
        "overflow": "drop-head",
        "delivery-limit": 1_000_000,
    }
    assert [vhost["name"] for vhost in await management(stack, "vhosts")] == ["telegram"]


async def test_a_refused_message_is_in_the_dead_letter_queue_with_the_reason(
    stack: LocalStack,
) -> None:
    broker = await aio_pika.connect(stack.rabbitmq.url)
    async with broker:
        channel = await broker.channel()
        dead = await channel.get_queue("telegram.messages.dlq")
        await dead.purge()
        queue = await channel.declare_queue(
            "telegram.consumer.refuser", durable=True, arguments={"x-queue-type": "quorum"}
        )
        exchange = await channel.get_exchange("telegram.messages")
        await queue.bind(exchange, "telegram.channel.-100123.#")
        await exchange.publish(aio_pika.Message(b"refused"), "telegram.channel.-100123")
        async with queue.iterator(timeout=90) as messages:
            async for message in messages:
                await message.reject(requeue=False)
                break
        async with dead.iterator(timeout=90) as messages:
            async for message in messages:
                await message.ack()
                break
        assert message.body == b"refused"
        deaths: Any = message.headers["x-death"]
        assert (deaths[0]["reason"], deaths[0]["queue"]) == ("rejected", "telegram.consumer.refuser")
        await queue.delete(if_unused=False, if_empty=False)


async def test_a_delivery_that_always_fails_ends_in_the_dead_letter_queue(stack: LocalStack) -> None:
    broker = await aio_pika.connect(stack.rabbitmq.url)
    async with broker:
        channel = await broker.channel()
        dead = await channel.get_queue("telegram.messages.dlq")
        await dead.purge()
        queue = await channel.declare_queue(
            "telegram.consumer.crasher", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await channel.default_exchange.publish(aio_pika.Message(b"poison"), queue.name)
        attempts = 0

        async def crash(message: Any) -> None:
            nonlocal attempts
            attempts += 1
            await message.reject(requeue=True)

        await queue.consume(crash)
        async with dead.iterator(timeout=90) as messages:
            async for message in messages:
                await message.ack()
                break
        assert message.body == b"poison"
        assert attempts == 21  # the first delivery and twenty more
        await queue.delete(if_unused=False, if_empty=False)


async def test_the_dead_letter_queue_keeps_the_newest_ten_thousand(stack: LocalStack) -> None:
    broker = await aio_pika.connect(stack.rabbitmq.url)
    async with broker:
        channel = await broker.channel()
        dead = await channel.get_queue("telegram.messages.dlq")
        await dead.purge()
        exchange = await channel.get_exchange("telegram.messages.dlx")
        for start in range(0, 10_200, 400):
            async with asyncio.TaskGroup() as group:
                for number in range(start, min(start + 400, 10_200)):
                    group.create_task(exchange.publish(aio_pika.Message(str(number).encode()), "dead"))
        oldest = await dead.get()
        assert oldest is not None
        assert oldest.body == b"200"
        await oldest.ack()
        assert await dead.purge() is not None


async def test_a_message_beyond_the_limit_is_refused(stack: LocalStack) -> None:
    broker = await aio_pika.connect(stack.rabbitmq.url)
    async with broker:
        channel = await broker.channel()
        exchange = await channel.get_exchange("telegram.messages")
        await exchange.publish(
            aio_pika.Message(b"x" * (16 << 20)), "telegram.channel.nobody", mandatory=False
        )
        with pytest.raises(ChannelPreconditionFailed, match="larger than configured max size 16777216"):
            await exchange.publish(aio_pika.Message(b"x" * ((16 << 20) + 1)), "telegram.channel.nobody")


# -- Outages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_postgresql_comes_back_on_its_port_with_what_was_committed(stack: LocalStack, how: str) -> None:
    connection = await connect(stack.environment["TELEGRAM_DB_DIRECT_DSN"])
    await connection.execute("CREATE TABLE survivor AS SELECT 42 AS answer")
    processes = tree(stack.postgres)
    await getattr(stack.postgres, how)()
    assert left_of(processes, within=0) == []
    connection.terminate()
    with pytest.raises(OSError):
        await connect(stack.environment["TELEGRAM_DB_DIRECT_DSN"])
    await stack.postgres.start()
    # Through the pooler too, which had lost every server connection.
    connection = await connect(stack.environment["TELEGRAM_DB_DSN"])
    assert await connection.fetchval("SELECT answer FROM survivor") == 42
    await connection.execute("DROP TABLE survivor")
    await connection.close()


async def test_rabbitmq_comes_back_on_its_port_with_its_messages(stack: LocalStack) -> None:
    # Not with a queue of a moment's age: RabbitMQ 3.10 loses the leader of one that it is killed right after.
    broker = await aio_pika.connect(stack.rabbitmq.url)
    channel = await broker.channel()
    dead = await channel.get_queue("telegram.messages.dlq")
    await dead.purge()
    exchange = await channel.get_exchange("telegram.messages.dlx")
    await exchange.publish(aio_pika.Message(b"kept", delivery_mode=2), "dead")
    processes = tree(stack.rabbitmq)
    await stack.rabbitmq.kill()
    assert left_of(processes, within=0) == []
    await stack.rabbitmq.start()
    broker = await aio_pika.connect(stack.rabbitmq.url)
    async with broker:
        channel = await broker.channel()
        dead = await channel.get_queue("telegram.messages.dlq")
        async with dead.iterator(timeout=90) as messages:
            async for message in messages:
                await message.ack()
                break
        assert message.body == b"kept"


async def test_a_frozen_database_answers_nobody_until_it_goes_on(stack: LocalStack) -> None:
    connection = await connect(stack.environment["TELEGRAM_DB_DIRECT_DSN"])
    stack.postgres.pause()
    try:
        answer = asyncio.ensure_future(connection.fetchval("SELECT 42"))
        assert await asyncio.wait({answer}, timeout=0.5) == (set(), {answer})
    finally:
        stack.postgres.resume()
    assert await answer == 42
    await connection.close()


# -- The command, and what it leaves behind ----------------------------------------------------------------


@pytest.fixture
def kept_stack() -> Iterator[KeptStack]:
    """A stack that the command keeps up: its directory, the keeper and the servers with all they started."""
    directory = Path(f"/tmp/telegram-stack-test-{os.getpid()}")
    command = [sys.executable, "-m", "gateway", "stack"]
    up = subprocess.run(
        [*command, "up", "--detach", "--directory", directory], check=True, capture_output=True, text=True
    )
    file = Path(up.stdout.strip())
    assert file.stat().st_mode & 0o777 == 0o600
    assert "export TELEGRAM_RABBITMQ_URL=" in file.read_text()
    keeper = psutil.Process(json.loads((directory / "stack.json").read_text())["keeper"]["pid"])
    yield directory, keeper, keeper.children(recursive=True)
    subprocess.run([*command, "down", "--directory", directory], check=True)
    assert not directory.exists()


def test_down_leaves_no_process_and_no_file(kept_stack: KeptStack) -> None:
    directory, keeper, processes = kept_stack
    assert len(processes) > 12
    command = [sys.executable, "-m", "gateway", "stack"]
    status = subprocess.run([*command, "status", "--directory", directory], capture_output=True, text=True)
    assert status.stdout.count(" runs") == 8
    subprocess.run([*command, "down", "--directory", directory], check=True)
    assert not directory.exists()
    assert left_of([keeper, *processes], within=10) == []
    status = subprocess.run([*command, "status", "--directory", directory], capture_output=True, text=True)
    assert status.returncode == 1


def test_a_killed_keeper_leaves_no_process(kept_stack: KeptStack) -> None:
    _, keeper, processes = kept_stack
    keeper.send_signal(signal.SIGKILL)
    assert left_of([keeper, *processes], within=60) == []
