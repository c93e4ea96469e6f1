"""Describes a message's media and entities as plain JSON values: metadata only, never the bytes.

Access hashes and file references are left out: they are the account's, and of no use to a reader.
"""

import re
from datetime import UTC, datetime
from typing import Any

from telethon.tl import types

_PRIVATE_FIELDS = frozenset({"access_hash", "file_reference", "stripped_thumb", "thumbs", "video_thumbs"})
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def snake_case(name: str) -> str:
    """`ChatMigrateTo` → `chat_migrate_to`."""
    return _CAMEL.sub("_", name).lower()


def plain(value: Any) -> Any:
    """A TL object's dictionary as JSON values: dates as RFC 3339 text, bytes and private fields left out."""
    if isinstance(value, dict):
        return {
            key: plain(item)
            for key, item in value.items()
            if item is not None and key not in _PRIVATE_FIELDS and not isinstance(item, bytes)
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value if not isinstance(item, bytes)]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return clean_text(value) if isinstance(value, str) else value


def clean_text(text: str) -> str:
    """`text` with each NUL and lone surrogate as U+FFFD.

    PostgreSQL refuses NUL in text and jsonb, JSON and UTF-8 have no lone surrogates. Each is one UTF-16
    unit like its replacement, so entity offsets stay right.
    """
    if "\0" in text:
        text = text.replace("\0", "�")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def describe_entities(entities: list[Any] | None) -> list[dict[str, Any]] | None:
    """Message entities; offsets and lengths count UTF-16 units, as Telegram's do."""
    if not entities:
        return None
    described = []
    for entity in entities:
        fields = plain(entity.to_dict())
        name = fields.pop("_").removeprefix("Input").removeprefix("MessageEntity")
        described.append({"type": snake_case(name), **fields})
    return described


def describe_media(media: Any) -> tuple[str | None, dict[str, Any] | None]:
    """The media's type and its metadata; (None, None) where there is none."""
    if media is None or isinstance(media, types.MessageMediaEmpty):
        return None, None
    if isinstance(media, types.MessageMediaPhoto):
        return "photo", _photo(media)
    if isinstance(media, types.MessageMediaDocument):
        return _document(media)
    fields = plain(media.to_dict())
    name = snake_case(fields.pop("_").removeprefix("MessageMedia"))
    if name == "web_page":
        page = fields.get("webpage", {})
        wanted = ("id", "url", "display_url", "type", "site_name", "title", "description", "author")
        return "webpage", {key: page[key] for key in wanted if key in page}
    return name, fields


def _photo(media: Any) -> dict[str, Any]:
    described: dict[str, Any] = {}
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


def _document(media: Any) -> tuple[str, dict[str, Any]]:
    document = media.document
    if not isinstance(document, types.Document):
        return "document", _with_flags({}, media)
    kind = "document"
    described: dict[str, Any] = {
        "id": document.id,
        "dc_id": document.dc_id,
        "mime_type": document.mime_type,
        "size": document.size,
    }
    for attribute in document.attributes:
        if isinstance(attribute, types.DocumentAttributeFilename):
            described["file_name"] = clean_text(attribute.file_name)
        elif isinstance(attribute, types.DocumentAttributeVideo):
            kind = (
                kind
                if kind in ("animation", "sticker")
                else "video_note"
                if attribute.round_message
                else "video"
            )
            described.update(duration=attribute.duration, width=attribute.w, height=attribute.h)
        elif isinstance(attribute, types.DocumentAttributeAudio):
            kind = "voice" if attribute.voice else "audio"
            described["duration"] = attribute.duration
            for key in ("title", "performer"):
                if value := getattr(attribute, key):
                    described[key] = clean_text(value)
        elif isinstance(attribute, types.DocumentAttributeAnimated):
            kind = "animation"
        elif isinstance(attribute, types.DocumentAttributeSticker):
            kind = "sticker"
            described["alt"] = attribute.alt
        elif isinstance(attribute, types.DocumentAttributeImageSize):
            described.update(width=attribute.w, height=attribute.h)
    return kind, _with_flags(described, media)


def _with_flags(described: dict[str, Any], media: Any) -> dict[str, Any]:
    if media.spoiler:
        described["spoiler"] = True
    if media.ttl_seconds:
        described["ttl_seconds"] = media.ttl_seconds
    return described
