"""What TP Capital's worker is told: `TP_CAPITAL_…` for itself, the gateway's `TELEGRAM_…` for the servers."""

import re
from datetime import timedelta
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.consumer import ConsumerSettings
from gateway.errors import ConfigurationError
from gateway.settings import Address, CommaList, Duration, Settings

CONSUMER = "tp-capital"
DATABASE_POLLS = 5  # edits and deletions are found in the database only, so they are seen this much later

_CHAT = re.compile(r"(\d+/)?-?\d+")


class TPCapitalSettings(BaseSettings):
    """All settings, by their environment name without the `TP_CAPITAL_` prefix, in lower case."""

    model_config = SettingsConfigDict(
        env_prefix="TP_CAPITAL_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    mode: Literal["polling", "queue", "hybrid"] = "hybrid"
    chats: CommaList = ()  # empty: all
    metrics_addr: Address = ("127.0.0.1", 4011)
    poll_interval: Duration = Field(default=timedelta(seconds=1), gt=timedelta(0))
    catch_up_interval: Duration = Field(default=timedelta(seconds=30), gt=timedelta(0))
    lookback: Duration = Field(default=timedelta(days=1), gt=timedelta(0))
    attempts: int = Field(default=3, ge=1)
    first_delay: Duration = Field(default=timedelta(seconds=1), gt=timedelta(0))

    @field_validator("chats", mode="after")
    @classmethod
    def _chat_ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if tuple(item.lower() for item in value) == ("all",):
            return ()
        for item in value:
            if not _CHAT.fullmatch(item):
                raise ValueError(f"{item!r} is no chat's id, such as -1001649127710; list ids, or write all")
        return value

    def consumer(self, gateway: Settings) -> ConsumerSettings:
        """The consumer library's settings: the gateway's servers, and how this worker wants to be served."""
        return ConsumerSettings.from_settings(
            gateway,
            CONSUMER,
            chats=self.chats,
            kinds=("message.new", "message.edited", "message.deleted"),
            poll_interval=self.poll_interval,
            idle_interval=self.poll_interval,
            database_polls=DATABASE_POLLS,
            catch_up_interval=self.catch_up_interval,
            lookback=self.lookback,
            attempts=self.attempts,
            first_delay=self.first_delay,
        )


def load_tp_capital_settings() -> TPCapitalSettings:
    """Reads the environment. Raises ConfigurationError with one line for all bad settings."""
    try:
        return TPCapitalSettings()
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = "".join(str(part) for part in problem["loc"][:1]).upper()
            lines.append(f"TP_CAPITAL_{name}: {problem['msg'].removeprefix('Value error, ')}")
        raise ConfigurationError("; ".join(lines)) from None
