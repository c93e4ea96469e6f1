"""Expected against delivered: the sandbox's ground truth beside what each sink holds.

A message counts as delivered when the sink has its newest content; a deleted one when the sink knows of the
deletion, or never held it (Telegram does not hand out what was deleted before it was fetched). With `exact`
every single change must be there, which holds as long as the connection to Telegram was never lost.

Backfill also brings what an account could not see at the time: messages from before it joined or while it was
out of a chat, and what became of a message meanwhile. Where that can happen, `history` says what a look into
the chats finds now, and a sink may hold that as well. Changes of messages that the account never saw posted
are compared only without it: nobody goes looking for them where they were not pushed.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import asyncpg
import redis.asyncio as aioredis

from gateway.demo.consumer import SampleConsumer
from gateway.demo.expected import Expected, Held, Key
from gateway.demo.expected import expectations as expectations
from gateway.event import Event, decode
from gateway.journal import Reader, Record, open_reader
from gateway.sandbox.truth import TruthEvent

Flaw = Literal["lost", "twice", "disorder", "wrong", "extra", "gap"]

MESSAGE_KEYS = "telegram:msg:*"
_RECENT_KEYS = "telegram:channel:*:recent"
_CURRENT = """
SELECT account_scope, channel_id, message_id, text, caption, is_deleted FROM telegram_gateway.messages_current
"""
_EVENT_IDS = """
SELECT event_id FROM telegram_gateway.messages
UNION ALL SELECT event_id FROM telegram_gateway.message_revisions
"""


@dataclass(frozen=True)
class Comparison:
    """One sink's result. `problems` is empty when the sink holds what it should, and nothing else.

    `flaws` counts the problems by kind. `absent` are messages that a cache does not hold, where it may.
    """

    sink: str
    expected: int
    delivered: int
    problems: Sequence[str]
    flaws: Mapping[Flaw, int] = field(default_factory=Counter)
    absent: int = 0


class Findings:
    """Problems as they are found, with a count of each kind."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.flaws: Counter[Flaw] = Counter()

    def add(self, flaw: Flaw, problem: str) -> None:
        self.flaws[flaw] += 1
        self.problems.append(problem)


