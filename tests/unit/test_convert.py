"""Every kind of update becomes the right event, and any event survives its journey as JSON."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telethon.tl import types

from gateway.event import Event, decode, encode
from gateway.telegram.chats import ChatFilter, Directory
from gateway.telegram.convert import Converter

ME = 777000
NOW = datetime(2026, 11, 21, 10, 30, 0, 123456, tzinfo=UTC)
THEN = datetime(2026, 11, 21, 10, 29, 59, tzinfo=UTC)
CHANNEL = types.PeerChannel(1649127710)


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    directory.learn(
        [
            types.User(id=ME, is_self=True, first_name="Eu"),
            types.User(id=55, first_name="Ana", last_name="Souza", username="ana", access_hash=1),
        ],
        [
            types.Channel(
                id=1649127710,
                title="Sinais B3",
                photo=types.ChatPhotoEmpty(),
                date=THEN,
                broadcast=True,
                username="sinais",
            ),
            types.Channel(id=42, title="Mesa", photo=types.ChatPhotoEmpty(), date=THEN, megagroup=True),
            types.Chat(
                id=9,
                title="Família",
                photo=types.ChatPhotoEmpty(),
                participants_count=3,
                date=THEN,
                version=1,
            ),
        ],
    )
    return directory


@pytest.fixture
def convert(directory: Directory) -> Any:
    converter = Converter("main", ME, directory)

    def one(update: Any) -> Event:
        (event,) = converter.from_update(update, NOW)
        return event

    return one


def _message(peer: Any = CHANNEL, message_id: int = 7, text: str = "COMPRA PETR4", **fields: Any) -> Any:
    return types.Message(id=message_id, peer_id=peer, date=THEN, message=text, **fields)


def test_a_channel_post_names_its_channel_as_sender(convert: Any) -> None:
    event = convert(types.UpdateNewChannelMessage(_message(post=True), pts=5, pts_count=1))
    assert (event.id, event.kind, event.message_type) == (
        "0:-1001649127710:7",
        "message.new",
        "channel_post",
    )
    assert (event.account_scope, event.channel_id, event.chat_type) == (0, "-1001649127710", "channel")
    assert (event.chat_title, event.chat_username) == ("Sinais B3", "sinais")
    assert event.sender.id == -1001649127710
    assert (event.text, event.caption, event.telegram_date) == ("COMPRA PETR4", None, THEN)


def test_a_private_message_keeps_the_account_in_its_identity(convert: Any) -> None:
    event = convert(types.UpdateNewMessage(_message(types.PeerUser(55)), pts=1, pts_count=1))
    assert event.id == f"{ME}:55:7"
    assert (event.account_scope, event.chat_type, event.message_type) == (ME, "private", "private_message")
    assert (event.sender.name, event.sender.username) == ("Ana Souza", "ana")
    assert event.chat_key == f"{ME}/55"


def test_abbreviated_messages_are_whole_again(convert: Any) -> None:
    private = convert(
        types.UpdateShortMessage(id=3, user_id=55, message="oi", pts=1, pts_count=1, date=THEN, out=True)
    )
    assert (private.channel_id, private.sender.id, private.metadata) == ("55", ME, {"out": True})
    group = convert(
        types.UpdateShortChatMessage(id=4, from_id=55, chat_id=9, message="oi", pts=2, pts_count=1, date=THEN)
    )
    assert (group.channel_id, group.chat_type, group.sender.id) == ("-9", "group", 55)


def test_an_edit_has_a_content_hash_in_its_id(convert: Any) -> None:
    edits = [
        convert(types.UpdateEditChannelMessage(_message(text=text, edit_date=THEN), pts=6, pts_count=1))
        for text in ("alvo 26", "alvo 27")
    ]
    assert {event.kind for event in edits} == {"message.edited"}
    assert edits[0].id != edits[1].id
    assert edits[0].id.startswith(f"0:-1001649127710:7:edit:{int(THEN.timestamp())}:")


def test_a_reaction_to_an_unedited_message_makes_no_event(directory: Directory) -> None:
    update = types.UpdateEditChannelMessage(_message(), pts=6, pts_count=1)
    assert Converter("main", ME, directory).from_update(update, NOW) == []


def test_deletions_carry_ids_only(directory: Directory) -> None:
    update = types.UpdateDeleteChannelMessages(1649127710, [7, 8], pts=9, pts_count=2)
    events = Converter("main", ME, directory).from_update(update, NOW)
    assert [event.id for event in events] == ["0:-1001649127710:7:delete", "0:-1001649127710:8:delete"]
    assert all(event.text is None and event.chat_title is None for event in events)


def test_media_has_a_caption_and_a_link_preview_has_text(convert: Any) -> None:
    photo = types.Photo(
        id=1,
        access_hash=2,
        file_reference=b"x",
        date=THEN,
        sizes=[types.PhotoSize("m", 320, 200, 4000), types.PhotoSizeProgressive("y", 1280, 800, [1, 90000])],
        dc_id=2,
    )
    event = convert(
        types.UpdateNewChannelMessage(
            _message(text="gráfico", media=types.MessageMediaPhoto(photo=photo)), pts=1, pts_count=1
        )
    )
    assert (event.text, event.caption, event.media_type) == (None, "gráfico", "photo")
    assert event.media == {"id": 1, "dc_id": 2, "width": 1280, "height": 800, "size": 90000}
    page = types.MessageMediaWebPage(
        types.WebPage(id=3, url="https://b3.com.br", display_url="b3", hash=0, title="B3")
    )
    event = convert(types.UpdateNewChannelMessage(_message(text="veja", media=page), pts=2, pts_count=1))
    assert (event.text, event.caption, event.media_type) == ("veja", None, "webpage")
    assert event.media == {"id": 3, "url": "https://b3.com.br", "display_url": "b3", "title": "B3"}


def test_documents_are_told_apart_and_keep_no_access_hash(convert: Any) -> None:
    document = types.Document(
        id=4,
        access_hash=99,
        file_reference=b"ref",
        date=THEN,
        mime_type="audio/ogg",
        size=1234,
        dc_id=2,
        attributes=[types.DocumentAttributeAudio(duration=7, voice=True, waveform=b"\1")],
    )
    event = convert(
        types.UpdateNewChannelMessage(
            _message(text="", media=types.MessageMediaDocument(document=document)), pts=1, pts_count=1
        )
    )
    assert event.media_type == "voice"
    assert event.media == {"id": 4, "dc_id": 2, "mime_type": "audio/ogg", "size": 1234, "duration": 7}
    assert (event.text, event.caption) == (None, None)


def test_service_messages_name_their_action(convert: Any) -> None:
    service = types.MessageService(
        id=9, peer_id=types.PeerChat(9), date=THEN, action=types.MessageActionChatMigrateTo(channel_id=42)
    )
    event = convert(types.UpdateNewMessage(service, pts=1, pts_count=1))
    assert event.message_type == "service"
    assert event.metadata == {
        "action": "chat_migrate_to",
        "action_data": {"channel_id": 42},
        "migrated_to": "-1000000000042",
    }


def test_topics_replies_and_forwards(convert: Any) -> None:
    event = convert(
        types.UpdateNewChannelMessage(
            _message(
                types.PeerChannel(42),
                from_id=types.PeerUser(55),
                reply_to=types.MessageReplyHeader(forum_topic=True, reply_to_msg_id=100, reply_to_top_id=90),
                fwd_from=types.MessageFwdHeader(date=THEN, from_id=CHANNEL, channel_post=12),
                grouped_id=33,
            ),
            pts=1,
            pts_count=1,
        )
    )
    assert (event.chat_type, event.message_type) == ("supergroup", "group_message")
    assert (event.thread_id, event.grouped_id) == (90, 33)
    assert event.reply_to == {"message_id": 100, "top_message_id": 90}
    assert event.forward["from"] == {"id": -1001649127710, "name": "Sinais B3", "username": "sinais"}
    assert event.forward["message_id"] == 12


def test_nul_and_lone_surrogates_keep_their_place(convert: Any) -> None:
    event = convert(
        types.UpdateNewChannelMessage(
            _message(text="a\0b\ud83dc", entities=[types.MessageEntityBold(3, 1)]), pts=1, pts_count=1
        )
    )
    assert event.text == "a\ufffdb\ufffdc"
    assert event.entities == [{"type": "bold", "offset": 3, "length": 1}]


def test_a_message_that_cannot_be_described_is_kept_whole(convert: Any) -> None:
    class Broken(types.MessageMediaDice):  # type: ignore[misc]
        def to_dict(self) -> Any:
            raise ValueError("a later layer")

    event = convert(
        types.UpdateNewChannelMessage(_message(media=Broken(value=3, emoticon="🎲")), pts=1, pts_count=1)
    )
    assert event.id == "0:-1001649127710:7"
    assert event.metadata["not_understood"]


def test_the_filter_takes_ids_and_names(convert: Any, directory: Directory) -> None:
    event = convert(types.UpdateNewChannelMessage(_message(), pts=1, pts_count=1))
    deleted = Converter("main", ME, directory).deleted(-1001649127710, "channel", 7, NOW)
    for chats in ((), ("-1001649127710",), ("@Sinais",)):
        wanted = ChatFilter(chats, directory)
        assert wanted(event)
        assert wanted(deleted)
    assert not ChatFilter(("-1009", "@outro"), directory)(event)


_texts = st.text(max_size=200)
_peers = st.one_of(
    st.integers(1, 2**40).map(types.PeerUser),
    st.integers(1, 2**40).map(types.PeerChat),
    st.integers(1, 2**40).map(types.PeerChannel),
)
_dates = st.datetimes(datetime(2014, 1, 1), datetime(2037, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
_entities = st.lists(
    st.one_of(
        st.builds(types.MessageEntityBold, offset=st.integers(0, 99), length=st.integers(1, 9)),
        st.builds(
            types.MessageEntityTextUrl, offset=st.integers(0, 99), length=st.integers(1, 9), url=_texts
        ),
        st.builds(
            types.MessageEntityCustomEmoji,
            offset=st.integers(0, 99),
            length=st.integers(1, 9),
            document_id=st.integers(0, 2**60),
        ),
    ),
    max_size=4,
)
_media = st.one_of(
    st.none(),
    st.builds(types.MessageMediaDice, value=st.integers(1, 6), emoticon=_texts),
    st.builds(
        types.MessageMediaContact,
        phone_number=_texts,
        first_name=_texts,
        last_name=_texts,
        vcard=_texts,
        user_id=st.integers(0, 2**40),
    ),
    st.builds(
        types.MessageMediaGeo,
        geo=st.builds(
            types.GeoPoint,
            long=st.floats(-180, 180),
            lat=st.floats(-90, 90),
            access_hash=st.integers(0, 2**60),
        ),
    ),
    st.just(types.MessageMediaUnsupported()),
)
_messages = st.builds(
    types.Message,
    id=st.integers(1, 2**31 - 1),
    peer_id=_peers,
    date=_dates,
    message=st.one_of(_texts, st.text(alphabet=st.characters(exclude_categories=()), max_size=50)),
    from_id=st.one_of(st.none(), _peers),
    entities=st.one_of(st.none(), _entities),
    media=_media,
    edit_date=st.one_of(st.none(), _dates),
    grouped_id=st.one_of(st.none(), st.integers(0, 2**62)),
    post_author=st.one_of(st.none(), _texts),
    views=st.one_of(st.none(), st.integers(0, 10**9)),
    out=st.booleans(),
    reply_to=st.one_of(
        st.none(),
        st.builds(types.MessageReplyHeader, reply_to_msg_id=st.integers(1, 10**6), quote_text=_texts),
    ),
)


@given(message=_messages)
def test_any_message_becomes_an_event_that_json_gives_back(message: Any) -> None:
    converter = Converter("main", ME, Directory())
    (event,) = converter.from_update(types.UpdateNewMessage(message, pts=1, pts_count=1), NOW)
    assert decode(encode(event)) == event
    (again,) = converter.from_update(types.UpdateNewMessage(message, pts=2, pts_count=1), NOW)
    assert again.id == event.id
    assert "not_understood" not in event.metadata
    body = encode(event)
    assert b"\\u0000" not in body
    assert b"\\ud8" not in body.lower()


@given(message=_messages, date=_dates)
def test_an_edit_of_the_same_content_is_the_same_event(message: Any, date: datetime) -> None:
    message.edit_date = date
    converter = Converter("main", ME, Directory())
    update = types.UpdateEditMessage(message, pts=1, pts_count=1)
    (first,) = converter.from_update(update, NOW)
    message.views = (message.views or 0) + 1
    (second,) = converter.from_update(update, NOW)
    assert first.id == second.id
