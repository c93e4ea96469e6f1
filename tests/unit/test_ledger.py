"""The ledger by plain examples: what opens a gap, what closes it, and what must not."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from gateway.event import Event, Kind, delete_id, new_id
from gateway.journal import Batch, Journal, LedgerChanges, Missing, Settled
from gateway.journal.ledger import ACCOUNT_IDS

ME = 777000
CHANNEL = -1001649127710
FRIEND = 55
THEN = datetime(2026, 1, 1, tzinfo=UTC)


def event(message_id: int, kind: Kind = "message.new", chat: int = CHANNEL) -> Event:
    scope = 0 if chat == CHANNEL else ME
    name = new_id if kind == "message.new" else delete_id
    return Event(
        id=name(scope, str(chat), message_id),
        kind=kind,
        account="main",
        account_scope=scope,
        channel_id=str(chat),
        chat_type="private" if scope else "channel",
        message_id=message_id,
        received_at=THEN,
        source="mtproto",
    )


def events(*message_ids: int) -> list[Event]:
    return [event(message_id) for message_id in message_ids]


class Book:
    """A journal and what its ledger says of one account."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def saw(self, *message_ids: int) -> int:
        return await self.journal.append(Batch("main", events(*message_ids)))

    async def change(self, found: Sequence[Event] = (), **changes: object) -> int:
        ledger = LedgerChanges(**changes)  # type: ignore[arg-type]  # each by its name
        return await self.journal.append(Batch("main", found, ledger=ledger))

    async def fetched(self, first: int, last: int, found: Sequence[Event] = (), why: str = "empty") -> int:
        """A page came from Telegram, with `found` of what was asked for."""
        return await self.change(found, settled=[Settled(CHANNEL, first, last, why)], fetched=CHANNEL)

    async def gaps(self, state: str = "open", chat: int = CHANNEL) -> list[tuple[int, int]]:
        return sorted((gap.first, gap.last) for gap in await self.journal.gaps("main", chat, state))

    async def mark(self, chat: int = CHANNEL) -> int:
        return (await self.journal.ledger("main"))[chat].mark


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    async with Journal(tmp_path / "journal.db") as journal:
        yield Book(journal)


async def test_a_hole_holds_the_mark_until_each_of_its_ids_is_captured_or_proved_absent(book: Book) -> None:
    await book.saw(10, 11, 15)
    assert (await book.gaps(), await book.mark()) == ([(12, 14)], 11)
    await book.fetched(12, 14, events(13))
    assert (await book.gaps(), await book.mark()) == ([], 15)
    assert await book.gaps("absent") == [(12, 12), (14, 14)]
    assert await book.gaps("captured") == [(13, 13)]


async def test_a_late_push_closes_its_part_of_the_gap_and_the_page_brings_it_no_second_time(
    book: Book,
) -> None:
    await book.saw(10, 15)
    await book.saw(12)
    assert await book.gaps() == [(11, 11), (13, 14)]
    assert await book.fetched(11, 14, events(11, 12, 13, 14)) == 3


async def test_a_message_deleted_while_its_page_was_on_the_way_does_not_arrive(book: Book) -> None:
    await book.saw(10, 12)
    await book.change([event(11, "message.deleted")])
    assert await book.fetched(11, 11, events(11)) == 0
    assert await book.gaps("absent") == [(11, 11)]


async def test_a_jump_in_the_ids_that_private_chats_share_is_no_gap(book: Book) -> None:
    await book.change([event(10, chat=FRIEND), event(90, chat=FRIEND)])
    assert (await book.gaps(chat=ACCOUNT_IDS), await book.mark(ACCOUNT_IDS)) == ([], 90)


async def test_what_was_skipped_is_missing_up_to_the_newest_and_twice_no_more_than_once(book: Book) -> None:
    await book.saw(10)
    for _ in range(2):
        await book.change(missing=[Missing(CHANNEL, 50, "channel_too_long")])
    assert await book.gaps() == [(11, 50)]
    await book.change(missing=[Missing(CHANNEL, 60, "channel_too_long")])
    assert await book.gaps() == [(11, 50), (51, 60)]


async def test_a_push_ahead_of_what_the_dialogs_showed_leaves_no_hole_between(book: Book) -> None:
    await book.saw(103)
    await book.change(tracked={CHANNEL: 100})
    assert (await book.gaps(), await book.mark()) == ([(101, 102)], 100)


async def test_by_hand_also_what_is_accounted_for_is_fetched_again_without_overlap(book: Book) -> None:
    await book.saw(10, 11, 12, 15)
    await book.change(missing=[Missing(CHANNEL, 15, "hand", 11, known_too=True)])
    assert await book.gaps() == [(11, 12), (13, 14), (15, 15)]


