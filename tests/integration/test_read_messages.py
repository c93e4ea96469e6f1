"""Messages read from the database: pages that hold each message once, search in what a message says now."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.event import Event
from gateway.localstack import LocalStack
from gateway.read import ChatRef, MessageFilter, MessageRef, Outcome
from gateway.read.highlight import snippet, utf16
from tests.read_rig import ReadRig, read_rig
from tests.sink_events import CHANNEL, deleted, edited, new

# One rig for all examples, which each find their own way; and a busy machine is no slow strategy.
IN_THE_RIG = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
CHATS = [ChatRef(CHANNEL), ChatRef("-1001700000042"), ChatRef("77", 42)]
POSTED = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ReadRig]:
    async with read_rig(stack) as rig:
        yield rig


def post(number: int, chat: ChatRef = CHATS[0], seconds: int = 0, **fields: object) -> Event:
    date = POSTED + timedelta(seconds=seconds)
    return new(number, channel=chat.channel_id, scope=chat.scope, telegram_date=date, **fields)


def names(messages: object) -> list[tuple[str, int]]:
    return [(message.event.chat_key, message.event.message_id) for message in messages]  # type: ignore[attr-defined]


FILTERS = st.builds(
    MessageFilter,
    chat=st.sampled_from([None, None, *CHATS]),
    chats=st.sampled_from([None, None, frozenset(chat.key for chat in CHATS[:2]), frozenset([CHATS[2].key])]),
    since=st.sampled_from([None, POSTED + timedelta(seconds=2)]),
    until=st.sampled_from([None, POSTED + timedelta(seconds=6)]),
    source=st.sampled_from([None, None, "mtproto", "backfill"]),
    consumer=st.just("x"),
    status=st.sampled_from([None, None, "published", "failed"]),
    search=st.sampled_from([None, None, "compra", "venda"]),
    deleted=st.booleans(),
    newest_first=st.booleans(),
)


@given(FILTERS, st.integers(1, 7), st.lists(st.integers(0, 9), max_size=4))
@settings(max_examples=60, suppress_health_check=IN_THE_RIG)
async def test_paging_gives_each_message_once_while_others_come_in(
    rig: ReadRig, wanted: MessageFilter, limit: int, inserted: list[int]
) -> None:
    if not (numbers := getattr(rig, "numbers", None)):
        numbers = rig.numbers = count(100)  # type: ignore[attr-defined]
        stored = [
            post(
                number,
                CHATS[number % 3],
                # Many share a second: pages end within one.
                seconds=number // 8,
                text=("compra" if number % 2 else "venda") + f" {number}",
                source="backfill" if number % 5 == 0 else "mtproto",
            )
            for number in range(1, 61)
        ]
        await rig.store(*stored)
        gone = [deleted(e.message_id, channel=e.channel_id, scope=e.account_scope) for e in stored[::7]]
        changed = [
            edited(
                e.message_id,
                "venda agora",
                channel=e.channel_id,
                scope=e.account_scope,
                telegram_date=e.telegram_date,
                source=e.source,
            )
            for e in stored[::11]
        ]
        await rig.store(*gone, *changed)
        refs = [MessageRef.of(event) for event in stored]
        await rig.reader.mark_processed("x", [Outcome(ref, "published") for ref in refs[::2]])
        await rig.reader.mark_processed("x", [Outcome(ref, "failed") for ref in refs[1::4]])
        await rig.reader.hide(refs[4], "ana")
    expected = names(await rig.all_pages(wanted, 1000))
    found: list[tuple[str, int]] = []
    after = None
    for turn in count():
        page = await rig.reader.messages(wanted, after, limit)
        found += names(page.messages)
        after = page.next
        if after is None:
            break
        if turn < len(inserted):
            number = next(numbers)
            await rig.store(post(number, CHATS[number % 3], inserted[turn], text="compra venda"))
    assert len(set(found)) == len(found)
    assert [name for name in found if name in set(expected)] == expected


async def test_the_database_and_redis_say_the_same_of_a_message(rig: ReadRig) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    events = [new(number, telegram_date=now - timedelta(seconds=60 - number)) for number in range(1, 31)]
    events += [edited(20, "alvo 33", telegram_date=events[19].telegram_date), deleted(25)]
    await rig.store(*events)
    await rig.cache(*events)
    hot = await rig.hot.newest(CHANNEL, 20)
    page = await rig.reader.messages(MessageFilter(chat=CHATS[0]), None, 20)
    assert hot.complete
    assert hot.events == [message.event for message in page.messages]
    assert (await rig.hot.message(MessageRef(CHANNEL, 20))) == page.messages[9].event


async def test_a_message_its_revisions_and_its_end(rig: ReadRig) -> None:
    ref = MessageRef(CHANNEL, 1)
    original, change = post(1), edited(1, "melhor", telegram_date=POSTED)
    await rig.store(original)
    await rig.store(change)
    found = await rig.reader.message(ref)
    assert found is not None
    assert (found.event, found.deleted_at) == (change, None)
    await rig.store(deleted(1))
    assert [event.kind for event in await rig.reader.revisions(ref)] == [
        "message.new",
        "message.edited",
        "message.deleted",
    ]
    found = await rig.reader.message(ref)
    assert found is not None
    assert found.deleted_at is not None
    assert names((await rig.reader.messages(MessageFilter())).messages) == []
    assert names((await rig.reader.messages(MessageFilter(deleted=True))).messages) == [(CHANNEL, 1)]


async def test_a_message_from_before_the_gateways_time_is_known_from_its_edit(rig: ReadRig) -> None:
    change = edited(7, "de antes", telegram_date=POSTED)
    await rig.store(change)
    found = await rig.reader.message(MessageRef(CHANNEL, 7))
    assert found is not None
    assert found.event == change
    assert await rig.reader.message(MessageRef(CHANNEL, 8)) is None


async def test_a_hidden_message_is_out_of_sight_until_it_is_restored(rig: ReadRig) -> None:
    ref = MessageRef(CHANNEL, 1)
    await rig.store(post(1), post(2))
    assert await rig.reader.hide(ref, "ana")
    assert not await rig.reader.hide(ref, "ana")
    assert not await rig.reader.hide(MessageRef(CHANNEL, 99), "ana")
    assert await rig.reader.message(ref) is None
    assert names((await rig.reader.messages(MessageFilter(chat=CHATS[0]))).messages) == [(CHANNEL, 2)]
    assert names((await rig.reader.messages(MessageFilter(search="compra"))).messages) == [(CHANNEL, 2)]
    assert await rig.database.fetchval("SELECT count(*) FROM telegram_gateway.messages") == 2
    assert await rig.reader.restore(ref)
    assert not await rig.reader.restore(ref)
    assert await rig.reader.message(ref) is not None


async def test_search_finds_what_a_message_says_now(rig: ReadRig) -> None:
    await rig.store(
        post(1, text="Compra PETR4"), post(2, text="nada", seconds=1), post(3, seconds=2, text="compra")
    )
    await rig.store(
        edited(1, "cancelado", telegram_date=POSTED),
        edited(2, "agora sim: comprar VALE3", telegram_date=POSTED + timedelta(seconds=1)),
    )
    assert names((await rig.reader.messages(MessageFilter(search="compra"))).messages) == [
        (CHANNEL, 3),
        (CHANNEL, 2),
    ]


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("COMPRA PETR4 a 31,20", "petr4", ["PETR4"]),
        ("As opções e as Ações caíram", "opcao acao", ["opções", "Ações"]),
        ("🚀🚀 ação 🚀 ACAO", "ação", ["ação", "ACAO"]),
        ("<i onclick='x'>alert('petr4') </i>", "petr4", ["petr4"]),
        ("pré-abertura: <b>compra</b>", "compra", ["compra"]),
        ("corações e leões: vendas", "venda", ["vendas"]),
        ("a \x02 b petr4", "petr4", ["petr4"]),
    ],
)
async def test_hits_are_places_of_the_text_as_it_was_written(
    rig: ReadRig, text: str, words: str, found: list[str]
) -> None:
    await rig.store(post(1, text=text))
    (message,) = (await rig.reader.messages(MessageFilter(search=words))).messages
    assert [text[hit.start : hit.end] for hit in message.hits] == found
    units = text.encode("utf-16-le")
    places = utf16(text, message.hits)
    assert [units[2 * hit.start : 2 * hit.end].decode("utf-16-le") for hit in places] == found
    shown = snippet(text, message.hits)
    assert shown.count("<mark>") == shown.count("</mark>") == len(found)
    assert "<" not in shown.replace("<mark>", "").replace("</mark>", "")


@given(st.text(st.sampled_from("aAáÁçõoeOESs <>-&/@.\x02\x03🚀ß İÇ4"), min_size=1, max_size=40))
@settings(max_examples=60, suppress_health_check=IN_THE_RIG)
async def test_a_hit_is_where_the_word_is_or_nowhere(rig: ReadRig, noise: str) -> None:
    text = f"{noise} petr4 {noise}"
    await rig.database.execute("TRUNCATE telegram_gateway.messages, telegram_gateway.message_arrivals")
    await rig.store(post(1, text=text))
    page = await rig.reader.messages(MessageFilter(search="petr4"))
    for message in page.messages:
        assert {text[hit.start : hit.end].lower() for hit in message.hits} <= {"petr4"}
