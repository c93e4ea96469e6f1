"""Events as the API streams them: written as messages are elsewhere, the same bytes however an event came.

RabbitMQ and PostgreSQL keep the keys of nested objects in different orders, so they are sorted here.
"""

import msgspec

from gateway.api.message_model import message_fields
from gateway.event import Event
from gateway.read import StoredMessage

_encoder = msgspec.json.Encoder(order="deterministic")
_OF_STORED_MESSAGES = ("deletedAt", "processing", "highlight")


def camel_json(event: Event) -> bytes:
    """The published event's JSON, with camelCase names."""
    fields = message_fields(StoredMessage(event))
    for name in _OF_STORED_MESSAGES:
        del fields[name]
    return _encoder.encode({"v": event.v, **fields})
