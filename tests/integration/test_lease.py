"""The lease on a real PostgreSQL: two hosts and one account, take-overs, crashes, a database that is away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.database import Migrator, connect_direct, load_migrations
from gateway.database.connection import Connection
from gateway.database.leases import GRACE, LeaseTable
from gateway.errors import LeaseLost
from gateway.handover import Handover
from gateway.journal import AccountState, Batch, Journal
from gateway.lease import PATIENCE_SECONDS, AccountLease, Leases
from gateway.lease_record import key_lease, record_file, user_lease
from gateway.localstack import LocalStack
from gateway.settings import Settings

KEY = b"k" * 256
OTHER_KEY = b"o" * 256
USER = 7_000_001
THEN = datetime(2026, 1, 1, tzinfo=UTC)
RENEW_SECONDS = POLL_SECONDS = 0.05
SOON = GRACE.total_seconds() - 5  # whoever waits out the grace period instead is too late
A_WHILE = 0.5  # ten looks at the lease


@pytest_asyncio.fixture(scope="module")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    """A PostgreSQL of this module's own, which it may stop."""
    async with LocalStack(servers=("postgres",)) as stack:
        connection = await connect_direct(stack.postgres.dsn)
        await Migrator(connection, load_migrations()).migrate(lambda _: None)
        connection.terminate()
        yield stack


@pytest_asyncio.fixture
async def database(postgres: LocalStack) -> AsyncIterator[Connection]:
    connection = await connect_direct(postgres.postgres.dsn)
    await connection.execute(
        "TRUNCATE telegram_gateway.account_leases, telegram_gateway.account_positions, "
        "telegram_gateway.chat_positions"
    )
    yield connection
    connection.terminate()


class Host:
    """A gateway's leases on a host of its own: its state directory is what tells it from the others."""

    def __init__(self, dsn: str, state_dir: Path) -> None:
        state_dir.mkdir(exist_ok=True)
        self.state_dir = state_dir
        self.settings = Settings.model_validate({"db_direct_dsn": dsn, "state_dir": state_dir})
        self.leases = Leases(self.settings, renew_seconds=RENEW_SECONDS, poll_seconds=POLL_SECONDS)
        self.lease: AccountLease = self.leases.account("main")
        self.reasons: list[str] = []
        self._heartbeat = asyncio.get_running_loop().create_task(self.leases.run())
        self.journal = Journal(state_dir / "journal.db")  # for tests that open it
        self.delivered = asyncio.Event()
        self.delivered.set()
        self.handover = Handover("main", self.journal, self.lease, self._deliver)

    async def _deliver(self, seq: int) -> None:
        await self.delivered.wait()

    async def runs_as_user(self, key: bytes = KEY) -> None:
        """Until here an account comes before it goes on from where it was."""
        await self.acquire(key)
        await self.lease.acquire_user(USER)

    async def stands(self, pts: int, channels: Mapping[int, int]) -> None:
        """The account has come this far: its own pts, and the channels'."""
        await self.journal.append(Batch("main", state=AccountState(pts, 0, THEN, 0, channels)))

    async def where(self) -> tuple[int, Mapping[int, int]] | None:
        state, _ = await self.journal.load_state("main")
        return None if state is None else (state.pts, state.channels)

    async def acquire(self, key: bytes = KEY) -> int:
        """As an account that is about to connect; returns the epoch."""
        async with asyncio.timeout(SOON):
            await self.lease.acquire(key, self.reasons.append)
        assert self.lease.epoch is not None
        return self.lease.epoch

    async def waits(self, *words: str) -> None:
        """This host may not run the account: it is told so again and again, by and by with these words."""
        await self.asks_in_vain(*words)
        assert self.lease.epoch is None

    async def asks_in_vain(self, *words: str, key: bytes = KEY) -> None:
        """As an account that is about to connect, and may not."""
        told = len(self.reasons)
        asking = asyncio.ensure_future(self.lease.acquire(key, self.reasons.append))

        async def is_told() -> None:
            while len(self.reasons) == told or any(word not in self.reasons[-1] for word in words):
                await asyncio.sleep(POLL_SECONDS / 2)

        try:
            await soon(is_told(), asking)
            # And it stays like that.
            await asyncio.wait({asking}, timeout=A_WHILE)
            assert not asking.done()
            assert all(word in self.reasons[-1] for word in words), self.reasons[-1]
        finally:
            asking.cancel()
            await asyncio.wait({asking})

    async def lost(self) -> str:
        """Why the account had to stop."""
        with pytest.raises(LeaseLost) as loss:
            async with asyncio.timeout(SOON):
                await self.lease.until_lost()
        return str(loss.value)

    async def keeps(self) -> None:
        """The account is let run on."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_WHILE):
                await self.lease.until_lost()

    async def crash(self) -> None:
        self._heartbeat.cancel()
        await asyncio.wait([self._heartbeat])
        self.leases.database.close()


async def soon(condition: Coroutine[Any, Any, None], unless: "asyncio.Future[None]") -> None:
    """Returns once `condition` does; fails when it does not in time, or when `unless` is done first."""
    waiting = asyncio.ensure_future(condition)
    try:
        await asyncio.wait({waiting, unless}, timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
        assert not unless.done()
        assert waiting.done(), "not in time"
    finally:
        waiting.cancel()


Hosts = Callable[[str], Awaitable[Host]]


@pytest_asyncio.fixture
async def host(postgres: LocalStack, tmp_path: Path) -> AsyncIterator[Hosts]:
    """Starts a gateway's leases on the host of that name; again after a crash is a restart."""
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Host:
            host = Host(postgres.postgres.dsn, tmp_path / name)
            stack.push_async_callback(host.crash)
            return host

        yield start


