"""The reckoning of the demo and the end-to-end tests: every way of being wrong is noticed."""

from typing import Any

import msgspec
import pytest

from gateway.demo.comparison import compare_queue, expectations
from gateway.demo.consumer import SampleConsumer
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
    ],
)
def test_every_difference_is_named(break_it: Any, complaint: str) -> None:
    truth, events = _world()
    result = compare_queue(_consumer(break_it(events)), truth)
    assert any(complaint in problem for problem in result.problems)


def test_reactions_are_no_content() -> None:
    truth, _ = _world()
    reaction = msgspec.structs.replace(truth[0], reaction=True, text="🔥")
    assert expectations([*truth, reaction]) == expectations(truth)


def test_a_change_that_is_skipped_shows_only_in_the_exact_comparison() -> None:
    truth, events = _world()
    deleted_unseen = [event for event in events if event.message_id != truth[1].message_id]
    assert not compare_queue(_consumer(deleted_unseen), truth).problems
    assert compare_queue(_consumer(deleted_unseen), truth, exact=True).problems
