"""Every kind of media as Telegram sends it, and how an event describes it."""

from datetime import UTC, datetime
from typing import Any

from telethon.tl import types

SINCE = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
PERSON = types.PeerUser(4_200_000_000)
WORDS = types.TextWithEntities("Alvo?", [types.MessageEntityBold(0, 4)])
PLACE = types.GeoPoint(-46.6333, -23.5505, 99, accuracy_radius=12)


def _file(mime_type: str, *attributes: Any, **flags: Any) -> Any:
    document = types.Document(77, 88, b"ref", SINCE, mime_type, 1_234, 2, list(attributes))
    return types.MessageMediaDocument(document=document, **flags)


def _of_file(mime_type: str, **more: Any) -> dict[str, Any]:
    return {"id": 77, "dc_id": 2, "mime_type": mime_type, "size": 1_234, **more}


def _poll(**flags: Any) -> Any:
    answers = [types.PollAnswer(types.TextWithEntities(text, []), text.encode()) for text in ("26", "27")]
    return types.Poll(9, WORDS, answers, 0, **flags)


ASKED = {
    "poll_id": 9,
    "question": "Alvo?",
    "question_entities": [{"type": "bold", "offset": 0, "length": 4}],
    "answers": [{"text": "26"}, {"text": "27"}],
}
SET = types.InputStickerSetID(55, 66)
EVERY_KIND: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "photo": (
        "photo",
        types.MessageMediaPhoto(
            spoiler=True,
            photo=types.Photo(
                7,
                8,
                b"ref",
                SINCE,
                [types.PhotoSize("m", 320, 200, 9), types.PhotoSize("x", 800, 500, 90)],
                2,
            ),
        ),
        {"id": 7, "dc_id": 2, "width": 800, "height": 500, "size": 90, "spoiler": True},
    ),
    "expired photo": ("photo", types.MessageMediaPhoto(ttl_seconds=10), {"ttl_seconds": 10}),
    "video": (
        "video",
        _file("video/mp4", types.DocumentAttributeVideo(12.5, 640, 360)),
        _of_file("video/mp4", duration=12.5, width=640, height=360),
    ),
    "round video": (
        "video_note",
        _file("video/mp4", types.DocumentAttributeVideo(3.0, 240, 240, round_message=True)),
        _of_file("video/mp4", duration=3.0, width=240, height=240),
    ),
    "expired round video": (
        "video_note",
        types.MessageMediaDocument(video=True, round=True, ttl_seconds=10),
        {"ttl_seconds": 10},
    ),
    "voice": (
        "voice",
        _file("audio/ogg", types.DocumentAttributeAudio(7, voice=True, waveform=b"\1")),
        _of_file("audio/ogg", duration=7),
    ),
    "audio": (
        "audio",
        _file("audio/mpeg", types.DocumentAttributeAudio(180, title="Garota", performer="Tom")),
        _of_file("audio/mpeg", duration=180, title="Garota", performer="Tom"),
    ),
    "sticker": (
        "sticker",
        _file(
            "image/webp",
            types.DocumentAttributeSticker("🚀", SET),
            types.DocumentAttributeImageSize(512, 512),
        ),
        _of_file("image/webp", alt="🚀", sticker_set_id=55, width=512, height=512),
    ),
    "video sticker": (
        "sticker",
        _file(
            "video/webm",
            types.DocumentAttributeVideo(1.0, 512, 512),
            types.DocumentAttributeSticker("🚀", types.InputStickerSetShortName("touros")),
        ),
        _of_file("video/webm", alt="🚀", sticker_set="touros", duration=1.0, width=512, height=512),
    ),
    "custom emoji": (
        "sticker",
        _file("application/x-tgsticker", types.DocumentAttributeCustomEmoji("🐂", SET)),
        _of_file("application/x-tgsticker", alt="🐂", sticker_set_id=55, custom_emoji=True),
    ),
    "animation": (
        "animation",
        _file("video/mp4", types.DocumentAttributeAnimated(), types.DocumentAttributeVideo(2.0, 320, 240)),
        _of_file("video/mp4", duration=2.0, width=320, height=240),
    ),
    "document": (
        "document",
        _file("application/pdf", types.DocumentAttributeFilename("balanço.pdf")),
        _of_file("application/pdf", file_name="balanço.pdf"),
    ),
    "geo": (
        "geo",
        types.MessageMediaGeo(PLACE),
        {"latitude": -23.5505, "longitude": -46.6333, "accuracy_radius": 12},
    ),
    "live location": (
        "geo_live",
        types.MessageMediaGeoLive(PLACE, 900, heading=90),
        {"latitude": -23.5505, "longitude": -46.6333, "accuracy_radius": 12, "period": 900, "heading": 90},
    ),
    "venue": (
        "venue",
        types.MessageMediaVenue(PLACE, "B3", "Praça Antônio Prado, 48", "foursquare", "v1", "arts"),
        {
            "latitude": -23.5505,
            "longitude": -46.6333,
            "accuracy_radius": 12,
            "title": "B3",
            "address": "Praça Antônio Prado, 48",
            "provider": "foursquare",
            "venue_id": "v1",
            "venue_type": "arts",
        },
    ),
    "contact": (
        "contact",
        types.MessageMediaContact("+5511", "Ana", "Souza", "", 55),
        {"phone_number": "+5511", "first_name": "Ana", "last_name": "Souza", "vcard": "", "user_id": 55},
    ),
    "poll": ("poll", types.MessageMediaPoll(_poll(), types.PollResults()), ASKED),
    "quiz with its results": (
        "poll",
        types.MessageMediaPoll(
            _poll(quiz=True, closed=True),
            types.PollResults(
                results=[
                    types.PollAnswerVoters(b"27", correct=True, voters=3, recent_voters=[]),
                    types.PollAnswerVoters(b"26", chosen=True, voters=1, recent_voters=[]),
                ],
                total_voters=4,
                solution="Foi a 27",
                solution_entities=[],
            ),
        ),
        {
            **ASKED,
            "quiz": True,
            "closed": True,
            "results": {
                "total_voters": 4,
                "answers": [{"answer": 1, "voters": 3, "correct": True}, {"answer": 0, "voters": 1}],
                "solution": "Foi a 27",
            },
        },
    ),
    "dice": ("dice", types.MessageMediaDice(6, "🎲"), {"value": 6, "emoticon": "🎲"}),
    "game": (
        "game",
        types.MessageMediaGame(types.Game(3, 4, "touro", "Touro", "Monte", types.PhotoEmpty(1))),
        {"id": 3, "short_name": "touro", "title": "Touro", "description": "Monte"},
    ),
    "invoice": (
        "invoice",
        types.MessageMediaInvoice("Plano", "Um mês", "BRL", 9_900, "p1", test=True),
        {
            "title": "Plano",
            "description": "Um mês",
            "currency": "BRL",
            "total_amount": 9_900,
            "start_param": "p1",
            "test": True,
        },
    ),
    "story": (
        "story",
        types.MessageMediaStory(types.PeerChannel(42), 5, via_mention=True),
        {"id": 5, "channel_id": "-1000000000042", "via_mention": True},
    ),
    "giveaway": (
        "giveaway",
        types.MessageMediaGiveaway([42], 3, SINCE, months=6, winners_are_visible=True),
        {
            "channels": ["-1000000000042"],
            "quantity": 3,
            "until_date": "2026-11-21T10:00:00Z",
            "months": 6,
            "winners_are_visible": True,
        },
    ),
    "giveaway results": (
        "giveaway_results",
        types.MessageMediaGiveawayResults(42, 8, 2, 0, [55, 56], SINCE, stars=100),
        {
            "channel_id": "-1000000000042",
            "launch_msg_id": 8,
            "winners_count": 2,
            "unclaimed_count": 0,
            "winners": [55, 56],
            "until_date": "2026-11-21T10:00:00Z",
            "stars": 100,
        },
    ),
    "paid media": (
        "paid_media",
        types.MessageMediaPaidMedia(
            25,
            [
                types.MessageExtendedMediaPreview(w=800, h=600, video_duration=9),
                types.MessageExtendedMedia(_file("image/png")),
            ],
        ),
        {
            "stars_amount": 25,
            "items": [
                {"media_type": "preview", "width": 800, "height": 600, "duration": 9},
                {"media_type": "document", **_of_file("image/png")},
            ],
        },
    ),
    "web page": (
        "webpage",
        types.MessageMediaWebPage(
            types.WebPage(6, "https://b3.com.br/", "b3.com.br", 0, type="article", title="B3", site_name="B3")
        ),
        {
            "id": 6,
            "url": "https://b3.com.br/",
            "display_url": "b3.com.br",
            "type": "article",
            "title": "B3",
            "site_name": "B3",
        },
    ),
    "to-do list": (
        "to_do",
        types.MessageMediaToDo(
            types.TodoList(
                WORDS, [types.TodoItem(1, types.TextWithEntities("Comprar", []))], others_can_complete=True
            ),
            [types.TodoCompletion(1, PERSON, SINCE)],
        ),
        {
            "title": "Alvo?",
            "entities": [{"type": "bold", "offset": 0, "length": 4}],
            "tasks": [{"id": 1, "title": "Comprar"}],
            "others_can_complete": True,
            "completions": [{"id": 1, "by": "4200000000", "date": "2026-11-21T10:00:00Z"}],
        },
    ),
    "unsupported": ("unsupported", types.MessageMediaUnsupported(), {}),
}
