"""One account, several hosts: whatever is started, killed and taken over, Telegram sees one connection."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from gateway.demo.comparison import compare_database
from gateway.demo.process import GatewayProcess, ProcessError
from gateway.handover import LEAVE_SECONDS
from gateway.journal import open_reader
from gateway.localstack import LocalStack
from gateway.sandbox import Chat, Sandbox, User
from tests.e2e.desk import API_HASH

PHONE = "+5511999990001"
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.005


@dataclass
class Hosts:
    """Two gateways that share Telegram and the database, each with a directory of its own."""

    sandbox: Sandbox
    stack: LocalStack
    user: User
    channel: Chat
    a: GatewayProcess
    b: GatewayProcess
    jumping: Chat  # a channel whose difference Telegram may skip
    group: Chat
    private: Chat
    since: int = 0
    most_at_once: Counter[int] = field(default_factory=Counter)

    def copy_session(self) -> None:
        """What must not be done, and is: the session file of A on host B."""
        self.b.session_dir.mkdir(mode=0o700)
        copy = self.b.session_dir / "main.session"
        copy.touch(mode=0o600)
        copy.write_bytes((self.a.session_dir / "main.session").read_bytes())

    async def until(self, gateway: GatewayProcess, state: str, hint: str = "") -> str:
        """Returns the reason that the account's state is given, once it has that state."""
        found = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    found = await gateway.status()
                    if found is not None:
                        account = found["accounts"][0]
                        if account["state"] == state and hint in (account["reason"] or ""):
                            return str(account["reason"])
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never {state} {hint!r}: {found}; {gateway.log()[-2000:]}") from None

    def post(self, text: str) -> None:
        self.sandbox.world.post(self.channel, text)

    def post_everywhere(self, text: str) -> None:
        world = self.sandbox.world
        world.post_many(self.channel, [f"{text}, no canal {number}" for number in range(3)])
        world.post_many(self.jumping, [f"{text}, mais adiante {number}" for number in range(250)])
        world.post_many(self.group, [f"{text}, no grupo {number}" for number in range(3)])
        world.post_many(self.private, [f"{text}, em particular {number}" for number in range(3)])

    async def both_logged_in_and_a_running(self) -> None:
        """A runs and has what was posted first; B, with a login and a journal of its own, has never run."""
        await self.b.login(PHONE)
        await self.a.start()
        self.since = self.sandbox.world.position
        self.post_everywhere("antes")
        await self.assert_all_in_the_database_once()

    async def until_left(self) -> None:
        """Returns once the database knows where A stands with every chat."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.database("SELECT count(*) FROM telegram_gateway.chat_positions") < 3:
                await asyncio.sleep(0.05)

    async def forget_a(self) -> None:
        """As if A had been silent for an hour, and a person had then given the account to B."""
        await self.database(
            "UPDATE telegram_gateway.account_leases SET renewed_at = now() - interval '1 hour' RETURNING 1"
        )
        await self.b.command("lease", "take", "--account", "main", "--yes")

    async def database(self, query: str) -> int:
        connection = await asyncpg.connect(self.stack.postgres.dsn)
        try:
            return int(await connection.fetchval(query))
        finally:
            await connection.close()

    def journal(self, gateway: GatewayProcess) -> list[str | None]:
        """The texts that a host has captured."""
        with open_reader(gateway.journal_path) as reader:
            return [record.event.text for record in reader.read(0, reader.last_seq(), 10_000)]

    async def assert_all_in_the_database_once(self) -> None:
        truth = self.sandbox.truth(self.user, self.since)
        assert truth
        dsn = self.stack.environment["TELEGRAM_DB_DIRECT_DSN"]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (result := await compare_database(dsn, truth, exact=True)).problems:
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"{result.problems[:5]}") from None

    async def watch(self) -> None:
        """Counts the connections of each key, all the time."""
        while True:
            now = Counter(c.auth_key_id for c in self.sandbox.wire.connections if c.auth_key_id)
            self.most_at_once |= now
            await asyncio.sleep(LOOK_SECONDS)

    def assert_never_two(self) -> None:
        assert set(self.most_at_once.values()) == {1}


@asynccontextmanager
async def _watched(hosts: Hosts) -> AsyncIterator[None]:
    watcher = asyncio.get_running_loop().create_task(hosts.watch())
    try:
        yield
    finally:
        watcher.cancel()


@pytest_asyncio.fixture
async def hosts(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Hosts]:
    """Host A is logged in; nothing runs yet."""
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox:
        user = sandbox.world.add_user("Operador", phone=PHONE)
        friend = sandbox.world.add_user("Ana")
        channel, jumping = (sandbox.world.add_channel(title, [user]) for title in ("Sinais", "Mais sinais"))
        group = sandbox.world.add_group("Mesa", [user, friend])
        private = sandbox.world.private(user, friend)
        settings = {
            **stack.environment,
            "TELEGRAM_ENABLE_CACHE": "false",
            "TELEGRAM_ENABLE_QUEUE": "false",
            "TELEGRAM_API_ID": "1",
            "TELEGRAM_API_HASH": API_HASH,
            "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
            "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
        }
        for name in "ab":
            (tmp_path / name).mkdir()
        a, b = (GatewayProcess(tmp_path / name, settings) for name in "ab")
        await a.command("db", "migrate")
        connection = await asyncpg.connect(stack.postgres.dsn)
        await connection.execute(
            "TRUNCATE telegram_gateway.messages, telegram_gateway.message_revisions, "
            "telegram_gateway.account_leases, telegram_gateway.account_positions, "
            "telegram_gateway.chat_positions"
        )
        await connection.close()
        await a.login(PHONE)
        hosts = Hosts(sandbox, stack, user, channel, a, b, jumping, group, private)
        async with _watched(hosts):
            try:
                yield hosts
            finally:
                await a.close()
                await b.close()


async def test_a_copied_session_never_connects_twice_and_moves_only_when_told_or_freed(hosts: Hosts) -> None:
    hosts.copy_session()
    a, b = hosts.a, hosts.b
    await a.start()
    hosts.since = hosts.sandbox.world.position
    await b.start()  # ready: as far as a standby can be
    reason = await hosts.until(b, "waiting", str(a.state_dir))
    assert f"TELEGRAM_STATE_DIR={b.state_dir} telegram-gateway lease take --account main" in reason
    with pytest.raises(ProcessError, match="runs the account"):  # nor does any other command connect
        await b.command("session", "check")
    assert "a gateway here stands by" in await b.command("doctor")
    hosts.post("COMPRA PETR4")
    await hosts.assert_all_in_the_database_once()

    # A crash is no reason to go anywhere: the same host goes on.
    await a.kill()
    await a.start()
    await hosts.until(a, "connected")
    assert await hosts.until(b, "waiting")
    status = await a.status()
    assert status is not None
    assert status["accounts"][0]["lease_epoch"] == 2

    # A clean stop hands over.
    assert await a.stop() == 0
    await hosts.until(b, "connected")
    hosts.post("VENDA VALE3")
    await hosts.assert_all_in_the_database_once()
    await a.start()
    await hosts.until(a, "waiting", str(b.state_dir))

    # And a person may take it back, while the holder runs.
    assert "goes on as soon as the other says" in await a.command("lease", "take", "--account", "main")
    await hosts.until(a, "connected")
    await hosts.until(b, "waiting", str(a.state_dir))
    assert "lease_lost" in b.log()
    hosts.post("STOP")
    await hosts.assert_all_in_the_database_once()
    listed = await b.command("lease", "list")
    ours = [line for line in listed.splitlines() if f"@{hosts.sandbox.host}:{hosts.sandbox.port}" in line]
    assert len(ours) == 1, listed
    assert str(a.state_dir) in ours[0]
    assert "alive" in ours[0]
    hosts.assert_never_two()


async def test_another_login_of_the_same_user_on_another_host_stands_by(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    await b.login(PHONE)
    await a.start()
    hosts.since = hosts.sandbox.world.position
    await b.start()
    await hosts.until(b, "waiting", f"user:{hosts.user.id}")
    hosts.post("COMPRA PETR4")
    assert await a.stop() == 0
    await hosts.until(b, "connected")
    hosts.post("VENDA VALE3")
    await hosts.assert_all_in_the_database_once()


async def test_what_is_posted_while_no_host_has_the_account_is_fetched_by_the_next_one(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    await hosts.both_logged_in_and_a_running()
    assert await a.stop() == 0
    hosts.post_everywhere("enquanto ninguém")
    hosts.sandbox.world.edit(hosts.channel, 1, "corrigida")
    hosts.sandbox.faults.too_long(hosts.jumping, announce=False)
    await b.start()  # it learns only by connecting whose login it has
    await hosts.until(b, "connected")
    hosts.post_everywhere("depois")
    await hosts.assert_all_in_the_database_once()
    assert not [text for text in hosts.journal(b) if text and text.startswith("antes")]


async def test_the_next_host_fetches_what_telegram_skips_of_private_chats_and_groups(hosts: Hosts) -> None:
    a, b = hosts.a, hosts.b
    await hosts.both_logged_in_and_a_running()
    await b.start()
    await hosts.until(b, "waiting", f"user:{hosts.user.id}")
    for connection in hosts.sandbox.wire.connections:
        hosts.sandbox.wire.faults.stall(auth_key_id=connection.auth_key_id)
    hosts.post_everywhere("enquanto a linha")
    hosts.sandbox.faults.too_long(hosts.user, announce=False)
    assert await a.stop() == 0
    await hosts.until(b, "connected")
    await hosts.assert_all_in_the_database_once()


async def test_a_host_that_never_comes_back_takes_nothing_with_it(hosts: Hosts) -> None:
    """Not what it had not received, and not what its journal had and the database did not."""
    a, b = hosts.a, hosts.b
    await hosts.both_logged_in_and_a_running()
    await b.start()
    await hosts.until(b, "waiting")
    await hosts.until_left()
    await hosts.stack.pgbouncer.kill()
    try:
        hosts.post_everywhere("só no diário de A")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(hosts.journal(a)) < 2 * 259:
                await asyncio.sleep(0.05)
        await asyncio.sleep(LEAVE_SECONDS + 1)  # long enough to be left, if it could be
        await a.kill()
    finally:
        await hosts.stack.pgbouncer.start()
    hosts.post_everywhere("enquanto ninguém")
    await hosts.forget_a()
    await hosts.until(b, "connected")
    await hosts.assert_all_in_the_database_once()


async def test_a_gateway_that_loses_its_journal_goes_on_where_it_was(hosts: Hosts) -> None:
    a = hosts.a
    await hosts.both_logged_in_and_a_running()
    await hosts.until_left()
    await a.kill()
    for file in a.state_dir.glob("journal.db*"):
        file.unlink()
    hosts.post_everywhere("enquanto ninguém")
    await a.start()
    await hosts.assert_all_in_the_database_once()


async def test_a_database_outage_stops_neither_the_holder_nor_its_restart(hosts: Hosts) -> None:
    hosts.copy_session()
    a, b = hosts.a, hosts.b
    await a.start()
    hosts.since = hosts.sandbox.world.position
    await hosts.stack.postgres.stop()
    try:
        hosts.post("COMPRA PETR4")
        await a.kill()
        await a.start()
        await hosts.until(a, "connected")
        hosts.post("VENDA VALE3")
        await b.start()
        await hosts.until(b, "waiting", "this host did not hold it last")
    finally:
        await hosts.stack.postgres.start()
    assert str(a.state_dir) in await hosts.until(b, "waiting", "is held by")
    await hosts.until(a, "connected")
    await hosts.assert_all_in_the_database_once()
    hosts.assert_never_two()