async def test_what_was_given_up_is_open_again_once_the_chat_can_be_read(book: Book) -> None:
    await book.saw(10, 15)
    await book.fetched(11, 12, why="empty")
    await book.fetched(13, 14, why="no_access")
    assert (await book.journal.ledger("main"))[CHANNEL].no_access
    await book.change(reopened=[CHANNEL])
    assert await book.gaps() == [(13, 14)]
    assert await book.gaps("absent") == [(11, 12)]
    assert not (await book.journal.ledger("main"))[CHANNEL].no_access


async def test_gaps_that_overlap_after_reopening_are_not_opened_a_third_time(book: Book) -> None:
    await book.saw(10, 21)
    await book.fetched(11, 20, why="no_access")
    await book.change(missing=[Missing(CHANNEL, 15, "hand", 13, known_too=True)])
    await book.change(reopened=[CHANNEL])
    await book.change(missing=[Missing(CHANNEL, 20, "hand", 11, known_too=True)])
    assert await book.gaps() == [(11, 20), (13, 15)]
    await book.fetched(11, 20, events(12))
    assert (await book.gaps(), await book.mark()) == ([], 21)


async def test_looking_again_for_changes_holds_up_no_mark_and_misses_nothing(book: Book) -> None:
    await book.saw(10, 11, 14)
    await book.change(reread=[CHANNEL])
    assert await book.gaps() == [(10, 14), (12, 13)]
    await book.fetched(12, 13)
    assert (await book.gaps(), await book.mark()) == ([(10, 14)], 14)


async def test_a_page_read_before_the_latest_unseen_change_does_not_count_as_looking_after_it(
    book: Book,
) -> None:
    await book.saw(10, 11, 12)
    await book.change(reread=[CHANNEL])
    (before,) = await book.journal.gaps("main", CHANNEL)
    await book.change(reread=[CHANNEL])
    late = Settled(CHANNEL, 10, 12, "looked_at", before.id)
    await book.change(settled=[late], fetched=CHANNEL)
    (now,) = await book.journal.gaps("main", CHANNEL)
    assert (now.first, now.last) == (10, 12)
    await book.change(settled=[Settled(CHANNEL, 10, 12, "looked_at", now.id)], fetched=CHANNEL)
    assert await book.gaps() == []


async def test_what_is_missing_is_fetched_before_history_the_newest_first_and_paused_chats_not(
    book: Book,
) -> None:
    await book.saw(100, 102)
    await book.change(missing=[Missing(CHANNEL, 99, "history", 1)])
    await book.saw(105)
    await book.change(missing=[Missing(ACCOUNT_IDS, 9, "too_long", 8)])
    found = await book.journal.next_gaps("main", [], 3)
    assert [(gap.chat, gap.first) for gap in found] == [(ACCOUNT_IDS, 8), (CHANNEL, 103), (CHANNEL, 101)]
    found = await book.journal.next_gaps("main", [ACCOUNT_IDS], 9)
    assert [gap.first for gap in found] == [103, 101, 1]


async def test_the_ledger_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        await Book(journal).saw(10, 15)
        await Book(journal).change(reread=[CHANNEL])
    async with Journal(path) as journal:
        book = Book(journal)
        assert await book.gaps() == [(10, 15), (11, 14)]
        assert await book.fetched(11, 14, events(11, 12, 13, 14)) == 4
        assert await book.mark() == 15


async def test_a_journal_of_version_1_begins_its_ledger_where_its_messages_end(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        await journal.append(Batch("main", [*events(41, 42), event(7, chat=FRIEND), event(9, chat=FRIEND)]))
    file = apsw.Connection(str(path))
    file.execute("DROP TABLE ledger; DROP TABLE gaps; UPDATE meta SET value = 1 WHERE key = 'schema_version'")
    file.execute("INSERT INTO channel_state VALUES ('main', ?, 5, 6)", (-1_000_000_000_000 - CHANNEL,))
    file.close()
    async with Journal(path) as journal:
        book = Book(journal)
        ledger = await journal.ledger("main")
        assert {chat: (known.base, known.top) for chat, known in ledger.items()} == {
            CHANNEL: (42, 42),
            ACCOUNT_IDS: (9, 9),
        }
        assert ledger[ACCOUNT_IDS].since == THEN
        await book.change(missing=[Missing(ACCOUNT_IDS, 12, "too_long")])
        assert await book.gaps(chat=ACCOUNT_IDS) == [(10, 12)]
