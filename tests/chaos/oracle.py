"""Judges a run from what is left of it: the world's truth beside every sink, the journal and its ledger."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from gateway.demo.comparison import (
    Comparison,
    Findings,
    compare_cache,
    compare_database,
    compare_journal,
    compare_queue,
    journal_events,
    name,
)
from gateway.demo.consumer import SampleConsumer
from gateway.demo.expected import Held, Key, expectations, history_of, truth_of_all
from gateway.sandbox.truth import TruthEvent, truth_of
from gateway.sandbox.users import User
from tests.chaos.arena import NAMES, Arena

_OPEN = "SELECT account, chat, first_id, last_id, source FROM gaps WHERE state = 'open'"
_CHATS = "SELECT account, chat, base, top FROM ledger WHERE chat != 0"
_ABSENT = "SELECT first_id, last_id, why FROM gaps WHERE account = ? AND chat = ? AND state = 'absent'"
# The journal's kinds: 0 is a new message, 2 a deletion, which explains its id as well.
_CAPTURED = "SELECT json_group_array(message_id) FROM events WHERE scope = 0 AND chat = ? AND kind IN (0, 2)"


async def judge(arena: Arena) -> list[Comparison]:
    """Every sink, the journal and the ledger; nothing may be moving any more."""
    # In threads: a long run takes a while to reckon, and the Telegram beside it must not fall silent.
    truth = await asyncio.to_thread(truth_of_all, arena.users, arena.since)
    history = await asyncio.to_thread(history_of, arena.users)
    journal = arena.gateway.journal_path
    users = dict(zip(NAMES, arena.users, strict=True))
    return [
        await compare_database(arena.stack.postgres.dsn, truth, history=history),
        await compare_cache(await arena.redis_url(), truth, history=history, may_forget=True),
        await asyncio.to_thread(compare_queue, arena.consumer, truth, history=history),
        await asyncio.to_thread(compare_journal, journal, truth, history=history),
        await asyncio.to_thread(compare_order, journal, arena.consumer),
        await asyncio.to_thread(compare_ledger, journal, users, arena.since, history),
    ]


def compare_order(path: Path, consumer: SampleConsumer) -> Comparison:
    """Whether a chat's events reached the broker's reader for the first time in the journal's order."""
    findings = Findings()
    written = journal_events(path)
    expected = _by_chat((event.chat_key, event.id) for event in written.values())
    came = _by_chat((event.chat_key, event.id) for event in consumer.events.values())
    in_order = 0
    for chat, ids in expected.items():
        arrived = [event_id for event_id in came.get(chat, ()) if event_id in written]
        present = set(arrived)
        for wanted, found in zip((one for one in ids if one in present), arrived, strict=True):
            if wanted != found:
                findings.add("disorder", f"{found} came in the place of {wanted}")
                break
        else:
            in_order += len(arrived)
    for event_id in consumer.events.keys() - written.keys():
        findings.add("extra", f"{event_id} is not in the journal")
    return Comparison("order in rabbitmq", len(written), in_order, findings.problems, findings.flaws)


def _by_chat(events: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    chats: dict[str, list[str]] = {}
    for chat, event_id in events:
        chats.setdefault(chat, []).append(event_id)
    return chats


def compare_ledger(
    path: Path, users: Mapping[str, User], since: int, history: Mapping[Key, Held]
) -> Comparison:
    """Every id between a chat's base and top came or is explained, and what is called absent is so."""
    findings = Findings()
    accounted = explained = 0
    journal = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        for account, chat, first, last, source in journal.execute(_OPEN).fetchall():
            findings.add("gap", f"{account} still waits for {first}–{last} of chat {chat} ({source})")
        chats = {(account, chat): (base, top) for account, chat, base, top in journal.execute(_CHATS)}
        truths = {account: truth_of(user, since) for account, user in users.items()}
        for account, user in users.items():
            for chat, message_id in _newest(user, truths[account]).items():
                if chats.get((account, chat), (0, 0))[1] < message_id:
                    findings.add("gap", f"the ledger of {account} does not reach {message_id} of chat {chat}")
        shown = {account: set(expectations(truth)) for account, truth in truths.items()}
        for (account, chat), (base, top) in chats.items():
            captured = set(msgspec.json.decode(journal.execute(_CAPTURED, (chat,)).get))
            absent: list[Any] = journal.execute(_ABSENT, (account, chat)).fetchall()
            reasons = {one: why for first, last, why in absent for one in range(int(first), int(last) + 1)}
            for message_id in range(base + 1, top + 1):
                key = (0, str(chat), message_id)
                accounted += 1
                explained += message_id in captured or message_id in reasons
                if message_id in captured:
                    continue
                if message_id not in reasons:
                    findings.add("gap", f"{name(key)} is neither captured nor explained for {account}")
                elif key in shown[account] and not history.get(key, (None, True))[1]:
                    findings.add(
                        "gap", f"{name(key)} is there, but {account} has it absent: {reasons[message_id]}"
                    )
    finally:
        journal.close()
    return Comparison("ledger", accounted, explained, findings.problems, findings.flaws)


def _newest(user: User, truth: Sequence[TruthEvent]) -> dict[int, int]:
    """The newest message of each channel that the account is in, as far as it could see it."""
    newest: dict[int, int] = {}
    inside = {str(chat.marked_id) for chat in user.chats if chat.is_channel}
    for event in truth:
        if event.kind == "message.new" and event.pushed and event.channel_id in inside:
            chat = int(event.channel_id)
            newest[chat] = max(event.message_id, newest.get(chat, 0))
    return newest


def problems(results: Sequence[Comparison]) -> list[str]:
    """Everything that is wrong, with where."""
    return [f"{result.sink}: {problem}" for result in results for problem in result.problems]
