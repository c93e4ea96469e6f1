"""The AsyncAPI 3.0 document of what consumers find in RabbitMQ: channels, messages, headers and bindings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gateway.contracts.examples import DELETION, EDIT, PHOTO, PIN, POST
from gateway.contracts.schema import event_definitions, example
from gateway.event import SCHEMA_VERSION, Event, Kind
from gateway.event_message import EXCHANGE, headers_of

Part = dict[str, Any]

_VHOST = "telegram"
_BINDING = "0.3.0"
_DESCRIPTION = """\
Every change of every message that the gateway captures from Telegram.

A consumer binds a queue of its own to the topic exchange, by the keys of the chats that it wants. It may get
a message more than once, always under the same message id; the changes of one chat come in the order in which
they were captured. A message that it gives up on goes to the dead letters, where operators find it for 24
hours.
"""


class _Told(NamedTuple):
    """One kind of event: the end of its names and of its routing key, what it tells, and real ones."""

    kind: Kind
    name: str
    suffix: str
    summary: str
    examples: Sequence[Event]


_KINDS = (
    _Told("message.new", "New", "", "A message was posted, or found in the history.", (POST, PIN, PHOTO)),
    _Told("message.edited", "Edited", ".edited", "A message's content was edited.", (EDIT,)),
    _Told("message.deleted", "Deleted", ".deleted", "A message was deleted: its ids.", (DELETION,)),
)


def asyncapi_document() -> Part:
    """The document; it refers to nothing outside itself."""
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:telegram-gateway:messages:{SCHEMA_VERSION}",
        "info": {
            "title": "Telegram gateway",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "rabbitmq": {
                "host": "{host}:{port}",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "pathname": f"/{_VHOST}",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "5672"}},
                "security": [{"$ref": "#/components/securitySchemes/password"}],
            }
        },
        "channels": {f"messages{told.name}": _channel(told) for told in _KINDS}
        | {"deadLetters": _DEAD_LETTERS},
        "operations": {f"publish{told.name}": _operation(told) for told in _KINDS},
        "components": {
            "messages": {f"message{told.name}": _message(told) for told in _KINDS}
            | {"deadLetter": _DEAD_LETTER},
            "parameters": {
                "channelId": {"description": "The event's channel_id.", "examples": [POST.channel_id]}
            },
            "schemas": event_definitions("#/components/schemas/{name}")
            | {"Headers": _HEADERS, "DeadLetterHeaders": _DEAD_LETTER_HEADERS},
            "securitySchemes": {"password": {"type": "userPassword"}},
        },
    }


def _channel(told: _Told) -> Part:
    message = f"message{told.name}"
    return {
        "address": f"telegram.channel.{{channelId}}{told.suffix}",
        "summary": told.summary,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "parameters": {"channelId": {"$ref": "#/components/parameters/channelId"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": EXCHANGE,
                    "type": "topic",
                    "durable": True,
                    "autoDelete": False,
                    "vhost": _VHOST,
                },
                "bindingVersion": _BINDING,
            }
        },
    }


def _operation(told: _Told) -> Part:
    channel = f"#/channels/messages{told.name}"
    return {
        "action": "send",
        "channel": {"$ref": channel},
        "summary": told.summary,
        "messages": [{"$ref": f"{channel}/messages/message{told.name}"}],
        "bindings": {
            "amqp": {"deliveryMode": 2, "mandatory": True, "timestamp": True, "bindingVersion": _BINDING}
        },
    }


def _message(told: _Told) -> Part:
    return {
        "name": told.kind,
        "title": f"{told.name} message",
        "summary": f"{told.summary} The message id is the event's id, the timestamp when it happened.",
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/Headers"},
        "payload": {
            "allOf": [{"$ref": "#/components/schemas/Event"}, {"properties": {"kind": {"const": told.kind}}}]
        },
        "correlationId": {"description": "The event's id.", "location": "$message.header#/cloudEvents_id"},
        "examples": [
            {
                "name": event.message_type or "deletion",
                "headers": headers_of(event),
                "payload": example(event),
            }
            for event in told.examples
        ],
    }


def _text(description: str, **more: Any) -> Part:
    return {"type": "string", "description": description, **more}


_GATEWAYS: Part = {
    "x-source": {"const": "telegram-gateway", "description": "Who published it."},
    "x-channel-id": _text("The event's channel_id."),
    "x-account": _text("The event's account."),
    "x-kind": _text("The event's kind.", enum=sorted(told.kind for told in _KINDS)),
    "x-schema": {"const": SCHEMA_VERSION, "description": "The event's v."},
    "cloudEvents_specversion": {"const": "1.0", "description": "CloudEvents, binary mode."},
    "cloudEvents_id": _text("The event's id."),
    "cloudEvents_source": _text(
        "/telegram/ and the chat, with account_scope and a slash before it if not 0."
    ),
    "cloudEvents_type": _text("The event's kind.", enum=sorted(told.kind for told in _KINDS)),
    "cloudEvents_subject": _text("The event's message_id."),
    "cloudEvents_time": _text(
        "When it happened: edit_date, telegram_date or received_at.", format="date-time"
    ),
}
_HEADERS: Part = {
    "type": "object",
    "required": list(_GATEWAYS),
    "properties": _GATEWAYS
    | {
        "x-replay": {"const": True, "description": "Delivered once more because an operator asked for it."},
        "x-replayed-at": _text("When that was.", format="date-time"),
        "x-requeued": {
            "type": "integer",
            "minimum": 1,
            "description": "How often it was a dead letter and given back.",
        },
    },
}
_DEAD_LETTER_HEADERS: Part = {
    "type": "object",
    "description": "Those of the message, and why it is here: from the consumer library, or from RabbitMQ.",
    "anyOf": [{"required": ["x-queue", "x-reason"]}, {"required": ["x-death"]}],
    "properties": {
        "x-consumer": _text("The consumer that gave up on it."),
        "x-queue": _text("The queue that it goes back to when it is requeued."),
        "x-reason": _text("Why the consumer gave up on it."),
        "x-attempts": {"type": "integer", "description": "How often the consumer tried."},
        "x-parked-at": _text("When the consumer gave up on it.", format="date-time"),
        "x-death": {"type": "array", "description": "RabbitMQ's own record, the newest first."},
    },
}
_DEAD_LETTERS: Part = {
    "address": "telegram.messages.dlq",
    "summary": "What consumers gave up on, for 24 hours and at most 10 000 messages.",
    "messages": {"deadLetter": {"$ref": "#/components/messages/deadLetter"}},
    "bindings": {
        "amqp": {
            "is": "queue",
            "queue": {
                "name": "telegram.messages.dlq",
                "durable": True,
                "exclusive": False,
                "autoDelete": False,
                "vhost": _VHOST,
            },
            "bindingVersion": _BINDING,
        }
    },
}
_DEAD_LETTER: Part = {
    "name": "dead.letter",
    "title": "Dead letter",
    "summary": "A message as its consumer got it, with the reason in its headers.",
    "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
    "payload": {"description": "What the consumer got: an event, unless it gave up because it was none."},
}
