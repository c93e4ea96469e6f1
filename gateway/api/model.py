"""The base of every JSON document of the API: camelCase names, moments in UTC with microseconds."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel


def rfc3339(moment: datetime) -> str:
    """`moment` in UTC with microseconds, always all six: 2025-11-03T14:05:09.000000Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# A moment in UTC, in an answer. In a request it is `pydantic.AwareDatetime`: one without a zone is refused.
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
