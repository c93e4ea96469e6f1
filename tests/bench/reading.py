"""The calls of the read side, each in turn with a bare one: what they take inside the API's process, and what
those of the consumer library take inside a consumer's.

A message is hot while Redis holds it, cold when the database must be asked; a cached answer is the API's own
from a moment ago.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from gateway.consumer.database import Database
from gateway.consumer.hints import Cache, Hints
from gateway.consumer.settings import ConsumerSettings
from gateway.consumer.state import DatabaseState
from gateway.event import Event
from gateway.read import HotMessages, MessageReader
from gateway.sinks.redis_script import message_key, recent_key
from tests.bench.api import Api
from tests.bench.filling import CHATS, CONSUMER, HOT_CHATS, chat_of
from tests.bench.report import quantile

PAGE = 100  # messages
DATABASE_CONNECTIONS = 4
FRESH_REQUESTS = 400  # that differ, so that none is answered from the response cache
_SELECT = """
SELECT status, attempts, error FROM telegram_gateway.message_processing
WHERE (consumer, account_scope, channel_id, message_id) = ($1, 0, $2, $3)
"""
_SELECT_PAGE = """
SELECT * FROM telegram_gateway.messages WHERE channel_id = $1 AND telegram_date < $2
ORDER BY telegram_date DESC LIMIT 100
"""

HOT_PAGE = "GET /api/messages, 100 of a chat, hot (Redis)"
HOT_ONE = "GET /api/messages, 1 of a chat, hot (Redis)"
HOT_MESSAGE = "GET one message, hot (Redis)"
CACHED_PAGE = "GET /api/messages, 100, cached (its answer in Redis)"
COLD_PAGE = "GET /api/messages, 100 of a chat, cold (database)"
COLD_PAGE_OF_ALL = "GET /api/messages, 100 of all chats, cold (database)"
COLD_MESSAGE = "GET one message, cold (database)"
SEARCH = "GET /api/messages?search= a rare word (database)"
UNPROCESSED = "GET unprocessed, 100 (database)"
MARK_ONE = "POST mark-processed, 1"
MARK_PAGE = "POST mark-processed, 100"
POLL_REDIS = "library: poll of 100 from Redis, with their marks"
POLL_DATABASE = "library: poll of 100 from the database"
DEDUP_REDIS = "library: dedup check in Redis"
DEDUP_DATABASE = "library: dedup check in the database"


@dataclass(frozen=True)
class Pair:
    """Milliseconds of a call and of the bare one beside it, and what that was."""

    ours: list[float]
    bare: list[float]
    beside: str

    @property
    def times(self) -> float:
        """The medians' ratio."""
        return (quantile(self.ours, 0.5) or 0) / (quantile(self.bare, 0.5) or 1)


