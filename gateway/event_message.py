"""An event as a message of RabbitMQ: where it is published, under which key, with which headers."""

from datetime import UTC, datetime
from typing import Any

from gateway.event import Event

EXCHANGE = "telegram.messages"
KEY_SUFFIX = {"message.new": "", "message.edited": ".edited", "message.deleted": ".deleted"}  # by kind


def routing_key(channel_id: str, kind: str) -> str:
    """The routing key of a chat's events of one kind."""
    return f"telegram.channel.{channel_id}{KEY_SUFFIX[kind]}"


def headers_of(event: Event) -> dict[str, Any]:
    """All headers of an event's message: ours, and CloudEvents' in binary mode."""
    return chat_headers(event) | {
        "cloudEvents_id": event.id,
        "cloudEvents_subject": str(event.message_id),
        "cloudEvents_time": rfc3339(happened_at(event)),
    }


def chat_headers(event: Event) -> dict[str, Any]:
    """Those that are the same for all events of a chat, kind and account."""
    return {
        "x-source": "telegram-gateway",
        "x-channel-id": event.channel_id,
        "x-account": event.account,
        "x-kind": event.kind,
        "x-schema": event.v,
        "cloudEvents_specversion": "1.0",
        "cloudEvents_source": f"/telegram/{event.chat_key}",
        "cloudEvents_type": event.kind,
    }


def happened_at(event: Event) -> datetime:
    """When what the event tells of happened, or was received where Telegram does not say."""
    return event.edit_date or event.telegram_date or event.received_at


def rfc3339(moment: datetime) -> str:
    """A moment in UTC, with a Z."""
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
