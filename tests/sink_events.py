"""Events for tests that start at the journal: what the Telegram side would have put there."""

from datetime import datetime, timedelta
from typing import Any

from gateway.event import Event, Sender, content_hash, delete_id, edit_id, encode, new_id, utc_now
from gateway.journal import Record

CHANNEL = "-1001649127710"


def new(message: int, *, channel: str = CHANNEL, scope: int = 0, **fields: Any) -> Event:
    """A message, posted now unless `fields` says otherwise."""
    now = utc_now()
    values: dict[str, Any] = {
        "id": new_id(scope, channel, message),
        "kind": "message.new",
        "account": "main",
        "account_scope": scope,
        "channel_id": channel,
        "chat_type": "private" if scope else "channel",
        "chat_title": "Sinais da Bolsa",
        "message_id": message,
        "sender": Sender(id=7, name="Ana"),
        "text": f"COMPRA PETR4 @ 31,20 — alvo 32,10 n.º {message}",
        "telegram_date": now,
        "received_at": now,
        "source": "mtproto",
        "message_type": "private_message" if scope else "channel_post",
    }
    return Event(**(values | fields))


def edited(message: int, text: str, seconds: float = 0, **fields: Any) -> Event:
    """An edit, made `seconds` from now."""
    at = utc_now() + timedelta(seconds=seconds)
    original = new(message, **fields)
    identity = edit_id(original.account_scope, original.channel_id, message, at, content_hash(text))
    return new(
        message, **(fields | {"id": identity, "kind": "message.edited", "edit_date": at, "text": text})
    )


def deleted(message: int, *, channel: str = CHANNEL, scope: int = 0) -> Event:
    """A deletion, which carries the ids only."""
    return Event(
        id=delete_id(scope, channel, message),
        kind="message.deleted",
        account="main",
        account_scope=scope,
        channel_id=channel,
        chat_type="private" if scope else "channel",
        message_id=message,
        received_at=utc_now(),
        source="mtproto",
    )


def records(*events: Event, first_seq: int = 1) -> list[Record]:
    """The events as the journal would hand them to a sink."""
    return [Record(seq, encode(event)) for seq, event in enumerate(events, first_seq)]


def days_ago(days: float) -> datetime:
    return utc_now() - timedelta(days=days)
