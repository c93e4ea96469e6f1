"""The reckoning of the demo and the end-to-end tests: every way of being wrong is noticed."""

from typing import Any

import msgspec
import pytest

from gateway.demo.comparison import compare_queue, judge_cache, judge_rows
from gateway.demo.consumer import SampleConsumer
from gateway.demo.expected import Held, Key, expectations, history_of, truth_of_all
from gateway.event import Event
from gateway.sandbox import World
from gateway.sandbox.truth import TruthEvent, truth_of
from tests import sink_events


def _world() -> tuple[list[TruthEvent], list[Event]]:
    """Three posts, one edited and one deleted: the truth, and the events that tell it."""
    world = World()
    user = world.add_user("Operador", phone="+5511999990001")
    channel = world.add_channel("Sinais", [user])
    since = world.position
    posts = [world.post(channel, f"sinal {number}") for number in range(3)]
    world.edit(channel, posts[0], "sinal corrigido")
    world.delete(channel, posts[1])
    truth = truth_of(user, since)
    events = []
    for told in truth:
        fields: dict[str, Any] = {"channel": told.channel_id, "text": told.text}
        event = sink_events.new(told.message_id, **fields)
        identity = told.id + ":0123456789abcdef" if told.kind == "message.edited" else told.id
        events.append(msgspec.structs.replace(event, id=identity, kind=told.kind))
    return truth, events


def _as_told(truth: list[TruthEvent]) -> dict[Key, Held]:
    return {key: (message.words, message.deleted) for key, message in expectations(truth).items()}


def _consumer(events: list[Event]) -> SampleConsumer:
    consumer = SampleConsumer("amqp://localhost")
    for event in events:
        consumer.events[event.id] = event
    return consumer


def test_what_is_complete_is_called_complete() -> None:
    truth, events = _world()
    result = compare_queue(_consumer(events), truth, exact=True)
    assert (result.expected, result.delivered, list(result.problems)) == (3, 3, [])


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda events: events[:2] + events[3:], "is missing"),
        (lambda events: events[:-1], "was deleted, which did not arrive"),
        (lambda events: events[:3] + events[4:], "has old or other words"),
        (lambda events: [events[1], events[0], *events[2:]], "came after a later message"),
        (lambda events: [events[3], *events[:3], *events[4:]], "was edited before it came"),
        (lambda events: [*events, sink_events.new(99)], "was never posted"),
        (lambda events: [*events, msgspec.structs.replace(events[-1], message_id=3)], "counts as deleted"),
    ],
)
@pytest.mark.parametrize("with_history", [False, True])
def test_every_difference_is_named(break_it: Any, complaint: str, with_history: bool) -> None:
    """What backfill may find in the chats excuses none of them: here it finds what the account was told."""
    truth, events = _world()
    history = _as_told(truth) if with_history else None
    result = compare_queue(_consumer(break_it(events)), truth, history=history)
    assert any(complaint in problem for problem in result.problems)
    assert sum(result.flaws.values()) == len(result.problems)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda rows: rows[1:], "is missing"),
        (lambda rows: [*rows, rows[0]], "is there twice"),
        (lambda rows: [rows[0] | {"text": "sinal 0"}, *rows[1:]], "has old or other words"),
        (
            lambda rows: [rows[0], rows[1] | {"is_deleted": False}, rows[2]],
            "was deleted, which did not arrive",
        ),
        (lambda rows: [*rows[:2], rows[2] | {"is_deleted": True}], "counts as deleted"),
        (lambda rows: [*rows, rows[0] | {"message_id": 99}], "was never posted"),
    ],
)
def test_every_difference_in_the_database_is_named(break_it: Any, complaint: str) -> None:
    truth, _ = _world()
    rows: list[dict[str, Any]] = [
        {
            "account_scope": scope,
            "channel_id": channel,
            "message_id": message_id,
            "text": words,
            "caption": None,
            "is_deleted": deleted,
        }
        for (scope, channel, message_id), (words, deleted) in _as_told(truth).items()
    ]
    assert not judge_rows(rows, [], truth).problems
    (problem,) = judge_rows(break_it(rows), [], truth).problems
    assert complaint in problem


def test_every_lie_of_the_cache_is_named_and_what_it_forgot_is_counted() -> None:
    truth, _ = _world()
    first, second, third = _as_told(truth)
    held: dict[Key, Held] = {first: ("sinal corrigido", False), third: ("sinal 2", False)}
    assert not judge_cache(held, [first, third], truth).problems

    def complaints(held: dict[Key, Held], recent: list[Key], *, may_forget: bool = True) -> list[str]:
        return list(judge_cache(held, recent, truth, may_forget=may_forget).problems)

    assert judge_cache({}, [], truth, may_forget=True).absent == 2
    assert "is missing" in complaints({first: held[first]}, [], may_forget=False)[0]
    assert not complaints({first: held[first]}, [])
    assert "old or other words" in complaints(held | {first: ("sinal 0", False)}, [])[0]
    assert "although it was deleted" in complaints(held | {second: ("sinal 1", False)}, [])[0]
    assert "among the recent although it was deleted" in complaints(held, [second])[0]
    assert "was never posted" in complaints(held | {(0, "-1001", 9): ("?", False)}, [])[0]