async def take(database: Connection, host: Host, name: str | None = None) -> bool:
    return await LeaseTable(database).take(name or key_lease(KEY), "main", host.lease.holder)


async def silence(database: Connection, how_long: timedelta = timedelta(hours=1)) -> None:
    """Makes every holder one that was last heard of that long ago."""
    await database.execute(
        "UPDATE telegram_gateway.account_leases SET renewed_at = renewed_at - $1::interval", how_long
    )


async def test_a_free_lease_is_had_at_once_and_again_after_a_crash(database: Connection, host: Hosts) -> None:
    first = await host("a")
    assert await first.acquire() == 1
    await first.crash()
    again = await host("a")
    assert await again.acquire() == 2
    assert not again.reasons
    await again.keeps()


async def test_the_second_host_waits_and_is_told_for_whom_and_how_to_take_over(
    database: Connection, host: Hosts
) -> None:
    first, second = await host("a"), await host("b")
    await first.acquire()
    await second.waits(str(first.state_dir), "alive", "lease take --account main")
    await first.keeps()


async def test_nobody_takes_over_from_a_silent_host_without_being_told_to(
    database: Connection, host: Hosts
) -> None:
    first, second = await host("a"), await host("b")
    await first.acquire()
    await first.crash()
    await silence(database)
    await second.waits("silent since")
    assert await take(database, second)
    assert await second.acquire() == 3


async def test_a_clean_stop_hands_over(database: Connection, host: Hosts) -> None:
    first, second = await host("a"), await host("b")
    await first.acquire()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(second.acquire())
        await asyncio.sleep(A_WHILE)
        assert not waiting.done()
        await first.leases.release()
    assert waiting.result() == 2
    assert first.lease.epoch is None
    # And the first has nothing to go on with when the database is away.
    assert key_lease(KEY).encode() not in record_file(first.state_dir).read_bytes()


async def test_a_take_over_stops_the_holder_and_begins_only_once_it_has_stopped(
    database: Connection, host: Hosts
) -> None:
    first, second = await host("a"), await host("b")
    await first.acquire()
    assert await take(database, second)
    assert str(second.state_dir) in await first.lost()
    assert first.lease.epoch is None
    await second.waits("not yet stopped")
    await first.waits(str(second.state_dir))  # disconnected: it asks anew
    assert await second.acquire() == 3
    await second.keeps()


async def test_a_holder_that_says_nothing_is_waited_for_no_longer_than_the_grace_period(
    database: Connection, host: Hosts
) -> None:
    first, second = await host("a"), await host("b")
    await first.acquire()
    await first.crash()
    assert await take(database, second)
    await second.waits("not yet stopped")
    await silence(database, timedelta(seconds=31))
    await second.acquire()


async def test_what_was_taken_can_be_taken_back(database: Connection, host: Hosts) -> None:
    first, second = await host("a"), await host("b")
    await first.acquire()
    assert await take(database, second)
    assert await take(database, first)
    assert not await take(database, first)
    await first.lost()
    assert await first.acquire() == 4
    await first.keeps()
    await second.waits(str(first.state_dir))


