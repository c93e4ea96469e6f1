"""Events as the API shows them: the published JSON with camelCase names, the same bytes however it came.

Redis, RabbitMQ and PostgreSQL keep the keys of nested objects in different orders, so they are sorted here.
"""

from functools import lru_cache
from typing import Any

import msgspec
from pydantic.alias_generators import to_camel

from gateway.event import Event

_encoder = msgspec.json.Encoder(order="deterministic")
_camel = lru_cache(maxsize=4096)(to_camel)


def camel_json(event: Event) -> bytes:
    """The event's JSON with camelCase names, those inside nested objects included."""
    return _encoder.encode(_renamed(msgspec.to_builtins(event)))


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {_camel(name): _renamed(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each) for each in value]
    return value
