"""Every kind of update becomes the right event, and any event survives its journey as JSON."""

from datetime import UTC, datetime
from typing import Any

import pytest
from telethon.extensions import BinaryReader
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


def test_a_message_that_comes_edited_is_told_as_its_edit_too(directory: Directory) -> None:
    """The journal drops that edit unless it had the message in other words."""
    message = _message(text="corrigida", edit_date=THEN)
    converter = Converter("main", ME, directory)
    first, last = converter.from_update(types.UpdateNewChannelMessage(message, pts=1, pts_count=1), NOW)
    assert (first.kind, first.text, last.text) == ("message.new", "corrigida", "corrigida")
    assert [last] == converter.from_update(types.UpdateEditChannelMessage(message, pts=2, pts_count=1), NOW)


def test_the_filter_takes_ids_and_names(convert: Any, directory: Directory) -> None:
    event = convert(types.UpdateNewChannelMessage(_message(), pts=1, pts_count=1))
    deleted = Converter("main", ME, directory).deleted(-1001649127710, "channel", 7, NOW)
    for chats in ((), ("-1001649127710",), ("@Sinais",)):
        wanted = ChatFilter(chats, directory)
        assert wanted(event)
        assert wanted(deleted)
    assert not ChatFilter(("-1009", "@outro"), directory)(event)


def test_a_reference_to_a_known_chat_without_its_details_changes_nothing(
    convert: Any, directory: Directory
) -> None:
    """A `min` channel comes with other chats' messages, and lacks what is not needed to name it."""
    directory.learn([], [types.Channel(1649127710, "Sinais", types.ChatPhotoEmpty(), THEN, min=True)])
    event = convert(types.UpdateNewChannelMessage(_message(post=True), pts=5, pts_count=1))
    assert (event.chat_title, event.chat_username, event.chat_type) == ("Sinais B3", "sinais", "channel")


def test_an_answer_is_in_a_thread_where_there_are_threads(convert: Any, directory: Directory) -> None:
    forum = types.Channel(43, "Fórum", types.ChatPhotoEmpty(), THEN, megagroup=True, forum=True)
    directory.learn([], [forum])

    def thread(peer: Any, **reply: Any) -> int | None:
        message = _message(peer, reply_to=types.MessageReplyHeader(**reply))
        thread_id: int | None = convert(types.UpdateNewMessage(message, pts=1, pts_count=1)).thread_id
        return thread_id

    supergroup, topics = types.PeerChannel(42), types.PeerChannel(43)
    assert thread(supergroup, reply_to_msg_id=5) == 5
    assert thread(supergroup, reply_to_msg_id=6, reply_to_top_id=5) == 5
    assert thread(supergroup, reply_to_msg_id=5, reply_to_peer_id=CHANNEL) is None
    assert thread(topics, reply_to_msg_id=5) is None  # in the General topic
    assert thread(topics, reply_to_msg_id=5, forum_topic=True) == 5
    assert thread(CHANNEL, reply_to_msg_id=5) is None
    assert thread(types.PeerChat(9), reply_to_msg_id=5) is None


def test_a_pin_is_no_answer(convert: Any) -> None:
    pinned = types.MessageService(
        9,
        types.PeerChannel(42),
        THEN,
        action=types.MessageActionPinMessage(),
        reply_to=types.MessageReplyHeader(reply_to_msg_id=5),
    )
    event = convert(types.UpdateNewChannelMessage(pinned, pts=1, pts_count=1))
    assert (event.reply_to, event.thread_id) == ({"message_id": 5}, None)


def test_a_vote_is_no_edit_but_the_end_of_a_poll_is(convert: Any) -> None:
    answers = [types.PollAnswer(types.TextWithEntities(text, []), text.encode()) for text in ("26", "27")]

    def edit(votes: int, **flags: Any) -> Event:
        poll = types.Poll(9, types.TextWithEntities("Alvo?", []), answers, 0, **flags)
        media = types.MessageMediaPoll(poll, types.PollResults(total_voters=votes))
        message = _message(media=media, edit_date=THEN)
        event: Event = convert(types.UpdateEditChannelMessage(message, pts=6, pts_count=1))
        return event

    assert edit(1).id == edit(2).id
    assert edit(2).id != edit(2, closed=True).id


def test_a_live_location_that_moves_is_an_edit(convert: Any) -> None:
    places = [
        types.MessageMediaGeoLive(types.GeoPoint(-46.6, latitude, 1), 900) for latitude in (-23.5, -23.6)
    ]
    first, second = (
        convert(types.UpdateEditChannelMessage(_message(media=place, edit_date=THEN), pts=6, pts_count=1))
        for place in places
    )
    assert first.id != second.id


def test_an_anonymous_admin_speaks_as_the_supergroup_and_keeps_the_title(convert: Any) -> None:
    supergroup = types.PeerChannel(42)
    message = _message(supergroup, from_id=supergroup, post_author="Moderação")
    event = convert(types.UpdateNewChannelMessage(message, pts=1, pts_count=1))
    assert (event.sender.id, event.sender.name) == (-1000000000042, "Mesa")
    assert event.metadata == {"post_author": "Moderação"}


def test_bytes_that_are_no_utf8_become_a_text_that_every_sink_takes() -> None:
    """A lone surrogate cannot be written as UTF-8; what a server sends instead, Telethon replaces."""
    sent = bytes(_message(text="abc")).replace(b"abc", b"\xed\xa0\xbd")
    message = BinaryReader(sent).tgread_object()
    (event,) = Converter("main", ME, Directory()).from_update(types.UpdateNewMessage(message, 1, 1), NOW)
    assert event.text == "\ufffd\ufffd\ufffd"
    assert decode(encode(event)) == event
