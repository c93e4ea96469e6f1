"""World values as Telegram's objects (layer 229), as far as they look the same to every account."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from telethon.tl import types

from gateway.sandbox.messages import Action, Entity, Media

DC_ID = 2
TOPIC_COLOUR = 0x6FB9F0

_ENTITY_EXTRAS = {
    "TextUrl": "url",
    "MentionName": "user_id",
    "Pre": "language",
    "CustomEmoji": "document_id",
}


def entities(values: tuple[Entity, ...]) -> list[Any] | None:
    """MessageEntity objects; None for none, as the field is optional."""
    return [_entity(value) for value in values] or None


def _entity(value: Entity) -> Any:
    name = "".join(part.capitalize() for part in value.type.split("_"))
    arguments: dict[str, Any] = {"offset": value.offset, "length": value.length}
    if name in _ENTITY_EXTRAS:
        extra = _ENTITY_EXTRAS[name]
        arguments[extra] = getattr(value, extra) or (0 if extra.endswith("_id") else "")
    return getattr(types, f"MessageEntity{name}")(**arguments)


def entities_from(objects: list[Any] | None) -> tuple[Entity, ...]:
    """The world's entities out of what a client sent."""
    return tuple(
        Entity(
            snake(type(entity).__name__.removeprefix("InputMessageEntity").removeprefix("MessageEntity")),
            entity.offset,
            entity.length,
            url=getattr(entity, "url", None),
            user_id=_user_id(getattr(entity, "user_id", None)),
            language=getattr(entity, "language", None),
            document_id=getattr(entity, "document_id", None),
        )
        for entity in objects or ()
    )


def _user_id(value: Any) -> int | None:
    if value is None or isinstance(value, int):
        return value
    user_id: int | None = getattr(value, "user_id", None)
    return user_id


def timestamp(date: datetime | None) -> int:
    """A date out of a request; clients that give none send the epoch."""
    return int(date.timestamp()) if date is not None else 0


def snake(name: str) -> str:
    """PinMessage → pin_message."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def media(value: Media, access_hash: int, reference: bytes) -> Any:
    """A MessageMedia object."""
    if value.verbatim is not None:
        return value.verbatim
    if value.kind == "photo":
        return types.MessageMediaPhoto(photo=photo(value, access_hash, reference))
    if value.kind == "document":
        return types.MessageMediaDocument(document=document(value, access_hash, reference))
    display = value.url.removeprefix("https://").removeprefix("http://")
    return types.MessageMediaWebPage(
        types.WebPage(value.id, value.url, display, 0, type="article", title=value.title or None)
    )


def photo(value: Media, access_hash: int, reference: bytes) -> Any:
    sizes = [types.PhotoSize("x", 1, 1, len(value.data))]
    return types.Photo(value.id, access_hash, reference, value.date, sizes, DC_ID)


def document(value: Media, access_hash: int, reference: bytes) -> Any:
    names = [types.DocumentAttributeFilename(value.file_name)]
    return types.Document(
        value.id, access_hash, reference, value.date, value.mime_type, len(value.data), DC_ID, names
    )


def action(value: Action) -> Any:
    """A MessageAction object."""
    match value.name:
        case "ChatMigrateTo":
            return types.MessageActionChatMigrateTo(value.peer_id)
        case "ChannelMigrateFrom":
            return types.MessageActionChannelMigrateFrom(value.title, value.peer_id)
        case "ChatAddUser":
            return types.MessageActionChatAddUser(list(value.users))
        case "ChatDeleteUser":
            return types.MessageActionChatDeleteUser(value.users[0])
        case "PinMessage":
            return types.MessageActionPinMessage()
        case "TopicCreate":
            return types.MessageActionTopicCreate(value.title, TOPIC_COLOUR)
        case "TopicEdit":
            return types.MessageActionTopicEdit(value.title or None, closed=value.closed)
        case "ChatEditTitle" | "ChannelCreate":
            return getattr(types, f"MessageAction{value.name}")(value.title)
    raise ValueError(f"no service message is called {value.name!r}")


def reactions(counts: tuple[tuple[str, int], ...]) -> Any:
    """MessageReactions; None for none."""
    if not counts:
        return None
    return types.MessageReactions(
        [types.ReactionCount(types.ReactionEmoji(emoji), count) for emoji, count in counts]
    )


def notify_settings() -> Any:
    return types.PeerNotifySettings()