async def test_another_login_of_the_same_user_waits_too(database: Connection, host: Hosts) -> None:
    first, second = await host("a"), await host("b")
    await first.acquire()
    await first.lease.acquire_user(USER)
    await second.acquire(OTHER_KEY)
    with pytest.raises(LeaseLost, match=f"user:{USER} is held by"):
        await second.lease.acquire_user(USER)
    # Now that it knows whose key it has, it does not connect just to learn it again.
    await second.asks_in_vain(key=OTHER_KEY)
    await take(database, second, user_lease(USER, None))
    await first.lost()
    await first.asks_in_vain()
    await second.acquire(OTHER_KEY)
    await second.lease.acquire_user(USER)


async def test_two_gateways_in_one_name_do_not_take_turns(
    database: Connection, host: Hosts, tmp_path: Path
) -> None:
    """A machine cloned with its machine-id, hostname and state: the older gives way, and stays away."""
    original = await host("a")
    await original.acquire()
    clone = await host("a")
    await clone.acquire()
    assert "copied machine" in await original.lost()
    await original.waits("copied machine")
    await clone.keeps()


async def test_a_database_that_goes_away_stops_nobody(
    postgres: LocalStack, database: Connection, host: Hosts
) -> None:
    holder = await host("a")
    epoch = await holder.acquire()
    await postgres.postgres.stop()
    try:
        await holder.keeps()
        assert await holder.acquire() == epoch  # reconnecting to Telegram asks nobody
    finally:
        await postgres.postgres.start()
    await holder.keeps()
    again = await connect_direct(postgres.postgres.dsn)
    await silence(again)
    async with asyncio.timeout(SOON):
        while (lease := await LeaseTable(again).get(key_lease(KEY))) is None or lease.silence >= GRACE:
            await asyncio.sleep(RENEW_SECONDS)
    again.terminate()
    assert lease.epoch == epoch


async def test_without_a_database_the_last_holder_starts_and_all_others_wait_for_it(
    postgres: LocalStack, database: Connection, host: Hosts
) -> None:
    holder = await host("a")
    epoch = await holder.acquire()
    await holder.crash()
    await postgres.postgres.stop()
    try:
        holder, stranger = await host("a"), await host("b")
        assert await holder.acquire() == epoch
        await stranger.waits("this host did not hold it last", "TELEGRAM_DB_DIRECT_DSN")
    finally:
        await postgres.postgres.start()
    await stranger.waits(str(holder.state_dir))
    await holder.keeps()
    again = await connect_direct(postgres.postgres.dsn)
    assert await take(again, stranger)
    again.terminate()
    await holder.lost()


