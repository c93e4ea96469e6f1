"""TP Capital's table: one row per message that says what its newest revision says, whatever comes when."""

from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
import pytest_asyncio

from gateway.consumer import Event, Ignored, Rejected
from gateway.consumer.database import Database
from gateway.database import Migrator, connect_direct, load_migrations
from gateway.tp_capital.metrics import Metrics
from gateway.tp_capital.worker import Desk
from tests.sink_events import CHANNEL, deleted, edited, new

FIRST = "ATIVO: PETR4\nCOMPRA: 25,50 A 26,00\nALVO 1: 27\nALVO FINAL: 28,5\nSTOP: 24,90"
SECOND = "ATIVO: PETR4\nCOMPRA: 25,80\nSTOP: 25"
THIRD = "ATIVO: VALE3\nALVO 1: 63\nSTOP: 60"
BROKEN = "ATIVO: PETR4\nCOMPRA: 25,5,0"
TALK = "desconsiderem"


@pytest_asyncio.fixture
async def database(postgres_dsn: str, pgbouncer_dsn: str) -> AsyncIterator[Database]:
    """Through the pooler, as the worker has it; the table is empty."""
    connection = await connect_direct(postgres_dsn)
    await Migrator(connection, load_migrations()).migrate(lambda _: None)
    await connection.execute("TRUNCATE tp_capital.signals")
    await connection.close()
    async with Database(pgbouncer_dsn, None, connections=2) as pool:
        yield pool


async def take_in(database: Database, events: Sequence[Event]) -> None:
    desk = Desk("hybrid", Metrics())
    for event in events:
        async with database.transaction() as transaction:
            await desk.handle(event, transaction)


async def rows(database: Database) -> list[dict[str, Any]]:
    found = await database.fetch("SELECT * FROM tp_capital.signals ORDER BY account_scope, message_id")
    return [dict(row) for row in found]


async def active(database: Database) -> list[tuple[Any, ...]]:
    found = await database.fetch(
        "SELECT ticker, buy_min, buy_max, targets, stop FROM tp_capital.active_signals ORDER BY message_id"
    )
    return [tuple(row) for row in found]


async def test_a_row_holds_what_the_signal_says_and_where_it_came_from(database: Database) -> None:
    caption = new(2, scope=777, text=None, caption=THIRD, media_type="photo", source="backfill")
    original = new(1, text=FIRST)
    await take_in(database, [original, caption])

    channel_row, private_row = await rows(database)
    assert channel_row | {"stored_at": None, "updated_at": None} == {
        "account_scope": 0,
        "channel_id": CHANNEL,
        "message_id": 1,
        "event_id": original.id,
        "ticker": "PETR4",
        "buy_min": Decimal("25.50"),
        "buy_max": Decimal("26.00"),
        "targets": [Decimal("27"), Decimal("28.5")],
        "stop": Decimal("24.90"),
        "withdrawn": None,
        "signal_date": original.telegram_date,
        "revised_at": original.telegram_date,
        "received_at": original.received_at,
        "source": "mtproto",
        "mode": "hybrid",
        "stored_at": None,
        "updated_at": None,
    }
    assert (private_row["account_scope"], private_row["ticker"], private_row["buy_min"]) == (
        777,
        "VALE3",
        None,
    )
    assert private_row["source"] == "backfill"


async def test_the_newest_revision_counts_in_whatever_order_they_come_and_how_often(
    database: Database,
) -> None:
    events = [new(1, text=FIRST), edited(1, SECOND, 1), edited(1, THIRD, 2)]
    for order in permutations(events):
        await take_in(database, [*order, *reversed(order)])
        assert await active(database) == [("VALE3", None, None, [Decimal("63")], Decimal("60"))]
        (row,) = await rows(database)
        assert row["event_id"] == events[2].id
        await database.fetch("TRUNCATE tp_capital.signals")


async def test_of_two_edits_in_one_second_the_one_received_last_counts(database: Database) -> None:
    first = edited(1, SECOND)
    last = edited(1, THIRD, edit_date=first.edit_date)
    await take_in(database, [last, first])
    assert [row[0] for row in await active(database)] == ["VALE3"]


async def test_a_deleted_message_stays_withdrawn_whatever_comes_after_it(database: Database) -> None:
    events = [new(1, text=FIRST), edited(1, SECOND, 1), deleted(1)]
    for order in permutations(events):
        await take_in(database, order)
        assert await active(database) == []
        (row,) = await rows(database)
        assert row["withdrawn"] == "deleted"
        await database.fetch("TRUNCATE tp_capital.signals")


@pytest.mark.parametrize(("text", "reason"), [(TALK, "not_a_signal"), (BROKEN, "invalid_price")])
async def test_a_signal_that_is_edited_into_none_is_withdrawn_and_one_again_when_mended(
    database: Database, text: str, reason: str
) -> None:
    original, spoilt, mended = new(1, text=FIRST), edited(1, text, 1), edited(1, SECOND, 2)
    await take_in(database, [original, spoilt, original])
    assert await active(database) == []
    assert [row["withdrawn"] for row in await rows(database)] == [reason]

    await take_in(database, [mended, spoilt])
    assert await active(database) == [("PETR4", Decimal("25.80"), Decimal("25.80"), [], Decimal("25"))]


async def test_what_is_no_signal_leaves_nothing_and_says_why(database: Database) -> None:
    with pytest.raises(Ignored, match="not_a_signal: "):
        await take_in(database, [new(1, text=TALK)])
    with pytest.raises(Rejected, match="invalid_price: "):
        await take_in(database, [new(2, text=BROKEN)])
    with pytest.raises(Ignored):
        await take_in(database, [new(3, text=None, message_type="service")])
    with pytest.raises(Ignored):
        await take_in(database, [edited(4, TALK)])
    assert await rows(database) == []


async def test_a_failure_that_was_mended_meanwhile_is_no_failure_any_more(database: Database) -> None:
    failed, mended = new(1, text=BROKEN), edited(1, SECOND, 1)
    await take_in(database, [mended, failed])
    assert [row[0] for row in await active(database)] == ["PETR4"]
