"""How commands take a moment: a date and time, or how long ago."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from gateway.event import utc_now

_AGO = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Moment(click.ParamType[datetime]):
    """`2026-11-21`, `2026-11-21T13:00+01:00` (UTC where no zone is given), or `2h`, `7d` ago."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        ago = _AGO.fullmatch(value)
        if ago is not None:
            return utc_now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date and no time ago; write 2026-11-21, 2026-11-21T13:00 or 7d")
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


MOMENT = Moment()
