"""The published documents: current, true of real events, and compatible with what was published before."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from telethon.tl import types

from gateway.contracts import asyncapi_document, breaks, event_schema
from gateway.contracts.__main__ import DIRECTORY, documents, main
from gateway.contracts.examples import (
    ACCOUNT_ID,
    CORRECTED,
    DELETION,
    EDIT,
    EDITED,
    EXAMPLES,
    PHOTO,
    PIN,
    POST,
    POSTED,
    RECEIVED,
    SIGNAL,
)
from gateway.event import SCHEMA_VERSION, Event, Sender, encode
from gateway.telegram.chats import Directory
from gateway.telegram.convert import Converter
from tests.unit.tl_objects import constructors, make, wire

PUBLISHED = Path(__file__).parents[1] / "data" / "contracts" / f"event-v{SCHEMA_VERSION}.published.json"
_formats = FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


CURRENT = Draft202012Validator(event_schema(), format_checker=_formats)
PROMISED = Draft202012Validator(json.loads(PUBLISHED.read_text()), format_checker=_formats)
seeds = st.integers(0, 2**64 - 1)


def assert_keeps_the_promise(event: Event) -> None:
    """Both what the code says now and what was last published hold for the event."""
    body = json.loads(encode(event))
    for validator in (CURRENT, PROMISED):
        validator.validate(body)


def test_the_published_documents_are_what_the_code_says() -> None:
    for name, text in documents().items():
        assert (DIRECTORY / name).read_text() == text, "run: python -m gateway.contracts"


def test_the_check_notices_a_document_that_is_not_current(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(main, ["--check", str(tmp_path)]).exit_code == 1
    assert run(main, [str(tmp_path)]).exit_code == 0
    assert run(main, ["--check", str(tmp_path)]).exit_code == 0
    stale = next(iter(tmp_path.iterdir()))
    stale.write_text(stale.read_text().replace("UTC", "local time"))
    result = run(main, ["--check", str(tmp_path)])
    assert result.exit_code == 1
    assert stale.name in result.output


def test_nothing_that_was_published_has_changed_for_its_readers() -> None:
    assert breaks(json.loads(PUBLISHED.read_text()), event_schema()) == []


def test_the_schema_is_one_and_describes_every_field() -> None:
    schema = event_schema()
    Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(Event.__struct_fields__)
    assert set(schema["$defs"]["Sender"]["properties"]) == set(Sender.__struct_fields__)
    for place, field in _fields(schema, "event"):
        assert field.get("description"), f"{place} has no description"


def _fields(schema: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{place}.{name}", field
        yield from _fields(field, f"{place}.{name}")
    if "items" in schema:
        yield from _fields(schema["items"], f"{place}[]")
    for name, definition in schema.get("$defs", {}).items():
        yield from _fields(definition, name)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: str(event.id))
def test_each_example_keeps_the_promise(event: Event) -> None:
    assert_keeps_the_promise(event)


def test_the_examples_are_what_the_gateway_makes_of_telegrams_updates() -> None:
    directory = Directory()
    directory.learn(
        [types.User(id=55, first_name="Ana", last_name="Souza", username="ana", access_hash=1)],
        [
            types.Channel(
                id=1649127710,
                title="Sinais B3",
                photo=types.ChatPhotoEmpty(),
                date=POSTED,
                broadcast=True,
                username="sinais_b3",
            )
        ],
    )
    converter = Converter("main", ACCOUNT_ID, directory)
    channel = types.PeerChannel(1649127710)
    bold = [types.MessageEntityBold(0, 12)]
    post = {"id": 4711, "peer_id": channel, "date": POSTED, "post": True, "entities": bold}
    sizes = [types.PhotoSize("y", 1280, 800, 90_000)]
    picture = types.Photo(
        id=5_447_213_890_112_233_445, access_hash=2, file_reference=b"x", date=POSTED, sizes=sizes, dc_id=2
    )
    pin = types.MessageService(
        id=4712,
        peer_id=channel,
        date=POSTED,
        action=types.MessageActionPinMessage(),
        reply_to=types.MessageReplyHeader(reply_to_msg_id=4711),
        post=True,
    )
    photo = types.Message(
        id=19,
        peer_id=types.PeerUser(55),
        date=POSTED,
        message="Está aqui.",
        media=types.MessageMediaPhoto(photo=picture),
        reply_to=types.MessageReplyHeader(reply_to_msg_id=18, quote_text="e o gráfico?"),
    )
    edit = types.Message(message=CORRECTED, views=87, edit_date=EDITED, **post)
    made = [
        (POST, types.UpdateNewChannelMessage(types.Message(message=SIGNAL, views=1, **post), 1, 1)),
        (EDIT, types.UpdateEditChannelMessage(edit, 2, 1)),
        (DELETION, types.UpdateDeleteChannelMessages(1649127710, [4711], 3, 1)),
        (PIN, types.UpdateNewChannelMessage(pin, 4, 1)),
        (PHOTO, types.UpdateNewMessage(photo, 1, 1)),
    ]
    assert tuple(example for example, _ in made) == EXAMPLES
    for example, update in made:
        assert converter.from_update(update, RECEIVED) == [example]


@pytest.mark.parametrize("prefix", ["MessageMedia", "MessageAction"])
@settings(max_examples=150)
@given(seed=seeds, edited=st.booleans())
def test_whatever_telegram_sends_keeps_the_promise(prefix: str, seed: int, edited: bool) -> None:
    chance = Random(seed)
    inner = make(chance.choice(constructors(prefix)), chance)
    identity = {"id": chance.randint(1, 2**31 - 1)}
    if prefix == "MessageAction":
        update = types.UpdateNewMessage(
            wire(make(types.MessageService, chance, action=inner, **identity)), 1, 1
        )
    else:
        moment = {"edit_date": EDITED} if edited else {}
        message = wire(make(types.Message, chance, media=inner, **identity, **moment))
        update = (types.UpdateEditMessage if edited else types.UpdateNewMessage)(message, 1, 1)
    for event in Converter("main", ACCOUNT_ID, Directory()).from_update(update, RECEIVED):
        assert_keeps_the_promise(event)


@settings(max_examples=20)
@given(chat=st.integers(1, 2**31), messages=st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=3))
def test_deletions_keep_the_promise(chat: int, messages: list[int]) -> None:
    update = types.UpdateDeleteChannelMessages(chat, messages, 1, 1)
    for event in Converter("main", ACCOUNT_ID, Directory()).from_update(update, RECEIVED):
        assert_keeps_the_promise(event)


@pytest.mark.parametrize(
    ("of", "change"),
    [
        (POST, {"telegram_date": None}),
        (POST, {"v": 2}),
        (POST, {"kind": "message.pinned"}),
        (POST, {"received_at": "yesterday"}),
        (POST, {"entities": [{"type": "bold"}]}),
        (EDIT, {"edit_date": None}),
        (DELETION, {"text": "COMPRA PETR4"}),
        (DELETION, {"metadata": {"views": 1}}),
    ],
    ids=str,
)
def test_what_breaks_the_promise_is_refused(of: Event, change: dict[str, Any]) -> None:
    """So that the tests above can fail."""
    body = json.loads(encode(of))
    with pytest.raises(ValidationError):
        CURRENT.validate(body | change)
    with pytest.raises(ValidationError):
        CURRENT.validate({name: value for name, value in body.items() if name not in change})


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [each for item in value.values() for each in _references(item)]
    return [each for item in value for each in _references(item)] if isinstance(value, list) else []


def _at(document: Any, reference: str) -> Any:
    assert reference.startswith("#/"), f"{reference} leads outside the document"
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_the_asyncapi_document_holds_together() -> None:
    document = asyncapi_document()
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    for reference in _references(document):
        _at(document, reference)
    for channel in document["channels"].values():
        named = {part[1:-1] for part in channel["address"].split(".") if part.startswith("{")}
        assert named == set(channel.get("parameters", {}))
        assert channel["messages"]
    for operation in document["operations"].values():
        channel = _at(document, operation["channel"]["$ref"])
        within = f"{operation['channel']['$ref']}/messages/"
        assert [each["$ref"] for each in operation["messages"]] == [
            within + name for name in channel["messages"]
        ]


def test_the_asyncapi_documents_examples_are_valid() -> None:
    document = asyncapi_document()
    checked = 0
    for message in document["components"]["messages"].values():
        for example in message.get("examples", ()):
            for part in ("headers", "payload"):
                schema = {**message[part], "components": document["components"]}
                Draft202012Validator(schema, format_checker=_formats).validate(example[part])
            checked += 1
    assert checked == len(EXAMPLES)
