"""The comparison with the published contract finds every kind of break, and lets pass what breaks nobody."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.contracts import breaks

Schema = dict[str, Any]
PUBLISHED: Schema = json.loads(
    (Path(__file__).parents[1] / "data" / "contracts" / "event-v1.published.json").read_text()
)


def changed(change: Callable[[Schema], Any]) -> Schema:
    schema = copy.deepcopy(PUBLISHED)
    change(schema)
    return schema


def field(schema: Schema, name: str) -> Schema:
    found: Schema = schema["properties"][name]
    return found


def deleted(schema: Schema) -> Schema:
    (clause,) = [each for each in schema["allOf"] if "message.deleted" in str(each["if"])]
    fields: Schema = clause["then"]["properties"]
    return fields


BREAKS: dict[str, tuple[Callable[[Schema], Any], str]] = {
    "a field goes": (lambda s: s["properties"].pop("grouped_id"), "event.grouped_id: is gone"),
    "a required field goes altogether": (
        lambda s: (s["properties"].pop("text"), s["required"].remove("text")),
        "event.text: is gone",
    ),
    "a field is renamed": (
        lambda s: s["properties"].update(words=s["properties"].pop("text")),
        "event.text: is gone",
    ),
    "a field changes its type": (
        lambda s: field(s, "message_id").update(type="string"),
        "event.message_id: may now be string",
    ),
    "an integer becomes any number": (
        lambda s: field(s, "message_id").update(type="number"),
        "event.message_id: may now be number",
    ),
    "a field may be null": (
        lambda s: field(s, "received_at").update(type=["string", "null"]),
        "event.received_at: may now be null",
    ),
    "a field may be of one more type": (
        lambda s: field(s, "text").update(type=["string", "null", "object"]),
        "event.text: may now be object",
    ),
    "a field is only ever null": (
        lambda s: field(s, "caption").update(type="null"),
        "event.caption: is never string any more",
    ),
    "a field may be anything": (
        lambda s: field(s, "channel_id").pop("type"),
        "event.channel_id: may now be any",
    ),
    "a value is added": (
        lambda s: field(s, "kind")["enum"].append("message.pinned"),
        'event.kind: may now be "message.pinned"',
    ),
    "a value goes": (
        lambda s: field(s, "kind")["enum"].remove("message.deleted"),
        'event.kind: is never "message.deleted" any more',
    ),
    "a list of values is given up": (
        lambda s: field(s, "source").pop("enum"),
        "event.source: may now be anything",
    ),
    "the version changes": (lambda s: field(s, "v").update(const=2), "event.v: may now be 2"),
    "a format is given up": (
        lambda s: field(s, "received_at").pop("format"),
        "event.received_at: format was",
    ),
    "a format changes": (
        lambda s: field(s, "edit_date").update(format="date"),
        "event.edit_date: format was date-time and is date",
    ),
    "a required field becomes optional": (
        lambda s: s["required"].remove("text"),
        "event.text: is not always there any more",
    ),
    "a new field is required": (
        lambda s: (s["properties"].update(shard={"type": "integer"}), s["required"].append("shard")),
        "event.shard: is new",
    ),
    "a description changes its meaning": (
        lambda s: field(s, "telegram_date").update(description="When it was posted: local time."),
        "event.telegram_date: means something else",
    ),
    "the event's description changes": (
        lambda s: s.update(description="Some change of some messages."),
        "event: means something else",
    ),
    "a field inside an object goes": (
        lambda s: field(s, "reply_to")["properties"].pop("message_id"),
        "event.reply_to.message_id: is gone",
    ),
    "a field inside an object changes its meaning": (
        lambda s: field(s, "media")["properties"]["size"].update(description="Kilobytes."),
        "event.media.size: means something else",
    ),
    "a field inside a definition may be null": (
        lambda s: s["$defs"]["Sender"]["properties"]["id"].update(type=["integer", "null"]),
        "event.sender.id: may now be null",
    ),
    "a definition's description changes": (
        lambda s: s["$defs"]["Sender"].update(description="Who read it."),
        "event.sender: means something else",
    ),
    "a field inside a list's items goes": (
        lambda s: field(s, "entities")["items"]["properties"].pop("offset"),
        "event.entities[].offset: is gone",
    ),
    "a field inside a list's items becomes optional": (
        lambda s: field(s, "entities")["items"]["required"].remove("length"),
        "event.entities[].length: is not always there any more",
    ),
    "items are given up": (lambda s: field(s, "entities").pop("items"), "event.entities[]: "),
    "what one kind promised is given up": (lambda s: s["allOf"].pop(0), "nothing is promised any more"),
    "a field of deletions may be more than null": (
        lambda s: deleted(s)["text"].update(type=["null", "string"]),
        "text: may now be string",
    ),
    "a field of deletions is no longer promised": (lambda s: deleted(s).pop("media"), "media: is gone"),
    "metadata of deletions may be filled": (
        lambda s: deleted(s)["metadata"].pop("maxProperties"),
        "maxProperties was 0 and is gone",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_found(name: str) -> None:
    change, told = BREAKS[name]
    found = breaks(PUBLISHED, changed(change))
    assert any(told in each for each in found), found


HARMLESS: dict[str, Callable[[Schema], Any]] = {
    "nothing": lambda _: None,
    "an optional field is added": lambda s: s["properties"].update(shard={"type": ["integer", "null"]}),
    "an optional field is added inside an object": lambda s: field(s, "media")["properties"].update(
        codec={"type": "string"}
    ),
    "a field is never null any more": lambda s: field(s, "text").update(type="string"),
    "a field gets a limit": lambda s: field(s, "message_id").update(minimum=1),
    "an optional field is always there": lambda s: field(s, "forward").update(required=["date"]),
    "one more thing is promised of a kind": lambda s: s["allOf"].append(
        {"if": {"properties": {"chat_type": {"const": "channel"}}}, "then": {"required": ["chat_title"]}}
    ),
    "a description is wrapped otherwise": lambda s: s.update(description=s["description"].replace("\n", " ")),
    "examples and titles": lambda s: s.update(examples=[], title="Change"),
    "the order of fields and of values": lambda s: (
        s.update(properties=dict(reversed(s["properties"].items()))),
        field(s, "kind")["enum"].reverse(),
        s["required"].reverse(),
    ),
    "a definition is written in place": lambda s: field(s, "sender").update(
        anyOf=[s["$defs"].pop("Sender"), {"type": "null"}]
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_breaks_nobody_passes(name: str) -> None:
    assert breaks(PUBLISHED, changed(HARMLESS[name])) == []


def test_every_single_removal_from_the_published_fields_is_found() -> None:
    """Not only the kinds of break that somebody thought of: each field, each word of what it promises."""
    for name, promised in PUBLISHED["properties"].items():
        # With its values named, the type of a field says nothing more.
        for keyword in promised.keys() - {"examples"} - ({"type"} if "enum" in promised else set()):
            found = breaks(PUBLISHED, changed(lambda s, n=name, k=keyword: field(s, n).pop(k)))  # type: ignore[misc]
            assert found, f"{name} lost its {keyword}, and nobody noticed"


def test_a_keyword_that_cannot_be_compared_stops_the_comparison() -> None:
    with pytest.raises(ValueError, match="patternProperties"):
        breaks(PUBLISHED, changed(lambda s: field(s, "media").update(patternProperties={})))
