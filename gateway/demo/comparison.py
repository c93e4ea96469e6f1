"""Expected against delivered: the sandbox's ground truth beside what each sink holds.

A message counts as delivered when the sink has its newest content; a deleted one when the sink knows of the
deletion, or never held it (Telegram does not hand out what was deleted before it was fetched). With `exact`
every single change must be there, which holds as long as the connection to Telegram was never lost.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import asyncpg
import redis.asyncio as aioredis

from gateway.demo.consumer import SampleConsumer
from gateway.event import Event, decode
from gateway.journal import Reader, Record, open_reader
from gateway.sandbox.truth import TruthEvent

Key = tuple[int, str, int]  # account scope, channel id, message id

_CURRENT = """
SELECT account_scope, channel_id, message_id, text, caption, is_deleted FROM telegram_gateway.messages_current
"""
_EVENT_IDS = """
SELECT event_id FROM telegram_gateway.messages
UNION ALL SELECT event_id FROM telegram_gateway.message_revisions
"""


@dataclass
class Expected:
    """One message as the world knows it: the ids of all its changes, its newest words, whether it is gone."""

    events: list[str] = field(default_factory=list)
    words: str | None = None
    deleted: bool = False


@dataclass(frozen=True)
class Comparison:
    """One sink's result. `problems` is empty when the sink holds what it should, and nothing else."""

    sink: str
    expected: int
    delivered: int
    problems: Sequence[str]


def expectations(truth: Iterable[TruthEvent]) -> dict[Key, Expected]:
    """What the sinks should hold in the end; reactions and imported history are no content changes."""
    messages: dict[Key, Expected] = defaultdict(Expected)
    for event in truth:
        if event.reaction or not event.pushed:
            continue
        message = messages[event.account_scope, event.channel_id, event.message_id]
        message.events.append(event.id)
        if event.kind == "message.deleted":
            message.deleted = True
        else:
            message.words = event.text if event.text is not None else event.caption
    return dict(messages)


async def compare_database(dsn: str, truth: Sequence[TruthEvent], *, exact: bool = False) -> Comparison:
    """PostgreSQL: every message once, with its newest content and its deletion."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(_CURRENT)
        ids = [row["event_id"] for row in await connection.fetch(_EVENT_IDS)]
    finally:
        await connection.close()
    held: dict[Key, tuple[str | None, bool]] = {}
    problems = []
    for row in rows:
        key = (row["account_scope"], row["channel_id"], row["message_id"])
        if key in held:
            problems.append(f"{_name(key)} is there twice")
        words = row["text"] if row["text"] is not None else row["caption"]
        held[key] = (words, row["is_deleted"])
    return _compare("timescaledb", truth, held, ids, problems, exact=exact)


def compare_queue(
    consumer: SampleConsumer, truth: Sequence[TruthEvent], *, exact: bool = False
) -> Comparison:
    """RabbitMQ: every message, and in every chat in the order in which it was posted. Repeats are allowed."""
    events = consumer.events
    problems, held = _replay(events.values())
    return _compare("rabbitmq", truth, held, list(events), problems, exact=exact)


def compare_journal(path: Path, truth: Sequence[TruthEvent]) -> Comparison:
    """The journal itself, where no sink is on: every message, in the order of its chat."""
    with open_reader(path) as reader:
        events = {record.event.id: record.event for record in _records(reader)}
    problems, held = _replay(events.values())
    return _compare("journal", truth, held, list(events), problems, exact=False)


def _records(reader: Reader) -> list[Record]:
    last = reader.last_seq()
    return reader.read(0, last, last)


def _replay(events: Iterable[Event]) -> tuple[list[str], dict[Key, tuple[str | None, bool]]]:
    """What a reader of `events` knows in the end, and what came out of order."""
    held: dict[Key, tuple[str | None, bool]] = {}
    newest: dict[str, int] = {}
    problems = []
    for event in events:
        key = _key(event)
        if event.kind == "message.new":
            if event.message_id < newest.get(event.chat_key, 0):
                problems.append(f"{_name(key)} came after a later message of its chat")
            newest[event.chat_key] = event.message_id
        elif event.kind == "message.edited" and key not in held:
            problems.append(f"{_name(key)} was edited before it came")
        words, deleted = held.get(key, (None, False))
        held[key] = (words, True) if event.kind == "message.deleted" else (event.content, deleted)
    return problems, held


async def compare_cache(url: str, truth: Sequence[TruthEvent]) -> Comparison:
    """Redis: the newest content of every message of the last hour, and none that is deleted."""
    expected = expectations(truth)
    client: aioredis.Redis = aioredis.from_url(url, decode_responses=False)
    problems = []
    delivered = 0
    keys = list(expected)
    try:
        for start in range(0, len(keys), 1000):
            part = keys[start : start + 1000]
            bodies = await client.mget([_redis_key(key) for key in part])
            for key, body in zip(part, bodies, strict=True):
                message = expected[key]
                if message.deleted:
                    delivered += body is None
                    if body is not None:
                        problems.append(f"{_name(key)} is there although it was deleted")
                elif body is None:
                    problems.append(f"{_name(key)} is missing")
                elif decode(cast("bytes", body)).content != message.words:
                    problems.append(f"{_name(key)} has old or other words")
                else:
                    delivered += 1
    finally:
        await client.aclose()
    return Comparison("redis", len(expected), delivered, problems)


def _compare(
    sink: str,
    truth: Sequence[TruthEvent],
    held: dict[Key, tuple[str | None, bool]],
    event_ids: Sequence[str],
    problems: list[str],
    *,
    exact: bool,
) -> Comparison:
    expected = expectations(truth)
    delivered = 0
    for key, message in expected.items():
        words, deleted = held.get(key, (None, False))
        if message.deleted:
            if key in held and not deleted:
                problems.append(f"{_name(key)} was deleted, which did not arrive")
            else:
                delivered += 1
        elif key not in held:
            problems.append(f"{_name(key)} is missing")
        elif deleted:
            problems.append(f"{_name(key)} counts as deleted, which it is not")
        elif words != message.words:
            problems.append(f"{_name(key)} has old or other words")
        else:
            delivered += 1
    problems += [f"{_name(key)} was never posted" for key in held.keys() - expected.keys()]
    if exact:
        problems += _differences(expected, event_ids)
    return Comparison(sink, len(expected), delivered, problems)


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


def _key(event: Event) -> Key:
    return event.account_scope, event.channel_id, event.message_id


def _redis_key(key: Key) -> str:
    scope, channel_id, message_id = key
    chat = f"{scope}/{channel_id}" if scope else channel_id
    return f"telegram:msg:{chat}:{message_id}"


def _name(key: Key) -> str:
    return f"message {key[2]} of chat {key[1]}"
