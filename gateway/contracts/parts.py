"""What is inside the fields of an event that are objects: described here, because no type says it.

None of these members is always there, and others may be: Telegram's kinds are many, and it adds to them.
"""

from typing import Any


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _number(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _flag(description: str) -> dict[str, Any]:
    return {"const": True, "description": description}


_REPLY_TO = {
    "message_id": _number("The message that is answered."),
    "channel_id": _text("The chat of that message, or story, where it is another one."),
    "top_message_id": _number("The message that the thread began with."),
    "quote": _text("The part of that message that is quoted."),
    "story_id": _number("The story that is answered."),
}
_FORWARD = {
    "date": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "When the original was posted: UTC, in whole seconds.",
    },
    "from": {
        "type": "object",
        "description": "Who wrote the original; only a name where the author hides behind one.",
        "properties": {
            "id": _number("The user's id, or the marked id of the chat."),
            "name": {"type": ["string", "null"], "description": "First and last name, or the chat's title."},
            "username": {"type": ["string", "null"], "description": "Public name without @."},
        },
    },
    "message_id": _number("The original's number in its channel."),
    "post_author": _text("The signature under the original post."),
}
_ENTITY = {
    "type": _text("What it is: bold, url, text_url, mention, hashtag, code and others; expect unknown ones."),
    "offset": _number("Where it begins in text or caption, in UTF-16 units."),
    "length": _number("How long it is, in UTF-16 units."),
    "url": _text("The address, where type is text_url."),
    "language": _text("The programming language, where type is pre."),
}
_MEDIA = {
    "id": _number("The same for the same file or page wherever it is posted; 64 bits."),
    "mime_type": _text("The type of the file as its sender stated it."),
    "file_name": _text("The name of the file as its sender gave it: never use it as a path."),
    "size": _number("Bytes."),
    "width": _number("Pixels."),
    "height": _number("Pixels."),
    "duration": {"type": ["number", "null"], "description": "Seconds."},
    "spoiler": _flag("Covered until the reader uncovers it."),
    "ttl_seconds": _number("Seconds after which it destroys itself once seen."),
    "latitude": {"type": ["number", "null"], "description": "Degrees."},
    "longitude": {"type": ["number", "null"], "description": "Degrees."},
}
_METADATA = {
    "action": _text("What a service message tells, such as pin_message or chat_edit_title."),
    "action_data": {"type": "object", "description": "What Telegram says about that action."},
    "migrated_to": _text("The supergroup that this basic group has become."),
    "migrated_from": _text("The basic group that this supergroup was."),
    "views": _number("How often the post had been seen when it was captured."),
    "forwards": _number("How often it had been forwarded when it was captured."),
    "post_author": _text("The signature under the post."),
    "via_bot_id": _number("The bot through which it was written."),
    "ttl_period": _number("Seconds after which Telegram deletes the message."),
    "out": _flag("The account itself wrote it."),
    "silent": _flag("Sent without a notification."),
    "pinned": _flag("Pinned when it was captured."),
    "mentioned": _flag("The account is mentioned in it."),
    "noforwards": _flag("The chat forbids forwarding."),
    "from_scheduled": _flag("Its sender had scheduled it."),
    "automatic_forward": _flag("The copy of a channel's post in its discussion group."),
    "comments": {
        "type": "object",
        "description": "Where the post is discussed.",
        "properties": {"channel_id": _text("The discussion group.")},
    },
    "not_understood": _text("The raw message in base64, where this version of the gateway cannot read it."),
}
OBJECTS: dict[str, dict[str, Any]] = {
    "reply_to": _REPLY_TO,
    "forward": _FORWARD,
    "media": _MEDIA,
    "metadata": _METADATA,
}
ITEMS: dict[str, dict[str, Any]] = {"entities": _ENTITY}
