"""The oracle of chaos: a gap, a false excuse or a swap in what a run left behind is noticed."""

from pathlib import Path

import apsw
import msgspec
import pytest

from gateway.demo.comparison import compare_journal
from gateway.demo.consumer import SampleConsumer
from gateway.demo.expected import history_of, truth_of_all
from gateway.event import Event
from gateway.journal import Batch, Journal
from gateway.sandbox import User, World
from tests import sink_events
from tests.chaos.oracle import compare_ledger, compare_order


class Left:
    """A journal of five posts of which one was deleted, and the world that they come from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.world = World()
        self.user: User = self.world.add_user("Operador", phone="+5511999990001")
        self.channel = self.world.add_channel("Sinais", [self.user])
        self.since = self.world.position
        posts = [self.world.post(self.channel, f"sinal {number}") for number in range(5)]
        self.world.delete(self.channel, posts[1])
        self.ids = [post.id for post in posts]

    async def write(self) -> None:
        events = [
            msgspec.structs.replace(
                sink_events.new(told.message_id, channel=told.channel_id, text=told.text),
                id=told.id,
                kind=told.kind,
            )
            for told in truth_of_all([self.user], self.since)
        ]
        async with Journal(self.path) as journal:
            await journal.append(Batch("main", events))

    def change(self, *statements: str) -> None:
        database = apsw.Connection(str(self.path))
        for statement in statements:
            database.execute(statement.format(ids=self.ids, chat=self.channel.marked_id))
        database.close()

    def ledger_problems(self) -> list[str]:
        result = compare_ledger(self.path, {"main": self.user}, self.since, history_of([self.user]))
        assert result.flaws["gap"] == len(result.problems)
        return list(result.problems)


@pytest.fixture
async def left(tmp_path: Path) -> Left:
    made = Left(tmp_path / "journal.db")
    await made.write()
    return made


def _gap(state: str) -> str:
    return (
        "INSERT INTO gaps (account, chat, first_id, last_id, source, reread, state, why, opened_at) "
        f"VALUES ('main', {{chat}}, {{ids[2]}}, {{ids[2]}}, 'hole', 0, '{state}', 'not_found', 1)"
    )


_FORGET = "DELETE FROM events WHERE message_id = {ids[2]}"
_FORGET_DELETED = "DELETE FROM events WHERE message_id = {ids[1]}"


async def test_a_journal_that_has_everything_is_called_complete(left: Left) -> None:
    assert left.ledger_problems() == []
    truth = truth_of_all([left.user], left.since)
    assert not compare_journal(left.path, truth, history=history_of([left.user])).problems


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ((_FORGET,), "neither captured nor explained"),
        ((_gap("open"),), "still waits for"),
        ((_FORGET, _gap("absent")), "is there, but main has it absent"),
        (("UPDATE ledger SET top = {ids[3]} WHERE chat = {chat}",), "does not reach"),
        (("DELETE FROM ledger WHERE chat = {chat}",), "does not reach"),
    ],
)
async def test_every_unexplained_gap_is_named(left: Left, changes: tuple[str, ...], complaint: str) -> None:
    left.change(*changes)
    (problem,) = left.ledger_problems()
    assert complaint in problem


async def test_what_was_deleted_before_it_was_seen_may_be_absent(left: Left) -> None:
    left.change(_FORGET_DELETED)
    assert "neither captured nor explained" in left.ledger_problems()[0]
    left.change(_gap("absent").replace("ids[2]", "ids[1]"))
    assert left.ledger_problems() == []


async def test_a_swap_between_journal_and_queue_is_named_and_a_loss_is_none(left: Left) -> None:
    told = truth_of_all([left.user], left.since)
    events = {
        event.id: sink_events.new(event.message_id, channel=event.channel_id, id=event.id) for event in told
    }
    ids = list(events)

    def problems(order: list[str], extra: dict[str, Event] | None = None) -> list[str]:
        consumer = SampleConsumer("amqp://localhost")
        consumer.events = {event_id: events[event_id] for event_id in order} | (extra or {})
        return list(compare_order(left.path, consumer).problems)

    assert problems(ids) == []
    assert problems(ids[:2] + ids[3:]) == []
    (swap,) = problems([ids[1], ids[0], *ids[2:]])
    assert "came in the place of" in swap
    (extra,) = problems(ids, {"0:-1001:9": sink_events.new(9)})
    assert "is not in the journal" in extra
