"""Whatever Telegram's schema allows as a message becomes an event that says the same, for every sink.

Messages are generated from Telethon's classes, with every kind of media, action and entity, and go over the
wire before they are converted.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telethon.tl import types

from gateway.event import Event, as_edit, decode, delete_id, encode, new_id
from gateway.telegram.chats import Directory, marked, marked_channel
from gateway.telegram.convert import Converter
from gateway.telegram.plain import clean_text
from tests.unit.tl_objects import constructors, make, wire

ME = 777000
NOW = datetime(2026, 11, 21, 10, 30, 0, 123456, tzinfo=UTC)
THEN = datetime(2026, 11, 21, 10, 29, 59, tzinfo=UTC)
MEDIA = constructors("MessageMedia")
ACTIONS = constructors("MessageAction")
ENTITIES = [*constructors("MessageEntity"), types.InputMessageEntityMentionName]
seeds = st.integers(0, 2**64 - 1)
# Not st.text: it would make one alphabet of both, in which the hard ones are too rare to be met.
hard_characters = st.sampled_from(["a", "\0", "\ud83d", "\ude00", "📈", "\u202e", "\uffff"])
hard_texts = st.lists(hard_characters | st.characters(), max_size=30).map("".join)


def convert(update: Any) -> list[Event]:
    """As an account does that has met nobody yet."""
    return Converter("main", ME, Directory()).from_update(update, NOW)


def one(message: Any) -> Event:
    event, *edit = convert(types.UpdateNewMessage(message, pts=1, pts_count=1))
    assert edit == ([] if event.edit_date is None else [as_edit(event)])
    return event


def message_with(seed: int, **fields: Any) -> Any:
    chance = Random(seed)
    return make(types.Message, chance, id=chance.randint(1, 2**31 - 1), **fields)


def assert_every_sink_takes(event: Event) -> None:
    """Valid UTF-8 JSON without what PostgreSQL's jsonb and text refuse, and the same event again."""
    body = encode(event)
    for text in _texts(json.loads(body.decode(), parse_constant=_no_constants)):
        assert "\0" not in text
        text.encode()
    assert decode(body) == event


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _no_constants(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def assert_is_of(event: Event, message: Any) -> None:
    """The event is of this message, and was understood."""
    chat = marked(message.peer_id)
    scope = 0 if isinstance(message.peer_id, types.PeerChannel) else ME
    assert "not_understood" not in event.metadata
    assert (event.channel_id, event.message_id) == (str(chat), message.id)
    assert (event.account_scope, event.id) == (scope, new_id(scope, str(chat), message.id))
    assert event.telegram_date == message.date


@pytest.mark.parametrize("constructor", MEDIA, ids=lambda one: one.__name__)
@settings(max_examples=10)
@given(seed=seeds)
def test_a_message_with_any_media_becomes_its_event(constructor: Any, seed: int) -> None:
    chance = Random(seed)
    message = wire(message_with(seed, media=make(constructor, chance)))
    event = one(message)
    assert_is_of(event, message)
    assert_every_sink_takes(event)
    assert (event.content or "") == clean_text(message.message)
    assert (event.media_type is None) == (
        constructor is types.MessageMediaEmpty and message.rich_message is None
    )
    assert one(wire(message)) == event


@pytest.mark.parametrize("constructor", ACTIONS, ids=lambda one: one.__name__)
@settings(max_examples=5)
@given(seed=seeds)
def test_a_service_message_with_any_action_becomes_its_event(constructor: Any, seed: int) -> None:
    chance = Random(seed)
    action = make(constructor, chance)
    message = wire(make(types.MessageService, chance, id=chance.randint(1, 2**31 - 1), action=action))
    event = one(message)
    assert_is_of(event, message)
    assert_every_sink_takes(event)
    assert event.message_type == "service"
    assert (
        event.metadata["action"].replace("_", "")
        == constructor.__name__.removeprefix("MessageAction").lower()
    )
    assert one(wire(message)) == event


@given(seed=seeds)
def test_entities_keep_their_places_in_utf16_units(seed: int) -> None:
    chance = Random(seed)
    entities = [make(chance.choice(ENTITIES), chance) for _ in range(chance.randint(1, 8))]
    message = wire(message_with(seed, entities=entities, media=None))
    event = one(message)
    assert_every_sink_takes(event)
    assert event.entities is not None
    assert [(entity["offset"], entity["length"]) for entity in event.entities] == [
        (entity.offset, entity.length) for entity in message.entities
    ]
    units = len(message.message.encode("utf-16-le"))
    assert len((event.content or "").encode("utf-16-le")) == units


@given(text=hard_texts, seed=seeds)
def test_no_text_breaks_a_sink_or_moves_an_entity(text: str, seed: int) -> None:
    """Lone surrogates cannot go over the wire, but a library may make them of what it reads."""
    user = types.User(55, first_name=text, last_name=text, username=text)
    channel = types.Channel(42, text, types.ChatPhotoEmpty(), THEN, megagroup=True)
    directory = Directory()
    directory.learn([user], [channel])
    sticker = types.DocumentAttributeSticker(text, types.InputStickerSetShortName(text))
    audio = types.DocumentAttributeAudio(1, title=text, performer=text)
    attributes = [sticker, audio, types.DocumentAttributeFilename(text)]
    document = types.Document(1, 2, b"", THEN, text, 3, 2, attributes)
    message = types.Message(
        id=1,
        peer_id=types.PeerChannel(42),
        from_id=types.PeerUser(55),
        date=THEN,
        message=text,
        post_author=text,
        media=Random(seed).choice([None, types.MessageMediaDocument(document=document)]),
        fwd_from=types.MessageFwdHeader(THEN, from_name=text, post_author=text),
        reply_to=types.MessageReplyHeader(reply_to_msg_id=1, quote_text=text),
    )
    update = types.UpdateNewChannelMessage(message, pts=1, pts_count=1)
    (event,) = Converter("main", ME, directory).from_update(update, NOW)
    assert "not_understood" not in event.metadata
    assert_every_sink_takes(event)
    before, after = (words.encode("utf-16-le", "surrogatepass") for words in (text, event.content or ""))
    assert len(before) == len(after)


@given(seed=seeds)
def test_a_revision_has_one_id_and_content_decides_it(seed: int) -> None:
    chance = Random(seed)
    media = chance.choice([None, make(chance.choice(MEDIA), chance)])
    message = wire(message_with(seed, media=media, edit_date=THEN, rich_message=None))
    edit = types.UpdateEditMessage(message, pts=1, pts_count=1)
    (first,) = convert(edit)
    assert_every_sink_takes(first)
    message.views, message.forwards = (message.views or 0) + 1, 3
    message.reactions = make(types.MessageReactions, chance)
    message.replies = make(types.MessageReplies, chance)
    message.pinned = not message.pinned
    (second,) = convert(edit)
    assert second.id == first.id
    assert second.content_digest == first.content_digest
    message.message += "!"
    (third,) = convert(edit)
    assert third.id != first.id
    message.edit_date = THEN.replace(second=0)
    (fourth,) = convert(edit)
    assert fourth.id != third.id
    assert fourth.content_digest == third.content_digest


@given(seed=seeds)
def test_votes_do_not_change_a_poll_but_its_question_does(seed: int) -> None:
    chance = Random(seed)
    poll = make(types.Poll, chance)
    media = make(types.MessageMediaPoll, chance, poll=poll)
    before = one(wire(message_with(seed, media=media)))
    media.results = make(types.PollResults, chance)
    assert one(wire(message_with(seed, media=media))).content_digest == before.content_digest
    poll.question.text += "?"
    assert one(wire(message_with(seed, media=media))).content_digest != before.content_digest


@given(seed=seeds)
def test_short_messages_and_deletions_become_events_of_the_right_chat(seed: int) -> None:
    chance = Random(seed)
    short = wire(make(types.UpdateShortMessage, chance, id=3, user_id=chance.randint(1, 2**42)))
    (event,) = convert(short)
    assert event.id == new_id(ME, str(short.user_id), 3)
    assert event.text == clean_text(short.message)
    assert_every_sink_takes(event)
    group = wire(
        make(types.UpdateShortChatMessage, chance, id=4, chat_id=5, from_id=chance.randint(1, 2**42))
    )
    (event,) = convert(group)
    assert (event.id, event.chat_type) == (new_id(ME, "-5", 4), "group")
    assert_every_sink_takes(event)
    ids = [chance.randint(1, 2**31 - 1) for _ in range(3)]
    chat = str(marked_channel(42))
    deletions = convert(wire(types.UpdateDeleteChannelMessages(42, ids, pts=9, pts_count=3)))
    assert [event.id for event in deletions] == [delete_id(0, chat, message_id) for message_id in ids]
    for event in deletions:
        assert_every_sink_takes(event)
