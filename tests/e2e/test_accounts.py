"""Bots, and several accounts: in one process or in one each, in the same channel, dead, gone and killed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import asyncpg
import pytest_asyncio
import redis.asyncio as aioredis

from gateway.demo.comparison import compare_cache, compare_database, compare_journal, compare_queue
from gateway.demo.consumer import SampleConsumer
from gateway.demo.expected import truth_of_all
from gateway.demo.process import GatewayProcess
from gateway.journal import open_reader
from gateway.localstack import LocalStack
from gateway.sandbox import Chat, Sandbox, User
from tests.e2e.desk import NO_SINKS, Desk

BOT_TOKEN = "1234567:sandbox-bot-token"
PATIENCE_SECONDS = 90.0
ACCOUNTS = ("um", "dois")
PHONES = ("+5511999990001", "+5511999990002")


@pytest_asyncio.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as running:
        yield running


async def _assert_captured(desk: Desk, account: User, since: int) -> None:
    truth = desk.sandbox.truth(account, since)
    assert truth
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (result := compare_journal(desk.gateway.journal_path, truth)).problems:
        assert time.monotonic() < deadline, result.problems[:5]
        await asyncio.sleep(0.2)


async def test_a_bot_captures_and_goes_on_when_it_is_added_to_a_channel(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    world = sandbox.world
    owner = world.add_user("Ana")
    bot = world.add_user("Robô", bot_token=BOT_TOKEN)
    channel = world.add_channel("Sinais", [owner, bot])
    other = world.add_channel("Mais sinais", [owner])
    desk = Desk(tmp_path, sandbox)
    try:
        await desk.gateway.command("login", "--bot-token", BOT_TOKEN)
        await desk.gateway.start()
        since = world.position
        world.post(channel, "COMPRA PETR4")
        world.join(other, bot)
        world.post(other, "VENDA VALE3")
        world.post(channel, "STOP")
        await _assert_captured(desk, bot, since)
        assert await desk.gateway.stop() == 0
    finally:
        await desk.gateway.close()


async def test_a_dead_account_does_not_take_a_living_one_with_it(sandbox: Sandbox, tmp_path: Path) -> None:
    world = sandbox.world
    dead, living = (world.add_user(name, phone=f"+551199999000{i}") for i, name in enumerate("AB"))
    channel = world.add_channel("Sinais", [dead, living])
    desk = Desk(tmp_path, sandbox, {**NO_SINKS, "TELEGRAM_ACCOUNTS": "dead,living"})
    try:
        for name, user in (("dead", dead), ("living", living)):
            assert user.phone is not None
            await desk.gateway.login(user.phone, account=name)
        sandbox.faults.auth_key_unregistered(dead)
        await desk.gateway.start()
        since = world.position
        world.post(channel, "COMPRA PETR4")
        await _assert_captured(desk, living, since)
        status = await desk.gateway.status()
        assert status is not None
        assert {account["account"]: account["state"] for account in status["accounts"]} == {
            "dead": "dead",
            "living": "connected",
        }
        assert any("dead" in problem for problem in status["problems"])
        sandbox.faults.auth_key_unregistered(living)
        sandbox.drop_connections()
        assert await desk.gateway.wait_exit() == 78
    finally:
        await desk.gateway.close()


async def test_an_edit_made_while_no_account_was_there_is_kept_when_another_one_comes(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    world = sandbox.world
    first, second = (
        world.add_user(name, phone=number) for name, number in zip(ACCOUNTS, PHONES, strict=True)
    )
    channel = world.add_channel("Sinais", [first])
    desk = Desk(tmp_path, sandbox, {**NO_SINKS, "TELEGRAM_ACCOUNTS": ",".join(ACCOUNTS)})
    try:
        for account, number in zip(ACCOUNTS, PHONES, strict=True):
            await desk.gateway.login(number, account=account)
        await desk.gateway.start()
        since = world.position
        liked, changed = world.post_many(channel, ["VENDA VALE3", "COMPRA PETR4"])
        await _assert_captured(desk, first, since)
        world.leave(channel, first)
        await desk.gateway.stop()
        world.edit(channel, changed, "COMPRA PETR4, corrigida")
        world.react(channel, liked)
        world.join(channel, second)
        await desk.gateway.start()
        order = ("backfill", "--chat", channel.ref, "--account", ACCOUNTS[1], "--limit", "10")
        await desk.gateway.command(*order)
    finally:
        await desk.gateway.close()
    with open_reader(desk.gateway.journal_path) as reader:
        records = reader.read(0, reader.last_seq(), 1_000)
    assert [
        (event.kind, event.text)
        for event in (record.event for record in records)
        if event.channel_id == channel.ref and event.message_id in (liked.id, changed.id)
    ] == [
        ("message.new", "VENDA VALE3"),
        ("message.new", "COMPRA PETR4"),
        ("message.edited", "COMPRA PETR4, corrigida"),
    ]


@dataclass
class Pair:
    """Two accounts in one channel, each with a friend of its own to write to, and the three stores."""

    sandbox: Sandbox
    stack: LocalStack
    consumer: SampleConsumer
    users: tuple[User, User]
    channel: Chat
    private: tuple[Chat, Chat]
    since: int = 0

    def talk(self, text: str) -> None:
        """A post in the channel, an edit of it, and a message to each account."""
        world = self.sandbox.world
        post = world.post(self.channel, text)
        world.edit(self.channel, post.id, f"{text} (corrigido)")
        for user, chat in zip(self.users, self.private, strict=True):
            world.post(chat, f"{text}, {user.first_name}")

    async def assert_each_change_is_everywhere_once(self, users: tuple[User, ...] | None = None) -> None:
        """The database has each once by its own count, the queue's reader by the event's id."""
        truth = truth_of_all(users or self.users, self.since)
        environment = self.stack.environment
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            problems = [
                problem
                for result in (
                    compare_queue(self.consumer, truth, exact=True),
                    await compare_cache(environment["TELEGRAM_REDIS_URL"], truth),
                    await compare_database(environment["TELEGRAM_DB_DIRECT_DSN"], truth, exact=True),
                )
                for problem in result.problems
            ]
            if not problems:
                return
            assert time.monotonic() < deadline, problems[:5]
            await asyncio.sleep(0.2)


@pytest_asyncio.fixture
async def pair(stack: LocalStack, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Pair]:
    world = sandbox.world
    first, second = (
        world.add_user(name, phone=number) for name, number in zip(ACCOUNTS, PHONES, strict=True)
    )
    channel = world.add_channel("Sinais", [first, second])
    friends = (world.add_user("Ana"), world.add_user("Bruno"))
    private = (world.private(first, friends[0]), world.private(second, friends[1]))
    await GatewayProcess(tmp_path, stack.environment).command("db", "migrate")
    await _empty(stack)
    consumer = SampleConsumer(stack.environment["TELEGRAM_RABBITMQ_URL"], name=QUEUE)
    async with consumer.running():
        yield Pair(sandbox, stack, consumer, (first, second), channel, private)


QUEUE = "accounts"


async def _empty(stack: LocalStack) -> None:
    connection = await asyncpg.connect(stack.postgres.dsn)
    await connection.execute("TRUNCATE telegram_gateway.messages, telegram_gateway.message_revisions")
    await connection.close()
    client: aioredis.Redis = aioredis.from_url(stack.environment["TELEGRAM_REDIS_URL"])
    await client.flushall()
    await client.aclose()
    async with await aio_pika.connect(stack.environment["TELEGRAM_RABBITMQ_URL"]) as broker:
        await (await broker.channel()).queue_delete(f"telegram.consumer.{QUEUE}")


@asynccontextmanager
async def _one_process(pair: Pair, directory: Path) -> AsyncIterator[GatewayProcess]:
    gateway = Desk(
        directory, pair.sandbox, {**pair.stack.environment, "TELEGRAM_ACCOUNTS": ",".join(ACCOUNTS)}
    ).gateway
    for account, number in zip(ACCOUNTS, PHONES, strict=True):
        await gateway.login(number, account=account)
    try:
        await gateway.start()
        pair.since = pair.sandbox.world.position
        yield gateway
    finally:
        await gateway.close()


@asynccontextmanager
async def _two_processes(pair: Pair, directory: Path) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    """As two instances of telegram-gateway@.service: one session directory, all else of their own."""
    gateways = []
    for account, number in zip(ACCOUNTS, PHONES, strict=True):
        (directory / account).mkdir()
        settings = {
            **pair.stack.environment,
            "TELEGRAM_ACCOUNTS": account,
            "TELEGRAM_SESSION_DIR": str(directory / "session"),
        }
        gateway = Desk(directory / account, pair.sandbox, settings).gateway
        await gateway.login(number, account=account)
        gateways.append(gateway)
    first, second = gateways
    try:
        for gateway in gateways:
            await gateway.start()
        pair.since = pair.sandbox.world.position
        yield first, second
    finally:
        for gateway in gateways:
            await gateway.close()


async def test_two_accounts_of_one_process_deliver_a_shared_channel_once(pair: Pair, tmp_path: Path) -> None:
    async with _one_process(pair, tmp_path):
        pair.talk("COMPRA PETR4")
        pair.talk("STOP")
        await pair.assert_each_change_is_everywhere_once()
        assert set(pair.consumer.times.values()) == {1}


async def test_a_channel_goes_on_when_one_of_two_accounts_leaves_it(pair: Pair, tmp_path: Path) -> None:
    async with _one_process(pair, tmp_path):
        pair.talk("COMPRA PETR4")
        pair.sandbox.world.leave(pair.channel, pair.users[0])
        pair.talk("VENDA VALE3")
        await pair.assert_each_change_is_everywhere_once()
        pair.sandbox.world.leave(pair.channel, pair.users[1])
        pair.sandbox.world.join(pair.channel, pair.users[0])
        pair.talk("STOP")
        await pair.assert_each_change_is_everywhere_once()


async def test_two_processes_store_a_shared_channel_once_and_queue_it_twice_at_most(
    pair: Pair, tmp_path: Path
) -> None:
    async with _two_processes(pair, tmp_path) as (first, second):
        pair.talk("COMPRA PETR4")
        pair.talk("STOP")
        await pair.assert_each_change_is_everywhere_once()
        for gateway in (first, second):
            await gateway.wait_delivered(3)
        await pair.assert_each_change_is_everywhere_once()
        # The second delivery has the first one's message-id: a consumer that keeps ids, as ours, sees one.
        assert set(pair.consumer.times.values()) <= {1, 2}


async def test_one_process_goes_on_while_the_other_is_dead_and_both_have_all_in_the_end(
    pair: Pair, tmp_path: Path
) -> None:
    async with _two_processes(pair, tmp_path) as (first, second):
        pair.talk("COMPRA PETR4")
        await pair.assert_each_change_is_everywhere_once()
        await first.kill()
        pair.sandbox.world.post(pair.channel, "VENDA VALE3")
        await pair.assert_each_change_is_everywhere_once()
        await first.start()
        pair.talk("STOP")
        await pair.assert_each_change_is_everywhere_once()
        await second.kill()
        pair.sandbox.world.post(pair.channel, "ZERADO")
        await pair.assert_each_change_is_everywhere_once()


async def test_an_edit_that_only_the_other_process_finds_reaches_the_database_once(
    pair: Pair, tmp_path: Path
) -> None:
    world = pair.sandbox.world
    channel = world.add_channel("Outros sinais", [pair.users[0]])
    async with _two_processes(pair, tmp_path) as (first, second):
        message = world.post(channel, "COMPRA PETR4")
        await _stored(pair, channel, ["COMPRA PETR4"], ["COMPRA PETR4"], 0)
        assert await first.stop() == 0
        world.edit(channel, message.id, "COMPRA PETR4, corrigida")
        world.join(channel, pair.users[1])
        await second.command("backfill", "--chat", channel.ref, "--account", ACCOUNTS[1], "--limit", "10")
        await _stored(pair, channel, ["COMPRA PETR4"], ["COMPRA PETR4, corrigida"], 1)
        # Now the edit itself comes, late: it is that revision.
        await first.start()
        world.post(channel, "STOP")
        await _stored(pair, channel, ["COMPRA PETR4", "STOP"], ["COMPRA PETR4, corrigida", "STOP"], 1)


async def _stored(pair: Pair, chat: Chat, first: list[str], newest: list[str], revisions: int) -> None:
    """Waits until the database shows a chat's messages in these words, as they came and as they are now."""
    question = """
        SELECT
            (SELECT array_agg(text ORDER BY message_id) FROM telegram_gateway.messages
             WHERE channel_id = $1 AND text <> ''),
            (SELECT array_agg(text ORDER BY message_id) FROM telegram_gateway.messages_newest
             WHERE channel_id = $1 AND text <> ''),
            (SELECT count(*) FROM telegram_gateway.message_revisions WHERE channel_id = $1)
    """
    connection = await asyncpg.connect(pair.stack.postgres.dsn)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = [tuple(row) for row in await connection.fetch(question, chat.ref)]
            if found == [(first, newest, revisions)]:
                return
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.2)
    finally:
        await connection.close()
