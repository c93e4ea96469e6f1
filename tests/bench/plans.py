"""How PostgreSQL carries out what the read side asks: the plans' nodes, those inside functions included."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from gateway.localstack import LocalStack
from gateway.localstack.postgres import DATABASE
from gateway.read import ChatRef, MessageFilter, MessageReader, MessageRef, Outcome
from tests.bench import reading
from tests.bench.filling import CHATS, CONSUMER, TABLES, chat_of

# The module that logs the plan of every statement as it runs; the client gets the server's log lines.
_EXPLAIN = """
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_nested_statements = on;
SET auto_explain.log_format = json;
SET client_min_messages = log;
"""


async def plans(stack: LocalStack, rows: int) -> dict[str, tuple[str, bool]]:
    """For each call that the database answers: its scans, and whether none reads a whole large table."""
    connection = await asyncpg.connect(
        stack.postgres.admin_dsn, database=DATABASE, ssl=False, statement_cache_size=0
    )
    try:
        await connection.execute(_EXPLAIN)
        found = {}
        for name, call in _calls(MessageReader(connection), rows).items():
            scans: set[str] = set()

            def note(_: Any, message: Any, scans: set[str] = scans) -> None:
                _, separator, plan = message.message.partition("plan:")
                if separator:
                    _add_scans(json.loads(plan)["Plan"], scans)

            connection.add_log_listener(note)
            await call()
            connection.remove_log_listener(note)
            whole = {f"Seq Scan {table}" for table in TABLES}
            found[name] = ", ".join(sorted(scans)), not scans & whole
        return found
    finally:
        await connection.close()


def _calls(reader: MessageReader, rows: int) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    chat = ChatRef(chat_of(0))
    until = datetime.now(UTC) - timedelta(days=30)
    refs = [MessageRef(chat_of(number), number // CHATS + 1) for number in range(reading.PAGE)]
    return {
        reading.COLD_PAGE: lambda: reader.messages(MessageFilter(chat=chat, until=until)),
        reading.COLD_PAGE_OF_ALL: lambda: reader.messages(MessageFilter(until=until)),
        reading.COLD_MESSAGE: lambda: reader.message(MessageRef(chat_of(rows // 2), rows // 2 // CHATS + 1)),
        reading.SEARCH: lambda: reader.messages(MessageFilter(search="bilhete0")),
        reading.UNPROCESSED: lambda: reader.unprocessed(CONSUMER, limit=reading.PAGE),
        reading.MARK_PAGE: lambda: reader.mark_processed(
            "planner", [Outcome(ref, "published") for ref in refs]
        ),
    }


def _add_scans(plan: dict[str, Any], scans: set[str]) -> None:
    if "Scan" in plan["Node Type"]:
        where = plan.get("Index Name") or plan.get("Relation Name") or ""
        if where and not where.startswith("pg_"):
            scans.add(f"{plan['Node Type']} {where}".strip())
    for inner in plan.get("Plans", ()):
        _add_scans(inner, scans)
