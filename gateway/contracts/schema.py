"""The JSON Schema (2020-12) of an event, made from its types and their descriptions.

It promises what a reader gets, which is more than what the decoder takes: every field is always there, and
what is null in which kind.
"""

import copy
import inspect
from typing import Any

import msgspec

from gateway.contracts.examples import EXAMPLES
from gateway.contracts.parts import ITEMS, OBJECTS
from gateway.event import SCHEMA_VERSION, Event, encode

Schema = dict[str, Any]

IDENTIFIER = f"urn:telegram-gateway:event:{SCHEMA_VERSION}"
_ALWAYS = frozenset(
    {"v", "id", "kind", "account", "account_scope", "channel_id", "chat_type", "message_id"}
    | {"received_at", "source", "metadata"}
)


def event_schema() -> Schema:
    """The schema, with examples."""
    definitions = event_definitions("#/$defs/{name}")
    event = definitions.pop("Event")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": IDENTIFIER,
        **event,
        "$defs": definitions,
        "examples": [example(event) for event in EXAMPLES],
    }


def event_definitions(ref_template: str) -> dict[str, Schema]:
    """The schemas of an event and of what it refers to, by name."""
    _, found = msgspec.json.schema_components([Event], ref_template=ref_template)
    definitions = {name: _promised(schema) for name, schema in found.items()}
    event = definitions["Event"]
    event["description"] = "\n\n".join((inspect.getdoc(Event) or "").split("\n\n")[:2])
    properties = event["properties"]
    properties["v"] = {"const": SCHEMA_VERSION, "description": properties["v"]["description"]}
    for name, members in OBJECTS.items():
        properties[name]["properties"] = copy.deepcopy(members)
    for name, members in ITEMS.items():
        properties[name]["items"] |= {
            "properties": copy.deepcopy(members),
            "required": ["type", "offset", "length"],
        }
    event["allOf"] = _per_kind(properties)
    return definitions


def example(event: Event) -> Any:
    """An event as it looks to its reader."""
    return msgspec.json.decode(encode(event))


def _promised(schema: Schema) -> Schema:
    """What msgspec says of a struct, for readers: all fields are there, so defaults mean nothing."""
    schema["description"] = inspect.cleandoc(schema["description"])
    schema["required"] = list(schema["properties"])
    for name, field in schema["properties"].items():
        field.pop("default", None)
        schema["properties"][name] = _flat(field)
    return schema


def _flat(field: Schema) -> Schema:
    """`anyOf` of a plain type and null as a list of types, which more tools understand."""
    if "enum" in field:
        return {"type": "string", **field}
    branches = field.get("anyOf")
    if branches is None or any("$ref" in branch for branch in branches):
        return field
    (real,) = (branch for branch in branches if branch != {"type": "null"})
    rest = {name: value for name, value in field.items() if name != "anyOf"}
    if "enum" in real:
        return {"type": ["string", "null"], "enum": [*real["enum"], None], **rest}
    return {**real, "type": [real["type"], "null"], **rest}


def _per_kind(properties: Schema) -> list[Schema]:
    """What is null, and what never is, depending on the kind."""
    null = {"type": "null"}
    absent = {name: null for name in properties if name not in _ALWAYS}
    told = {"telegram_date": {"type": "string"}, "message_type": {"type": "string"}}
    return [
        _when("message.new", told),
        _when("message.edited", told | {"edit_date": {"type": "string"}}),
        _when("message.deleted", absent | {"metadata": {"type": "object", "maxProperties": 0}}),
    ]


def _when(kind: str, properties: Schema) -> Schema:
    return {"if": {"properties": {"kind": {"const": kind}}}, "then": {"properties": properties}}
