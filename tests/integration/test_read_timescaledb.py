"""The read side on a real TimescaleDB: hypertable, compressed chunks, and all."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from gateway.database import Migrator, connect_direct, load_migrations
from gateway.read import ChatRef, MessageFilter, MessageReader, MessageRef, Outcome
from tests.read_rig import ingest
from tests.sink_events import CHANNEL, days_ago, edited, new
from tests.timescaledb.server import timescaledb_server


@pytest_asyncio.fixture(scope="module")
async def database() -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    async with timescaledb_server() as dsn:
        connection = await connect_direct(dsn)
        await Migrator(connection, load_migrations()).migrate(lambda _: None)
        yield connection
        connection.terminate()


async def test_everything_is_read_from_compressed_chunks_too(
    database: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    reader = MessageReader(database)
    dates = [days_ago(day) for day in range(40, 0, -1)]
    await ingest(
        database, *(new(n, telegram_date=date, text=f"compra {n}") for n, date in enumerate(dates, 1))
    )
    await ingest(database, edited(3, "opções de venda", telegram_date=dates[2]))
    await database.execute(
        "SELECT compress_chunk(c) "
        "FROM show_chunks('telegram_gateway.messages', older_than => interval '14 days') c"
    )
    page = await reader.messages(MessageFilter(chat=ChatRef(CHANNEL)), None, 30)
    assert [message.event.message_id for message in page.messages] == list(range(40, 10, -1))
    page = await reader.messages(MessageFilter(), page.next, 30)
    assert [message.event.message_id for message in page.messages] == list(range(10, 0, -1))
    found = (await reader.messages(MessageFilter(search="opcao"))).messages
    assert [message.event.message_id for message in found] == [3]
    found = (await reader.messages(MessageFilter(search="compra"), None, 100)).messages
    assert len(found) == 39
    one = await reader.message(MessageRef(CHANNEL, 3))
    assert one is not None
    assert one.event.text == "opções de venda"
    assert len(await reader.revisions(MessageRef(CHANNEL, 3))) == 2

    unprocessed = await reader.unprocessed("x", limit=100)
    assert [message.event.message_id for message in unprocessed.messages] == list(range(1, 41))
    refs = [MessageRef.of(message.event) for message in unprocessed.messages]
    await reader.mark_processed("x", [Outcome(ref, "published") for ref in refs])
    await ingest(database, new(41, telegram_date=days_ago(30), source="backfill"))
    for _ in range(2):
        (late,) = (await reader.unprocessed("x")).messages
        assert late.event.message_id == 41
        await database.fetchval("SELECT telegram_gateway.advance_mark('x', 0, '', NULL, 100)")
    assert await reader.hide(MessageRef(CHANNEL, 41), "ana")
    assert (await reader.unprocessed("x")).messages == []