def test_what_backfill_brings_may_come_late_and_after_its_edits_but_not_what_is_live() -> None:
    truth, events = _world()
    backfilled = msgspec.structs.replace(
        events[0], source="backfill", text="sinal corrigido", edit_date=events[3].telegram_date
    )
    late = [*events[1:3], events[3], backfilled, events[4]]
    assert not compare_queue(_consumer(late), truth).problems
    live = [*events[1:3], events[3], events[0], events[4]]
    assert compare_queue(_consumer(live), truth).flaws["disorder"] == 2
    # A second account that missed the messages saw the edit; the first one brings them, late and live.
    edited_at = events[3].telegram_date
    seen_by_another = msgspec.structs.replace(events[3], account="second", edit_date=edited_at)
    assert not compare_queue(_consumer([seen_by_another, *events[:3], events[4]]), truth).problems


def test_what_the_broker_had_sent_to_a_lost_connection_may_come_after_later_messages() -> None:
    truth, events = _world()
    consumer = _consumer([events[1], events[0], *events[2:]])
    assert compare_queue(consumer, truth).flaws["disorder"] == 1
    consumer.redelivered.add(events[0].id)
    assert not compare_queue(consumer, truth).problems


def test_an_edit_that_comes_after_newer_words_does_not_bring_the_old_ones_back() -> None:
    channel, old, new = "-1001600000001", sink_events.edited(1, "velho"), sink_events.edited(1, "novo", 60)
    truth = [
        TruthEvent(
            position=1,
            posted_at=0.0,
            kind="message.new",
            id=f"0:{channel}:1",
            account_scope=0,
            channel_id=channel,
            message_id=1,
            text="novo",
        )
    ]
    events = [
        msgspec.structs.replace(event, channel_id=channel)
        for event in (sink_events.new(1, text="velhíssimo"), new, old)
    ]
    assert not compare_queue(_consumer(events), truth).problems


def test_two_accounts_in_one_channel_expect_each_message_once() -> None:
    world = World()
    users = [world.add_user(name, phone=f"+551199999000{n}") for n, name in enumerate("AB")]
    channel = world.add_channel("Sinais", users)
    friend = world.add_user("Ana")
    since = world.position
    world.post(channel, "para todos")
    world.post(world.private(users[0], friend), "só para A")
    told = truth_of_all(users, since)
    assert [event.text for event in told] == ["para todos", "só para A"]


def test_a_change_of_a_message_from_before_the_account_came_is_no_message_to_wait_for() -> None:
    world = World()
    user, friend = world.add_user("Operador", phone="+5511999990001"), world.add_user("Ana")
    channel = world.add_channel("Sinais", [friend])
    earlier = world.post(channel, "antes")
    world.join(channel, user)
    world.edit(channel, earlier, "mudado depois")
    truth = truth_of_all([user])
    assert compare_queue(_consumer([]), truth).flaws == {"lost": 1}
    assert not compare_queue(_consumer([]), truth, history=history_of([user])).problems


def test_outside_its_membership_an_account_may_hold_what_the_chat_has_now() -> None:
    world = World()
    user = world.add_user("Operador", phone="+5511999990001")
    channel = world.add_channel("Sinais", [user])
    since = world.position
    seen = world.post(channel, "enquanto dentro")
    world.leave(channel, user)
    world.post(channel, "enquanto fora")
    world.edit(channel, seen, "mudado enquanto fora")
    world.join(channel, user)
    truth, history = truth_of_all([user], since), history_of([user])
    inside, outside = (sink_events.new(n, channel=str(channel.marked_id), text="") for n in (1, 2))

    def problems(*texts: str) -> list[str]:
        events = [
            msgspec.structs.replace(event, text=text)
            for event, text in zip((inside, outside), texts, strict=False)
        ]
        return list(compare_queue(_consumer(events), truth, history=history).problems)

    assert not problems("enquanto dentro")
    assert not problems("mudado enquanto fora", "enquanto fora")
    assert problems("nunca dito")
    assert problems()


def test_reactions_are_no_content() -> None:
    truth, _ = _world()
    reaction = msgspec.structs.replace(truth[0], reaction=True, text="🔥")
    assert expectations([*truth, reaction]) == expectations(truth)


def test_a_change_that_is_skipped_shows_only_in_the_exact_comparison() -> None:
    truth, events = _world()
    deleted_unseen = [event for event in events if event.message_id != truth[1].message_id]
    assert not compare_queue(_consumer(deleted_unseen), truth).problems
    assert compare_queue(_consumer(deleted_unseen), truth, exact=True).problems
