"""Describes a message's media and entities as plain JSON values: metadata only, never the bytes.

Access hashes and file references are left out: they are the account's, and of no use to a reader. What
changes without anybody editing the message stands apart, so that it does not count as content: a poll's
`results`, a list's `completions`.
"""

from collections.abc import Callable
from typing import Any

from telethon.tl import types

from gateway.telegram.chats import marked, marked_channel
from gateway.telegram.plain import clean_text, plain, snake_case

Described = dict[str, Any]

_POLL_FLAGS = ("closed", "quiz", "multiple_choice", "public_voters", "open_answers", "shuffle_answers")
_PAGE_FIELDS = ("id", "url", "display_url", "type", "site_name", "title", "description", "author")


def describe_entities(entities: list[Any] | None) -> list[Described] | None:
    """Message entities; offsets and lengths count UTF-16 units, as Telegram's do."""
    if not entities:
        return None
    described = []
    for entity in entities:
        fields = _set_fields(entity)
        name = fields.pop("_").removeprefix("Input").removeprefix("MessageEntity")
        described.append({"type": snake_case(name), **fields})
    return described


def describe_media(media: Any) -> tuple[str | None, Described | None]:
    """The media's type and its metadata; (None, None) where there is none."""
    if media is None or isinstance(media, types.MessageMediaEmpty):
        return None, None
    if isinstance(media, types.MessageMediaDocument):
        return _document(media)
    name, describe = _DESCRIPTIONS.get(type(media), (None, _set_fields))
    described = describe(media)
    constructor = described.pop("_", "")
    return name or snake_case(constructor.removeprefix("MessageMedia")), described


def _set_fields(value: Any) -> Described:
    """An object's fields without what is not set: Telethon reads a missing flag as False, a list as empty."""
    return {name: item for name, item in plain(value.to_dict()).items() if item is not False and item != []}


def _photo(media: Any) -> Described:
    described: Described = {}
    photo = media.photo
    if isinstance(photo, types.Photo):
        described["id"] = photo.id
        described["dc_id"] = photo.dc_id
        sized = [size for size in photo.sizes if getattr(size, "w", None)]
        if sized:
            largest = max(sized, key=lambda size: size.w * size.h)
            described["width"], described["height"] = largest.w, largest.h
            size = getattr(largest, "size", None) or max(getattr(largest, "sizes", None) or [0])
            if size:
                described["size"] = size
    return _with_flags(described, media)


def _document(media: Any) -> tuple[str, Described]:
    document = media.document
    if not isinstance(document, types.Document):
        # Expired: what it was is all that is left of it.
        kinds = (("voice", media.voice), ("video_note", media.round), ("video", media.video))
        return next((kind for kind, is_it in kinds if is_it), "document"), _with_flags({}, media)
    described: Described = {
        "id": document.id,
        "dc_id": document.dc_id,
        "mime_type": clean_text(document.mime_type),
        "size": document.size,
    }
    kinds_found = set()
    for attribute in document.attributes:
        describe = _ATTRIBUTES.get(type(attribute))
        if describe is not None:
            kind, fields = describe(attribute)
            kinds_found.add(kind)
            described.update(fields)
    # Stickers and animations may be videos, too; what they are first of all decides.
    kind = next((kind for kind in _KIND_ORDER if kind in kinds_found), "document")
    return kind, _with_flags(described, media)


_KIND_ORDER = ("sticker", "animation", "video_note", "video", "voice", "audio")


def _file_name(attribute: Any) -> tuple[str, Described]:
    return "", {"file_name": clean_text(attribute.file_name)}


def _image_size(attribute: Any) -> tuple[str, Described]:
    return "", {"width": attribute.w, "height": attribute.h}


def _video(attribute: Any) -> tuple[str, Described]:
    fields = {"duration": plain(attribute.duration), "width": attribute.w, "height": attribute.h}
    return "video_note" if attribute.round_message else "video", fields


def _audio(attribute: Any) -> tuple[str, Described]:
    fields = {"duration": attribute.duration}
    for key in ("title", "performer"):
        if value := getattr(attribute, key):
            fields[key] = clean_text(value)
    return "voice" if attribute.voice else "audio", fields


def _sticker(attribute: Any) -> tuple[str, Described]:
    fields: Described = {"alt": clean_text(attribute.alt)}
    sticker_set = attribute.stickerset
    if isinstance(sticker_set, types.InputStickerSetID):
        fields["sticker_set_id"] = sticker_set.id
    elif isinstance(sticker_set, types.InputStickerSetShortName):
        fields["sticker_set"] = clean_text(sticker_set.short_name)
    if isinstance(attribute, types.DocumentAttributeCustomEmoji):
        fields["custom_emoji"] = True
    return "sticker", fields


_ATTRIBUTES: dict[Any, Callable[[Any], tuple[str, Described]]] = {
    types.DocumentAttributeFilename: _file_name,
    types.DocumentAttributeImageSize: _image_size,
    types.DocumentAttributeVideo: _video,
    types.DocumentAttributeAudio: _audio,
    types.DocumentAttributeSticker: _sticker,
    types.DocumentAttributeCustomEmoji: _sticker,
    types.DocumentAttributeAnimated: lambda _: ("animation", {}),
}