async def compare_database(
    dsn: str, truth: Sequence[TruthEvent], *, exact: bool = False, history: Mapping[Key, Held] | None = None
) -> Comparison:
    """PostgreSQL: every message once, with its newest content and its deletion."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(_CURRENT)
        ids = [row["event_id"] for row in await connection.fetch(_EVENT_IDS)]
    finally:
        await connection.close()
    return judge_rows(map(dict, rows), ids, truth, exact=exact, history=history)


def judge_rows(
    rows: Iterable[Mapping[str, Any]],
    ids: Sequence[str],
    truth: Sequence[TruthEvent],
    *,
    exact: bool = False,
    history: Mapping[Key, Held] | None = None,
) -> Comparison:
    """As `compare_database`, of rows of `messages_current` and the ids of all events."""
    held: dict[Key, Held] = {}
    findings = Findings()
    for row in rows:
        key = (row["account_scope"], row["channel_id"], row["message_id"])
        if key in held:
            findings.add("twice", f"{name(key)} is there twice")
        words = row["text"] if row["text"] is not None else row["caption"]
        held[key] = (words, row["is_deleted"])
    return _compare("timescaledb", truth, held, ids, findings, exact=exact, history=history)


def compare_queue(
    consumer: SampleConsumer,
    truth: Sequence[TruthEvent],
    *,
    exact: bool = False,
    history: Mapping[Key, Held] | None = None,
) -> Comparison:
    """RabbitMQ: every message, and in every chat in the order in which it was posted. Repeats are allowed."""
    return _compare_events(
        "rabbitmq", consumer.events, truth, exact=exact, history=history, redelivered=consumer.redelivered
    )


def compare_journal(
    path: Path, truth: Sequence[TruthEvent], *, history: Mapping[Key, Held] | None = None
) -> Comparison:
    """The journal itself: every message, in the order of its chat."""
    return _compare_events("journal", journal_events(path), truth, exact=False, history=history)


def journal_events(path: Path) -> dict[str, Event]:
    """All that the journal holds, by event id, in its order."""
    with open_reader(path) as reader:
        return {record.event.id: record.event for record in _records(reader)}


def _records(reader: Reader) -> list[Record]:
    last = reader.last_seq()
    return reader.read(0, last, last)


def _compare_events(
    sink: str,
    events: Mapping[str, Event],
    truth: Sequence[TruthEvent],
    *,
    exact: bool,
    history: Mapping[Key, Held] | None,
    redelivered: Container[str] = (),
) -> Comparison:
    findings = Findings()
    held = _replay(events.values(), findings, redelivered)
    return _compare(sink, truth, held, list(events), findings, exact=exact, history=history)


def _replay(events: Iterable[Event], findings: Findings, redelivered: Container[str] = ()) -> dict[Key, Held]:
    """What a reader of `events` knows in the end, and what came out of order.

    Live messages come in the order of their ids; backfilled ones come when they come, and so do those that
    the broker had sent to a connection that was lost. Words are as new as their edit date says: a backfilled
    message already has those of edits that arrive after it.
    """
    held: dict[Key, Held] = {}
    age: dict[Key, float] = {}
    newest: dict[tuple[str, str], int] = {}
    edited_first: dict[Key, str] = {}
    for event in events:
        key = key_of(event)
        live = event.source == "mtproto" and event.id not in redelivered
        if event.kind == "message.new":
            if live:
                stream = (event.account, event.chat_key)
                if event.message_id < newest.get(stream, 0):
                    findings.add("disorder", f"{name(key)} came after a later message of its chat")
                newest[stream] = event.message_id
                # What one account still lacks, and saw edited, another may bring live.
                if edited_first.get(key) == event.account:
                    findings.add("disorder", f"{name(key)} was edited before it came")
        elif event.kind == "message.edited" and key not in held:
            edited_first.setdefault(key, event.account)
        words, deleted = held.get(key, (None, False))
        if event.kind == "message.deleted":
            held[key] = (words, True)
            continue
        edited_at = event.edit_date.timestamp() if event.edit_date else 0.0
        if edited_at >= age.get(key, 0.0):
            words, age[key] = event.content, edited_at
        held[key] = (words, deleted)
    return held


async def compare_cache(
    url: str,
    truth: Sequence[TruthEvent],
    *,
    history: Mapping[Key, Held] | None = None,
    may_forget: bool = False,
) -> Comparison:
    """Redis: the newest content of every message of the last hour, and none that is deleted.

    A cache that was restarted or failed over `may_forget`, but must not lie: what it holds is compared all
    the same, message by message and in the lists of recent ones.
    """
    client: aioredis.Redis = aioredis.from_url(url, decode_responses=False)
    try:
        held = await _cached(client)
        recent = [
            _cached_key(key.decode(), int(member))
            async for key in client.scan_iter(_RECENT_KEYS, count=1000)
            for member in cast("list[bytes]", await client.zrange(key, 0, -1))
        ]
    finally:
        await client.aclose()
    return judge_cache(held, recent, truth, history=history, may_forget=may_forget)


def judge_cache(
    held: Mapping[Key, Held],
    recent: Iterable[Key],
    truth: Sequence[TruthEvent],
    *,
    history: Mapping[Key, Held] | None = None,
    may_forget: bool = False,
) -> Comparison:
    """As `compare_cache`, of the messages and of the lists of recent ones."""
    expected = _expected(truth, history)
    findings = Findings()
    delivered = absent = 0
    gone: set[Key] = set()
    for key, message in expected.items():
        acceptable = _acceptable(key, message, history)
        if all(deleted for _, deleted in acceptable):
            gone.add(key)
        if key not in held:
            if any(deleted for _, deleted in acceptable):
                delivered += 1
            elif may_forget:
                absent += 1
            else:
                findings.add("lost", f"{name(key)} is missing")
        elif held[key] in acceptable:
            delivered += 1
        elif key in gone:
            findings.add("wrong", f"{name(key)} is there although it was deleted")
        else:
            findings.add("wrong", f"{name(key)} has old or other words")
    for key in held.keys() - expected.keys():
        _check_unexpected(key, history, findings)
    for key in recent:
        if key in gone:
            findings.add("wrong", f"{name(key)} is among the recent although it was deleted")
    return Comparison("redis", len(expected), delivered, findings.problems, findings.flaws, absent)


async def _cached(client: aioredis.Redis) -> dict[Key, Held]:
    held: dict[Key, Held] = {}
    keys = [key async for key in client.scan_iter(MESSAGE_KEYS, count=1000)]
    for start in range(0, len(keys), 1000):
        for body in await client.mget(keys[start : start + 1000]):
            if body is not None:
                event = decode(cast("bytes", body))
                held[key_of(event)] = (event.content, False)
    return held


def _cached_key(recent: str, message_id: int) -> Key:
    """The message that stands in a chat's list of recent ones; `telegram:channel:[scope/]channel:recent`."""
    scope, _, channel_id = recent.split(":")[2].rpartition("/")
    return int(scope or 0), channel_id, message_id


