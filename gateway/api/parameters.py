"""Parameters that several operations share, and what they must be like."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator

from gateway.api.model import GivenMoment

CHANNEL_ID = r"^-?[1-9]\d{0,18}$"
MOST_MESSAGES, USUAL_MESSAGES = 1000, 100  # of a page
CONSUMER = r"^[a-z0-9][a-z0-9_-]{0,63}$"


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is not within the years 1 to 9999 in UTC") from None


def _words(text: str) -> str:
    if "\0" in text or not text.strip():
        raise ValueError("must hold words")
    return text.strip()


ChannelPath = Annotated[
    str,
    Path(alias="channelId", pattern=CHANNEL_ID, description="A marked chat id.", examples=["-1001649127710"]),
]
ChannelQuery = Annotated[
    str | None,
    Query(
        alias="channelId", pattern=CHANNEL_ID, description="A marked chat id.", examples=["-1001649127710"]
    ),
]
MessagePath = Annotated[
    int, Path(alias="messageId", ge=1, lt=1 << 63, description="Its id in the chat.", examples=[4711])
]
ScopeQuery = Annotated[
    int,
    Query(
        alias="accountScope",
        ge=0,
        lt=1 << 63,
        description="The user id of the account, in private chats and basic groups; else 0.",
        examples=[0],
    ),
]
ConsumerQuery = Annotated[
    str | None, Query(pattern=CONSUMER, description="A consumer's name.", examples=["tp-capital"])
]
SinceQuery = Annotated[
    GivenMoment | None,
    AfterValidator(lambda moment: moment and _in_utc(moment)),
    Query(alias="from", description="Messages dated then or later.", examples=["2026-05-01T00:00:00Z"]),
]
UntilQuery = Annotated[
    GivenMoment | None,
    AfterValidator(lambda moment: moment and _in_utc(moment)),
    Query(alias="to", description="Messages dated before.", examples=["2026-06-01T00:00:00Z"]),
]
WordsQuery = Annotated[
    str | None,
    AfterValidator(lambda text: text and _words(text)),
    Query(
        min_length=1,
        max_length=256,
        description="Words of text or caption, in any form, accents or not; a quoted phrase, `or`, `-no`.",
        examples=["compra petr4"],
    ),
]
LimitQuery = Annotated[
    int, Query(ge=1, le=MOST_MESSAGES, description="How many at most.", examples=[USUAL_MESSAGES])
]
CursorQuery = Annotated[
    str | None,
    Query(max_length=512, description="A page's `nextCursor`, to be asked with the same other parameters."),
]