async def test_a_database_that_hangs_delays_the_last_holder_by_a_moment_only(
    postgres: LocalStack, database: Connection, host: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing but the patience with the last holder ends the wait, however slow the machine is.
    monkeypatch.setattr("gateway.database.leases.ANSWER_SECONDS", 300.0)
    monkeypatch.setattr("gateway.database.connection.CONNECT_TIMEOUT", 300.0)
    holder = await host("a")
    epoch = await holder.acquire()
    await holder.crash()
    postgres.postgres.pause()
    try:
        holder = await host("a")
        started = asyncio.get_running_loop().time()
        assert await holder.acquire() == epoch
        assert asyncio.get_running_loop().time() - started >= PATIENCE_SECONDS
    finally:
        postgres.postgres.resume()
    await holder.keeps()


async def test_a_host_that_started_without_the_database_is_fenced_when_it_returns(
    postgres: LocalStack, database: Connection, host: Hosts
) -> None:
    holder, other = await host("a"), await host("b")
    await holder.acquire()
    await holder.crash()
    assert await take(database, other)
    await postgres.postgres.stop()
    try:
        holder = await host("a")
        await holder.acquire()  # it cannot know
    finally:
        await postgres.postgres.start()
    assert str(other.state_dir) in await holder.lost()


async def test_a_database_restored_from_an_older_backup_stops_nobody(
    database: Connection, host: Hosts
) -> None:
    holder, other = await host("a"), await host("b")
    for _ in range(3):
        await holder.crash()
        holder = await host("a")
        await holder.acquire()
    newest = "SELECT max(epoch) FROM telegram_gateway.account_leases"
    for restored in (
        "UPDATE telegram_gateway.account_leases SET epoch = 1",
        "TRUNCATE telegram_gateway.account_leases",
    ):
        await database.execute(restored)
        # Until the holder renews it the next time, the lease is as old as the backup.
        async with asyncio.timeout(SOON):
            while (await database.fetchval(newest) or 0) <= 3:
                await asyncio.sleep(RENEW_SECONDS)
        await holder.keeps()
    await other.waits(str(holder.state_dir))
    assert holder.lease.epoch is not None
    assert holder.lease.epoch > 3


async def test_another_host_starts_where_the_last_one_left_the_account(
    database: Connection, host: Hosts
) -> None:
    first, second = await host("a"), await host("b")
    async with first.journal, second.journal:
        await first.runs_as_user()
        await first.stands(10, {1: 100, 2: 200})
        assert await first.handover.leave() == 2
        await first.stands(11, {2: 201})
        assert await first.handover.leave() == 1  # no more than what changed is written
        await first.leases.release()
        assert not await second.handover.adopt(second.reasons.append)  # not its business yet
        await second.runs_as_user(OTHER_KEY)
        assert await second.handover.adopt(second.reasons.append)
        assert await second.where() == (11, {1: 100, 2: 201})
        assert await second.handover.leave() == 2
        await second.stands(12, {1: 0})  # it has left the channel
        await second.handover.leave()
        assert await database.fetchval("SELECT count(*) FROM telegram_gateway.chat_positions") == 1


async def test_a_host_with_a_state_of_its_own_goes_on_from_that(database: Connection, host: Hosts) -> None:
    first, second = await host("a"), await host("b")
    async with first.journal, second.journal:
        await first.runs_as_user()
        await first.stands(10, {1: 100})
        await first.handover.leave()
        await first.leases.release()
        await second.stands(5, {1: 50})
        await second.runs_as_user()
        assert not await second.handover.adopt(second.reasons.append)
        assert await second.where() == (5, {1: 50})


async def test_a_host_that_has_lost_the_lease_leaves_nothing_any_more(
    database: Connection, host: Hosts
) -> None:
    first, second = await host("a"), await host("b")
    async with first.journal, second.journal:
        await first.runs_as_user()
        await first.stands(10, {1: 100})
        await first.handover.leave()
        await first.crash()
        await take(database, second)
        await take(database, second, user_lease(USER, None))
        await silence(database)
        await second.runs_as_user()
        await second.handover.adopt(second.reasons.append)
        await second.stands(20, {1: 200})
        await second.handover.leave()
        await first.stands(15, {1: 150})  # it does not know yet
        assert first.lease.user_claim is not None
        assert await first.handover.leave() == 0
        assert await database.fetchval("SELECT pts FROM telegram_gateway.account_positions") == 20
        position = await database.fetchval("SELECT position ->> 'pts' FROM telegram_gateway.chat_positions")
        assert position == "200"


async def test_what_the_sinks_do_not_have_is_not_left(database: Connection, host: Hosts) -> None:
    first, second = await host("a"), await host("b")
    async with first.journal, second.journal:
        await first.runs_as_user()
        await first.stands(10, {1: 100})
        await first.handover.leave()
        await first.stands(11, {1: 101})
        first.delivered.clear()
        await first.handover.finish()  # gives up in time
        await first.leases.release()
        await second.runs_as_user()
        assert await second.handover.adopt(second.reasons.append)
        assert await second.where() == (10, {1: 100})


async def test_no_account_starts_at_the_present_while_nobody_can_tell_where_it_stood(
    postgres: LocalStack, database: Connection, host: Hosts
) -> None:
    first = await host("a")
    async with first.journal:
        await first.runs_as_user()
        await first.stands(10, {1: 100})
        await first.handover.leave()
    await first.crash()
    (first.state_dir / "journal.db").unlink()
    await postgres.postgres.stop()
    try:
        first = await host("a")
        async with first.journal:
            await first.lease.acquire(KEY, first.reasons.append)  # it held the lease last
            adopting = asyncio.ensure_future(first.handover.adopt(first.reasons.append))
            try:
                async with asyncio.timeout(SOON):
                    while not any("last host stopped is not known" in reason for reason in first.reasons):
                        assert not adopting.done()
                        await asyncio.sleep(POLL_SECONDS / 2)
                await asyncio.wait({adopting}, timeout=A_WHILE)
                assert not adopting.done()
                assert "where the account's last host stopped is not known" in first.reasons[-1]
            finally:
                adopting.cancel()
                await asyncio.wait({adopting})
            await postgres.postgres.start()
            async with asyncio.timeout(SOON):
                assert await first.handover.adopt(first.reasons.append)
            assert await first.where() == (10, {1: 100})
    finally:
        await postgres.postgres.start()


async def test_a_database_without_the_table_says_what_to_run(database: Connection, host: Hosts) -> None:
    waiting = await host("a")
    migrator = Migrator(database, load_migrations())
    await migrator.rollback(lambda _: None, to=9)
    try:
        await waiting.waits("telegram-gateway db migrate")
    finally:
        await migrator.migrate(lambda _: None)
    await waiting.acquire()
