"""Carries back into the old table what came since: new messages, edits, deletions, and the consumer's
statuses.

One transaction, checked before it is committed. Messages that are there are not added again; the rows of
one that
moved on are changed in place, as the old stack does it. Nothing is deleted on either side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import GatewayError, RecordsRefused
from gateway.journal import open_reader
from gateway.migration.compare import EVER, Comparison, compare
from gateway.migration.new import NewDatabase, chunks
from gateway.migration.old import READ_SOME, OldTable
from gateway.migration.rows import working_on
from gateway.migration.state import Plan
from gateway.settings import Settings
from gateway.sinks.timescale import TimescaleSink

PAGE_RECORDS = 500

_KEYS = ("channel_id", "message_id", "message_type", "channel_title", "chat_title", "source", "telegram_date")
_CONTENT = (
    *("thread_id", "text", "caption", "media_type", "media", "media_refs"),
    *("sender_id", "sender_name", "sender_username", "received_at", "metadata"),
)
_STATE = ("status", "retry_count", "attempts", "error_message", "last_error", "error", "deleted_at")

_TABLES = """
CREATE TEMP TABLE carried (channel_id text, message_id text, doc jsonb, content text, state text) ON
COMMIT DROP;
CREATE TEMP TABLE present (channel_id text, message_id text, content text, state text) ON COMMIT DROP;
"""
_PRESENT = (
    f"INSERT INTO present {READ_SOME} SELECT channel_id, message_id::text, content, state FROM compared"  # noqa: S608
)
_DIFFERENT = """
SELECT count(*) FROM carried c LEFT JOIN present p USING (channel_id, message_id)
WHERE (c.content, c.state) IS DISTINCT FROM (p.content, p.state)
"""
_NOT_NULL = """
SELECT attname FROM pg_attribute
WHERE attrelid = 'telegram_gateway.messages'::regclass AND attnum > 0 AND NOT attisdropped AND attnotnull
"""


@dataclass(frozen=True, slots=True)
class CarriedBack:
    """Messages added to the old table, and those of its messages whose content or status was changed."""

    added: int
    edited: int
    restated: int


async def deliver_waiting(settings: Settings) -> int:
    """Stores what the stopped daemon's journal still holds for the database; returns how many events
    that was.

    They stay in the journal, too: stored twice is stored once. Raises SinkUnavailable.
    """
    if not settings.journal_path.exists():
        return 0
    password = settings.db_password.get_secret_value() if settings.db_password else None
    sink = TimescaleSink(settings.db_direct_dsn.get_secret_value(), password=password)
    delivered = 0
    with open_reader(settings.journal_path) as reader:
        stats = reader.stored_stats()
        after = stats.sinks[sink.name].cursor if sink.name in stats.sinks else stats.first_seq - 1
        if after >= stats.last_seq:
            return 0
        await sink.open()
        try:
            while records := reader.read(after, stats.last_seq, PAGE_RECORDS):
                try:
                    await sink.deliver(records)
                except RecordsRefused as error:
                    raise GatewayError(
                        f"{error}, the first because of {next(iter(error.reasons.values()))}: start the "
                        "gateway "
                        "so that they go into quarantine, see telegram-gateway quarantine list, and run "
                        "this again"
                    ) from None
                after = records[-1].seq
                delivered += len(records)
        finally:
            await sink.close()
    return delivered


async def carry_back(old: OldTable, new: NewDatabase, plan: Plan) -> CarriedBack:
    """Brings the old table to where ours is. Raises GatewayError; nothing is changed then."""
    found = await compare(old, new, plan)
    if not found.different_new:
        return CarriedBack(0, 0, 0)
    lines: list[bytes] = []

    async def take(data: bytes) -> None:
        lines.append(data)

    days = [(bucket.channel_id, bucket.day) for bucket in found.different if bucket.new.messages]
    since = plan.since or EVER
    await new.read(plan, since, old.carried, days, take)
    connection = old.connection
    with working_on("old"):
        async with connection.transaction():
            await connection.execute(_TABLES)
            await connection.copy_to_table("carried", source=chunks(lines))
            await connection.execute("ANALYZE carried")
            await connection.execute(_PRESENT, plan.user_id or 0, since)
            result = CarriedBack(
                added=await _insert(old),
                edited=await _update(old, _CONTENT, "content"),
                restated=await _update(old, _STATE, "state"),
            )
            await connection.execute("TRUNCATE present")
            await connection.execute(_PRESENT, plan.user_id or 0, since)
            wrong: int = await connection.fetchval(_DIFFERENT)
            if wrong:
                raise GatewayError(
                    f"{wrong} messages would not be in the old table as they are here (a trigger or a "
                    "constraint "
                    "of it?); nothing was changed there"
                )
    return result


def only_there(comparison: Comparison) -> int:
    """How many more messages the old table has in the days that differ."""
    return sum(max(0, bucket.old.messages - bucket.new.messages) for bucket in comparison.different)


async def _insert(old: OldTable) -> int:
    columns = [name for name in (*_KEYS, *_CONTENT, *_STATE) if name in old.columns]
    required = {row[0] for row in await old.connection.fetch(_NOT_NULL)}
    values = ", ".join(
        f"coalesce(r.{name}, '{{}}')" if name == "media" and name in required else f"r.{name}"
        for name in columns
    )
    return _count(
        await old.connection.execute(
            f"INSERT INTO telegram_gateway.messages ({', '.join(columns)}) SELECT {values} "  # noqa: S608
            "FROM carried c LEFT JOIN present p USING (channel_id, message_id), "
            "jsonb_populate_record(NULL::telegram_gateway.messages, c.doc) r "
            "WHERE p.channel_id IS NULL ORDER BY r.telegram_date"
        )
    )


async def _update(old: OldTable, fields: Sequence[str], fingerprint: str) -> int:
    """Returns how many messages, not rows."""
    columns = [name for name in fields if name in old.columns and name not in ("media", "media_refs")]
    media = [name for name in fields if name in old.columns and name in ("media", "media_refs")]
    sets = [f"{name} = r.{name}" for name in columns]
    # A column that must not be null keeps its own way of saying that there is nothing.
    sets += [
        f"{name} = coalesce(r.{name}, CASE WHEN m.{name} IN ('[]', '{{}}') THEN m.{name} ELSE '[]' END)"
        for name in media
    ]
    if "updated_at" in old.columns:
        sets.append("updated_at = clock_timestamp()")
    updated: int = await old.connection.fetchval(
        "WITH changed AS ("  # noqa: S608
        f"UPDATE telegram_gateway.messages m SET {', '.join(sets)} "
        "FROM carried c JOIN present p USING (channel_id, message_id), "
        "jsonb_populate_record(NULL::telegram_gateway.messages, c.doc) r "
        f"WHERE p.{fingerprint} <> c.{fingerprint} "
        "AND (m.channel_id::text, m.message_id::text) = (c.channel_id, c.message_id) "
        "RETURNING c.channel_id, c.message_id) SELECT count(*) FROM (SELECT DISTINCT * FROM changed) AS each"
    )
    return updated


def _count(command_tag: str) -> int:
    return int(command_tag.rpartition(" ")[2])
