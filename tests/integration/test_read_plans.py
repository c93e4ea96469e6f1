"""How PostgreSQL answers what the read side asks, with enough rows that a wrong way would look tempting."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from gateway.database import Migrator, connect_direct, load_migrations
from gateway.localstack import LocalStack
from gateway.read import ChatRef, MessageFilter, MessageReader, MessageRef, Outcome
from tests.bench.volume import fill, process

ROWS = 150_000
BUSY, QUIET = ChatRef("-1001600000000"), ChatRef("-1001600000190")
LARGE = {"messages", "message_arrivals", "message_processing", "message_revisions"}


class Explained:
    """A connection that asks for the plan of all that it is asked."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.plans: list[Any] = []

    async def _explain(self, query: str, arguments: tuple[Any, ...]) -> None:
        if query.lstrip().startswith("EXPLAIN"):
            return
        plan = await self.connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *arguments)
        self.plans.append(msgspec.json.decode(plan)[0]["Plan"])

    async def fetch(self, query: str, *arguments: Any) -> Any:
        await self._explain(query, arguments)
        return await self.connection.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        await self._explain(query, arguments)
        return await self.connection.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        await self._explain(query, arguments)
        return await self.connection.fetchval(query, *arguments)


@pytest_asyncio.fixture(scope="module")
async def database() -> AsyncIterator[Explained]:
    """A server of its own, for its tables are full."""
    async with LocalStack(servers=("postgres", "pgbouncer")) as stack:
        # Plans go by what `fill` has counted, whether or not autovacuum comes by.
        admin = await asyncpg.connect(stack.postgres.admin_dsn)
        await admin.execute("ALTER SYSTEM SET autovacuum = off")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()
        connection = await connect_direct(stack.postgres.dsn)
        await Migrator(connection, load_migrations()).migrate(lambda _: None)
        await fill(connection, ROWS)
        await process(connection, "tp-capital", leave=50)
        connection.terminate()
        pooled = await asyncpg.connect(stack.pgbouncer.dsn(), statement_cache_size=0)
        yield Explained(pooled)
        pooled.terminate()


def nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def scanned_whole(plans: list[Any]) -> set[str]:
    """The large tables that some plan reads from one end to the other."""
    return {
        node["Relation Name"] for plan in plans for node in nodes(plan) if node["Node Type"] == "Seq Scan"
    } & LARGE


def sorted_rows(plans: list[Any]) -> float:
    """The most rows that some plan expects to sort for a page, beyond the order of an index."""
    return max(
        (node["Plan Rows"] for plan in plans for node in nodes(plan) if node["Node Type"] == "Sort"),
        default=0,
    )


Question = Callable[[MessageReader], Awaitable[Any]]


def page(**fields: Any) -> Question:
    return lambda reader: reader.messages(MessageFilter(**fields), None, 100)


QUESTIONS: dict[str, Question] = {
    "newest": page(),
    "oldest": page(newest_first=False),
    "busy chat": page(chat=BUSY),
    "quiet chat": page(chat=QUIET),
    "a token's chats": page(chats=frozenset([BUSY.key, QUIET.key])),
    "imported": page(source="import"),
    "from the webhook": page(source="webhook"),
    "failed": page(consumer="tp-capital", status="failed"),
    "published": page(consumer="tp-capital", status="published"),
    "published in a chat": page(consumer="tp-capital", status="published", chat=BUSY),
    "found": page(search="compra"),
    "rarely found": page(search="extraordinario"),
    "never found": page(search="inexistente"),
    "found in a quiet chat": page(search="alvo", chat=QUIET),
    "one": lambda reader: reader.message(MessageRef(BUSY.channel_id, 10007)),
    "revisions": lambda reader: reader.revisions(MessageRef(BUSY.channel_id, 10007)),
    "unprocessed, new": lambda reader: reader.unprocessed("new-consumer"),
    "unprocessed, new, chats": lambda reader: reader.unprocessed("new-consumer", [BUSY, QUIET]),
    "unprocessed": lambda reader: reader.unprocessed("tp-capital"),
    "unprocessed, chats": lambda reader: reader.unprocessed("tp-capital", [BUSY, QUIET]),
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_nothing_reads_a_large_table_whole(database: Explained, name: str) -> None:
    reader = MessageReader(database)
    await QUESTIONS[name](reader)  # a consumer's mark comes as far as it goes
    database.plans.clear()
    await QUESTIONS[name](reader)
    assert scanned_whole(database.plans) == set()


@pytest.mark.parametrize("name", ["newest", "busy chat", "a token's chats", "unprocessed"])
async def test_a_page_is_not_sorted_out_of_everything(database: Explained, name: str) -> None:
    reader = MessageReader(database)
    database.plans.clear()
    await QUESTIONS[name](reader)
    assert sorted_rows(database.plans) < ROWS / 100


async def test_processing_goes_by_the_key(database: Explained) -> None:
    reader = MessageReader(database)
    found = await reader.unprocessed("by-key", limit=100)
    refs = [MessageRef.of(message.event) for message in found.messages]
    database.plans.clear()
    await reader.mark_processed("by-key", [Outcome(ref, "published") for ref in refs])
    await reader.reprocess(refs[0])
    assert scanned_whole(database.plans) == set()


async def test_a_consumer_that_is_nearly_done_is_asked_as_fast_as_a_new_one(database: Explained) -> None:
    reader = MessageReader(database.connection)
    loop = asyncio.get_running_loop()

    async def seconds(consumer: str) -> float:
        started = loop.time()
        await reader.unprocessed(consumer, limit=20)
        return loop.time() - started

    while (await reader.unprocessed("tp-capital", limit=20)).messages == []:
        pass  # its mark is on its way
    # In turn, so that a busy moment of the machine is one for both.
    times = [(await seconds("tp-capital"), await seconds("new-consumer")) for _ in range(20)]
    assert min(done for done, _ in times) < 5 * min(new for _, new in times)
