"""Telegram's values as JSON values that every sink accepts: what `convert` and `media` fill events with."""

import math
import re
from datetime import UTC, datetime
from typing import Any

# Of no use to a reader: secrets of the account, or pictures as bytes.
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
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no such number
    return clean_text(value) if isinstance(value, str) else value


def clean_text(text: str) -> str:
    """`text` with each NUL and lone surrogate as U+FFFD.

    PostgreSQL refuses NUL in text and jsonb, JSON and UTF-8 have no lone surrogates. Each is one UTF-16
    unit like its replacement, so entity offsets stay right.
    """
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
