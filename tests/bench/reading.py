"""The calls of the read side, each in turn with a bare one: what they take inside the API's process, and what
those of the consumer library take inside a consumer's.

A message is hot while Redis holds it, cold when the database must be asked; a cached answer is the API's own
from a moment ago. Hot requests are about many chats in turn, since the process keeps the newest messages of a
chat for a moment; only those named so are all about one.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
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
from tests.bench.api import BARE, OURS, Api, warm_up
from tests.bench.child import ChildFailed
from tests.bench.filling import CHATS, CONSUMER, HOT_CHATS, chat_of
from tests.bench.report import quantile

PAGE = 100  # messages
DATABASE_CONNECTIONS = 4
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
SAME_PAGE = "GET /api/messages, 100 of a chat, hot (Redis), the same question"
SAME_ONE = "GET /api/messages, 1 of a chat, hot (Redis), the same question"
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


@dataclass(frozen=True)
class Call:
    """How to make so many requests of one kind, the bare one beside them, and what that does."""

    requests: Callable[[int], list[str]]
    bare: str
    beside: str


class Calls:
    """The requests of each kind. `rows` is how many messages are stored besides the hot ones."""

    def __init__(self, api: Api, rows: int, newest: list[int]) -> None:
        self._api = api
        self._rows = rows
        self._newest = newest
        self._marked = 0
        self._fresh = 0

    async def all(self) -> dict[str, Call]:
        """Every kind by its name."""
        api, chats = self._api, [chat_of(number) for number in range(HOT_CHATS)]
        page = f"/api/messages?limit={PAGE}&to={self._moment()}"
        found = await api.ask(api.get(page))
        old = [f"/api/messages/{each['channelId']}/{each['messageId']}" for each in found["items"]]
        hot = [f"/api/messages/{chat}/{self._newest[0]}" for chat in chats]
        unprocessed = f"/api/messages/unprocessed?consumer={CONSUMER}&limit={PAGE}"
        one = (api.get("/bare/get", BARE), "GET of one body")
        hundred = (api.get("/bare/newest", BARE), "pipelined ZREVRANGE and MGET of 100")
        row = (api.get("/bare/select", BARE), "SELECT of one row by its key")
        rows = (api.get("/bare/page", BARE), "SELECT of 100 rows")
        mark = (api.post("/bare/insert/1", None, BARE), "INSERT of one row")
        marks = (api.post(f"/bare/insert/{PAGE}", None, BARE), "INSERT of 100 rows")
        hot_pages = [f"/api/messages?channelId={chat}&limit={PAGE}" for chat in chats]
        hot_ones = [f"/api/messages?channelId={chat}&limit=1" for chat in chats]
        return {
            HOT_PAGE: Call(self._same(hot_pages), *hundred),
            HOT_ONE: Call(self._same(hot_ones), *one),
            HOT_MESSAGE: Call(self._same(hot), *one),
            SAME_PAGE: Call(self._same(hot_pages[:1]), *hundred),
            SAME_ONE: Call(self._same(hot_ones[:1]), *one),
            CACHED_PAGE: Call(self._same([f"{page}&cursor={found['nextCursor']}"]), *one),
            COLD_PAGE: Call(self._fresh_of("limit=100", [f"&channelId={chat}" for chat in chats]), *rows),
            COLD_PAGE_OF_ALL: Call(self._fresh_of("limit=100"), *rows),
            COLD_MESSAGE: Call(self._same(old), *row),
            # A word that one message has, the oldest.
            SEARCH: Call(self._fresh_of("search=bilhete0"), *row),
            UNPROCESSED: Call(self._same([unprocessed]), *rows),
            MARK_ONE: Call(lambda number: self._marks(number, 1), *mark),
            MARK_PAGE: Call(lambda number: self._marks(number, PAGE), *marks),
        }

    async def measure(self, rounds: int) -> dict[str, Pair]:
        """Every kind, `rounds` times."""
        pairs = {}
        for name, call in (await self.all()).items():
            requests = {OURS: call.requests(rounds + warm_up(rounds)), BARE: [call.bare]}
            hits = await self._api.cache_hits()
            times, _, sources = await self._api.alternate(requests, rounds)
            hits = await self._api.cache_hits() - hits
            _check(name, sources[OURS], hits, rounds)
            pairs[name] = Pair(times[OURS], times[BARE], call.beside)
        return pairs

    def _same(self, paths: Iterable[str]) -> Callable[[int], list[str]]:
        requests = [self._api.get(path, OURS) for path in paths]
        return lambda number: requests

    def _fresh_of(self, query: str, chats: Sequence[str] = ("",)) -> Callable[[int], list[str]]:
        def requests(number: int) -> list[str]:
            return [
                self._api.get(f"/api/messages?{query}{chats[each % len(chats)]}&to={self._moment()}", OURS)
                for each in range(number)
            ]

        return requests

    def _moment(self) -> str:
        """Some weeks ago, and another one each time, so that no answer is in the response cache."""
        self._fresh += 1
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30, seconds=self._fresh * 97)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _marks(self, number: int, messages: int) -> list[str]:
        """Batches that nobody marked before, of chats in turn."""
        requests = []
        for _ in range(number):
            numbers = [(self._marked + each) % self._rows for each in range(messages)]
            items = [{"channelId": chat_of(each), "messageId": each // CHATS + 1} for each in numbers]
            body = {"consumer": f"marker-{messages}-{self._marked // self._rows}", "items": items}
            self._marked += messages
            requests.append(self._api.post("/api/messages/mark-processed", body, OURS))
        return requests


def _check(name: str, sources: list[str], hits: int, rounds: int) -> None:
    """Raises ChildFailed when what answered is not what the name says."""
    wanted = "redis" if "(Redis)" in name else "database"
    if sources and sources != [wanted]:
        raise ChildFailed(f"{name}: answered by {', '.join(sources)}")
    if hits < rounds if name == CACHED_PAGE else hits:
        raise ChildFailed(f"{name}: {hits} answers of {rounds} were in the response cache")


async def measure_library(environment: dict[str, str], newest: list[Event], rounds: int) -> dict[str, Pair]:
    """What a consumer's process takes for its own calls, and for bare ones over clients of the same kind."""
    settings = ConsumerSettings(
        name=CONSUMER,
        database_dsn=environment["TELEGRAM_DB_DSN"],
        redis_url=environment["TELEGRAM_REDIS_URL"],
    )
    chat, event, page = newest[0].channel_id, newest[0], newest[:PAGE]
    cache = Cache(settings)
    # As the poller reads.
    hot, hints = HotMessages(cache.client, remembered=2 * PAGE), Hints(cache, settings)
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
    unkept = warm_up(rounds)
    for _ in range(unkept + rounds):
        for call, taken in zip((ours, bare), times, strict=True):
            began = time.perf_counter()
            await call()
            taken.append((time.perf_counter() - began) * 1e3)
    return times[0][unkept:], times[1][unkept:]
