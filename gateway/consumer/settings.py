"""What a consumer is told: who it is, what it wants, how hard it tries, and where the servers are."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from gateway.errors import ConfigurationError
from gateway.event import Event, Kind

if TYPE_CHECKING:
    from gateway.settings import Settings

StateStore = Literal["database", "redis", "none"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_CHAT = re.compile(r"(\d+/)?-?\d+")


@dataclass(frozen=True, kw_only=True)
class ConsumerSettings:
    """One consumer. `name` is its identity: queue, processing state, cache keys and metrics all carry it.

    `chats` are marked ids, or `scope/id` in chats that number their messages per account; none means all.
    With `queue_per_chat` each of them has a queue of its own, so that none can hold up another.

    `state` says where it is remembered which events are done. `database` is the one that decides; `redis` is
    a hint that lasts for `dedup_ttl`, for consumers whose effects may happen twice now and then; `none`, for
    those that do not care.
    """

    name: str
    chats: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ("message.new",)
    state: StateStore = "database"

    queue_per_chat: bool = False
    prefetch: int = 10
    set_aside: int = 1000  # messages of chats that are waiting for a retry, beyond `prefetch`
    concurrency: int = 10  # chats at a time
    attempts: int = 3
    first_delay: timedelta = timedelta(seconds=1)
    longest_delay: timedelta = timedelta(minutes=1)
    handler_limit: timedelta = timedelta(minutes=5)
    stop_limit: timedelta = timedelta(seconds=10)
    dedup_ttl: timedelta = timedelta(hours=2)

    poll_interval: timedelta = timedelta(seconds=1)
    idle_interval: timedelta = timedelta(seconds=5)  # what `poll_interval` grows to while nothing comes
    database_polls: int = 10  # every how many polls the database is asked, though Redis answers
    lookback: timedelta = timedelta(days=1)  # how long ago an event may have been received
    page: int = 100
    catch_up_interval: timedelta = timedelta(seconds=30)  # hybrid: between polls while the queue delivers
    grace: timedelta = timedelta(seconds=30)  # hybrid: what the queue has this long to deliver

    rabbitmq_url: str | None = field(default=None, repr=False)
    rabbitmq_password: str | None = field(default=None, repr=False)
    database_dsn: str | None = field(default=None, repr=False)
    database_password: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    redis_password: str | None = field(default=None, repr=False)
    redis_sentinels: tuple[str, ...] = ()
    redis_sentinel_password: str | None = field(default=None, repr=False)
    redis_master: str = "telegram"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"{self.name!r} is not a consumer's name; use lower-case letters, digits, '-' and '_'"
            )
        for chat in self.chats:
            if not _CHAT.fullmatch(chat):
                raise ConfigurationError(
                    f"{chat!r} is not a chat of consumer {self.name}; write its marked id"
                )
        if unknown := set(self.kinds) - set(get_args(Kind)):
            raise ConfigurationError(
                f"consumer {self.name} wants unknown kinds: {', '.join(sorted(unknown))}"
            )
        if not self.kinds:
            raise ConfigurationError(f"consumer {self.name} wants no kind of event; name at least one")
        if self.queue_per_chat and not self.chats:
            raise ConfigurationError(f"consumer {self.name} wants a queue per chat; name its chats")
        for number in ("prefetch", "concurrency", "attempts", "database_polls", "page"):
            if getattr(self, number) < 1:
                raise ConfigurationError(f"consumer {self.name}: {number} must be at least 1")
        if self.state == "database" and self.database_dsn is None:
            raise ConfigurationError(
                f"consumer {self.name} keeps its state in the database; give database_dsn, or another state"
            )
        if self.state == "redis" and self.redis_url is None and not self.redis_sentinels:
            raise ConfigurationError(f"consumer {self.name} keeps its state in Redis; give redis_url")

    @classmethod
    def from_settings(cls, settings: "Settings", name: str, **options: Any) -> Self:
        """The gateway's own servers, as its settings name them; `options` are fields of this class."""

        def plain(secret: Any) -> str | None:
            return secret.get_secret_value() if secret is not None else None

        servers = {
            "rabbitmq_url": plain(settings.rabbitmq_url) if settings.enable_queue else None,
            "rabbitmq_password": plain(settings.rabbitmq_password),
            "database_dsn": plain(settings.db_dsn) if settings.enable_db else None,
            "database_password": plain(settings.db_password),
            "redis_url": plain(settings.redis_url) if settings.enable_cache else None,
            "redis_password": plain(settings.redis_password),
            "redis_sentinels": settings.redis_sentinels if settings.enable_cache else (),
            "redis_sentinel_password": plain(settings.redis_sentinel_password),
            "redis_master": settings.redis_master,
        }
        return cls(name=name, **(servers | options))

    @classmethod
    def from_environment(cls, name: str, **options: Any) -> Self:
        """As `from_settings`, with the `TELEGRAM_…` variables and systemd credentials of this process."""
        from gateway.settings import load_settings

        return cls.from_settings(load_settings(), name, **options)

    @property
    def queue(self) -> str:
        """The consumer's queue, or what the names of its queues start with."""
        return f"telegram.consumer.{self.name}"

    def wants(self, event: Event) -> bool:
        """Whether the event is of the kinds and chats that were asked for."""
        return event.kind in self.kinds and (
            not self.chats or event.channel_id in self.chats or event.chat_key in self.chats
        )