class Calls:
    """The requests of each kind. `rows` is how many messages are stored besides the hot ones."""

    def __init__(self, api: Api, rows: int, newest: list[int]) -> None:
        self._api = api
        self._rows = rows
        self._newest = newest
        self._marked = 0
        self._fresh = 0

    async def requests(self) -> dict[str, tuple[list[str], str, str]]:
        """By name: ours, the bare one, and what that does."""
        api, chats = self._api, [chat_of(number) for number in range(HOT_CHATS)]
        page = await api.ask(api.get(f"/api/messages?limit={PAGE}&to={self._moment()}"))
        cached = f"/api/messages?limit={PAGE}&to={self._moment(0)}"
        cursor = (await api.ask(api.get(cached)))["nextCursor"]
        old = page["items"]
        newest = self._newest[0]
        one = (api.get("/bare/get", "bare"), "GET of one body")
        hundred = (api.get("/bare/newest", "bare"), "pipelined ZREVRANGE and MGET of 100")
        row = (api.get("/bare/select", "bare"), "SELECT of one row by its key")
        rows = (api.get("/bare/page", "bare"), "SELECT of 100 rows")

        def get(*paths: str) -> list[str]:
            return [api.get(path, "ours") for path in paths]

        return {
            HOT_PAGE: (get(*(f"/api/messages?channelId={chat}&limit={PAGE}" for chat in chats)), *hundred),
            HOT_ONE: (get(*(f"/api/messages?channelId={chat}&limit=1" for chat in chats)), *one),
            HOT_MESSAGE: (get(*(f"/api/messages/{chat}/{newest}" for chat in chats)), *one),
            CACHED_PAGE: (get(f"{cached}&cursor={cursor}"), *one),
            COLD_PAGE: (get(*self._cold(chats)), *rows),
            COLD_PAGE_OF_ALL: (get(*self._cold([None])), *rows),
            COLD_MESSAGE: (
                get(*(f"/api/messages/{each['channelId']}/{each['messageId']}" for each in old)),
                *row,
            ),
            SEARCH: (get(*self._searches()), *row),
            UNPROCESSED: (get(f"/api/messages/unprocessed?consumer={CONSUMER}&limit={PAGE}"), *rows),
            MARK_ONE: (self._marks(1), api.post("/bare/insert/1", None, "bare"), "INSERT of one row"),
            MARK_PAGE: (
                self._marks(PAGE),
                api.post(f"/bare/insert/{PAGE}", None, "bare"),
                "INSERT of 100 rows",
            ),
        }

    async def measure(self, rounds: int) -> dict[str, Pair]:
        """Every kind, `rounds` times."""
        pairs = {}
        for name, (ours, bare, beside) in (await self.requests()).items():
            times, _ = await self._api.alternate({"ours": ours, "bare": [bare]}, rounds)
            pairs[name] = Pair(times["ours"], times["bare"], beside)
        return pairs

    def _moment(self, number: int | None = None) -> str:
        """A moment some weeks ago that nobody asked for before."""
        if number is None:
            self._fresh += 1
            number = self._fresh
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30, seconds=number * 1_733)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _cold(self, chats: list[str] | list[None]) -> list[str]:
        of = [f"channelId={chat}&" if chat else "" for chat in chats]
        return [
            f"/api/messages?{of[number % len(of)]}limit={PAGE}&to={self._moment()}"
            for number in range(FRESH_REQUESTS)
        ]

    def _searches(self) -> list[str]:
        # A word that one message has; the moment makes each a question of its own.
        return [
            f"/api/messages?search=bilhete0&to={self._moment(-number)}" for number in range(FRESH_REQUESTS)
        ]

    def _marks(self, messages: int) -> list[str]:
        """Messages that were not marked before, of chats in turn."""
        requests = []
        for _ in range(FRESH_REQUESTS * 4 // (1 + messages // 20)):
            numbers = [(self._marked + each) % self._rows for each in range(messages)]
            self._marked += messages
            items = [{"channelId": chat_of(each), "messageId": each // CHATS + 1} for each in numbers]
            body = {"consumer": f"marker-{messages}", "items": items}
            requests.append(self._api.post("/api/messages/mark-processed", body, "ours"))
        return requests


async def measure_library(environment: dict[str, str], newest: list[Event], rounds: int) -> dict[str, Pair]:
    """What a consumer's process takes for its own calls, and for bare ones over clients of the same kind."""
    settings = ConsumerSettings(
        name=CONSUMER,
        database_dsn=environment["TELEGRAM_DB_DSN"],
        redis_url=environment["TELEGRAM_REDIS_URL"],
    )
    chat, event, page = newest[0].channel_id, newest[0], newest[:PAGE]
    cache = Cache(settings)
    hot, hints = HotMessages(cache.client), Hints(cache, settings)
    await hints.remember(event)
    async with (
        Redis.from_url(environment["TELEGRAM_REDIS_URL"]) as redis,
        Database(settings.database_dsn or "", None, connections=DATABASE_CONNECTIONS) as database,
    ):
        reader, state = MessageReader(database), DatabaseState(database, CONSUMER, None)

        async def poll() -> None:
            found = await hot.newest(chat, PAGE)
            assert found.complete
            await hints.seen(found.events)

        async def bare_poll() -> None:
            pipeline = redis.pipeline(transaction=False)
            pipeline.zrevrange(recent_key(chat), 0, PAGE - 1)
            pipeline.mget([message_key(chat, each.message_id) for each in page])
            await pipeline.execute()

        async def bare_select() -> None:
            await database.fetchrow(_SELECT, CONSUMER, chat, event.message_id)

        calls: dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]], str]] = {
            POLL_REDIS: (poll, bare_poll, "pipelined ZREVRANGE and MGET of 100"),
            POLL_DATABASE: (
                lambda: reader.unprocessed(CONSUMER, limit=PAGE),
                lambda: database.fetch(_SELECT_PAGE, chat, event.telegram_date),
                "SELECT of 100 rows",
            ),
            DEDUP_REDIS: (
                lambda: hints.seen([event]),
                lambda: redis.get(hints.key(event)),
                "GET of the mark",
            ),
            DEDUP_DATABASE: (lambda: state.find(event), bare_select, "SELECT of one row by its key"),
        }
        pairs = {
            name: Pair(*await _in_turn(ours, bare, rounds), beside)
            for name, (ours, bare, beside) in calls.items()
        }
    await cache.close()
    return pairs


async def _in_turn(
    ours: Callable[[], Awaitable[Any]], bare: Callable[[], Awaitable[Any]], rounds: int
) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    warm_up = rounds // 10 + 1
    for _ in range(warm_up + rounds):
        for call, taken in zip((ours, bare), times, strict=True):
            began = time.perf_counter()
            await call()
            taken.append((time.perf_counter() - began) * 1e3)
    return times[0][warm_up:], times[1][warm_up:]