def _with_flags(described: Described, media: Any) -> Described:
    if media.spoiler:
        described["spoiler"] = True
    if media.ttl_seconds:
        described["ttl_seconds"] = media.ttl_seconds
    return described


def _web_page(media: Any) -> Described:
    found = ((key, getattr(media.webpage, key, None)) for key in _PAGE_FIELDS)
    return {key: plain(value) for key, value in found if value is not None}


def _place(media: Any) -> Described:
    """A point on the map, and what else the media says of it."""
    described: Described = {}
    if isinstance(media.geo, types.GeoPoint):
        described["latitude"] = plain(media.geo.lat)
        described["longitude"] = plain(media.geo.long)
        if media.geo.accuracy_radius is not None:
            described["accuracy_radius"] = media.geo.accuracy_radius
    fields = _set_fields(media)
    return described | {name: value for name, value in fields.items() if name not in ("_", "geo")}


def _poll(media: Any) -> Described:
    """A poll counts as content with all its fields, so its id must not stand for them."""
    poll, results = media.poll, media.results
    described: Described = {"poll_id": poll.id, "question": clean_text(poll.question.text)}
    if question_entities := describe_entities(poll.question.entities):
        described["question_entities"] = question_entities
    described["answers"] = [_titled("text", getattr(answer, "text", None)) for answer in poll.answers]
    described.update((flag, True) for flag in _POLL_FLAGS if getattr(poll, flag))
    for key in ("close_period", "close_date"):
        if (value := getattr(poll, key)) is not None:
            described[key] = plain(value)
    if results.results or results.total_voters is not None:
        described["results"] = _poll_results(poll, results)
    return described


def _poll_results(poll: Any, results: Any) -> Described:
    """How many voted for which answer, by its place among the answers; solutions are told to voters only."""
    places = {getattr(answer, "option", None): place for place, answer in enumerate(poll.answers)}
    told: Described = {}
    if results.total_voters is not None:
        told["total_voters"] = results.total_voters
    told["answers"] = [
        {"answer": places[voted.option], "voters": voted.voters or 0}
        | ({"correct": True} if voted.correct else {})
        for voted in results.results or ()
        if voted.option in places
    ]
    if results.solution:
        told["solution"] = clean_text(results.solution)
    return told


def _to_do(media: Any) -> Described:
    described = _titled("title", media.todo.title)
    described["tasks"] = [{"id": item.id, **_titled("title", item.title)} for item in media.todo.list]
    described.update(
        (flag, True) for flag in ("others_can_append", "others_can_complete") if getattr(media.todo, flag)
    )
    if media.completions:
        described["completions"] = [
            {"id": one.id, "by": str(marked(one.completed_by)), "date": plain(one.date)}
            for one in media.completions
        ]
    return described


def _titled(key: str, words: Any) -> Described:
    """A TextWithEntities."""
    if words is None:
        return {}
    entities = describe_entities(words.entities)
    return {key: clean_text(words.text)} | ({"entities": entities} if entities else {})


def _game(media: Any) -> Described:
    game = media.game
    words = {key: clean_text(getattr(game, key)) for key in ("short_name", "title", "description")}
    return {"id": game.id, **words}


def _story(media: Any) -> Described:
    """Whose story it is; the story itself may be told or not, and goes after a day."""
    return {"id": media.id, "channel_id": str(marked(media.peer))} | (
        {"via_mention": True} if media.via_mention else {}
    )


def _giveaway(media: Any) -> Described:
    described = _set_fields(media)
    described["channels"] = [str(marked_channel(channel)) for channel in media.channels]
    return described


def _giveaway_results(media: Any) -> Described:
    return _set_fields(media) | {"channel_id": str(marked_channel(media.channel_id))}


def _invoice(media: Any) -> Described:
    described = _set_fields(media)
    described.pop("photo", None)
    if media.extended_media is not None:
        described["extended_media"] = _extended(media.extended_media)
    return described


def _paid(media: Any) -> Described:
    return {"stars_amount": media.stars_amount, "items": [_extended(item) for item in media.extended_media]}


def _extended(item: Any) -> Described:
    """Media that has to be paid for: what it is once that is done, a hint of it before."""
    if isinstance(item, types.MessageExtendedMedia):
        kind, described = describe_media(item.media)
        return {"media_type": kind, **(described or {})}
    hints = {"width": item.w, "height": item.h, "duration": item.video_duration}
    return {"media_type": "preview"} | {key: value for key, value in hints.items() if value is not None}


_DESCRIPTIONS: dict[Any, tuple[str, Callable[[Any], Described]]] = {
    types.MessageMediaPhoto: ("photo", _photo),
    types.MessageMediaWebPage: ("webpage", _web_page),
    types.MessageMediaGeo: ("geo", _place),
    types.MessageMediaGeoLive: ("geo_live", _place),
    types.MessageMediaVenue: ("venue", _place),
    types.MessageMediaPoll: ("poll", _poll),
    types.MessageMediaToDo: ("to_do", _to_do),
    types.MessageMediaGame: ("game", _game),
    types.MessageMediaStory: ("story", _story),
    types.MessageMediaGiveaway: ("giveaway", _giveaway),
    types.MessageMediaGiveawayResults: ("giveaway_results", _giveaway_results),
    types.MessageMediaInvoice: ("invoice", _invoice),
    types.MessageMediaPaidMedia: ("paid_media", _paid),
}
