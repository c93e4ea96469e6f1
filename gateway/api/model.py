"""The base of every JSON document of the API: camelCase names, moments in UTC with microseconds."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel


def rfc3339(moment: datetime) -> str:
    """`moment` in UTC with microseconds, always all six: 2025-11-03T14:05:09.000000Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _in_words(value: Any) -> Any:
    # A bare number would be taken for Unix seconds, or milliseconds if it is large enough.
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC3339.match(value)):
        return value
    raise ValueError("write a moment with its zone, such as 2025-11-03T14:05:09Z")


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")

# A moment in a request: with a zone, and not as a number.
GivenMoment = Annotated[AwareDatetime, BeforeValidator(_in_words)]
# A moment in an answer, in UTC.
Moment = Annotated[
    AwareDatetime,
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2025-11-03T14:05:09.123456Z"]}),
]


class ApiModel(BaseModel):
    """A document whose fields are snake_case in Python and camelCase in JSON; unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, serialize_by_alias=True
    )