def _compare(
    sink: str,
    truth: Sequence[TruthEvent],
    held: dict[Key, Held],
    event_ids: Sequence[str],
    findings: Findings,
    *,
    exact: bool,
    history: Mapping[Key, Held] | None,
) -> Comparison:
    expected = _expected(truth, history)
    delivered = 0
    for key, message in expected.items():
        acceptable = _acceptable(key, message, history)
        gone = any(deleted for _, deleted in acceptable)
        there = any(not deleted for _, deleted in acceptable)
        if key not in held:
            if not gone:
                findings.add("lost", f"{name(key)} is missing")
                continue
        elif held[key][1] and not gone:
            findings.add("wrong", f"{name(key)} counts as deleted, which it is not")
            continue
        elif not held[key][1] and not there:
            findings.add("wrong", f"{name(key)} was deleted, which did not arrive")
            continue
        elif not held[key][1] and held[key] not in acceptable:
            findings.add("wrong", f"{name(key)} has old or other words")
            continue
        delivered += 1
    for key in held.keys() - expected.keys():
        _check_unexpected(key, history, findings)
    if exact:
        for problem in _differences(expected, event_ids):
            findings.add("wrong", problem)
    return Comparison(sink, len(expected), delivered, findings.problems, findings.flaws)


def _expected(truth: Sequence[TruthEvent], history: Mapping[Key, Held] | None) -> dict[Key, Expected]:
    messages = expectations(truth)
    return {key: message for key, message in messages.items() if history is None or message.posted}


def _acceptable(key: Key, message: Expected, history: Mapping[Key, Held] | None) -> set[Held]:
    """What a sink may hold of a message: what the account was told, or what the chat has now."""
    told = (message.words, message.deleted)
    return {told} if history is None else {told, history.get(key, told)}


def _check_unexpected(key: Key, history: Mapping[Key, Held] | None, findings: Findings) -> None:
    if history is None or key not in history:
        findings.add("extra", f"{name(key)} was never posted")


def _differences(expected: dict[Key, Expected], event_ids: Sequence[str]) -> list[str]:
    """Changes that are missing or too many; edits are compared without their content hash."""
    wanted = sorted(event_id for message in expected.values() for event_id in message.events)
    found = sorted(_without_hash(event_id) for event_id in event_ids)
    if wanted == found:
        return []
    missing, extra = set(wanted) - set(found), set(found) - set(wanted)
    return [
        *(f"change {event_id} is missing" for event_id in sorted(missing)),
        *(f"change {event_id} never happened" for event_id in sorted(extra)),
    ] or [f"{len(wanted)} changes happened, {len(found)} are there"]


def _without_hash(event_id: str) -> str:
    return event_id.rpartition(":")[0] if ":edit:" in event_id else event_id


def key_of(event: Event) -> Key:
    """The message that an event is about."""
    return event.account_scope, event.channel_id, event.message_id


def name(key: Key) -> str:
    """The message as problems call it."""
    return f"message {key[2]} of chat {key[1]}"
