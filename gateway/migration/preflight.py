"""Looks at everything the migration stands on before anything is done. Changes nothing."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from gateway.errors import GatewayError, NeedsOperator
from gateway.migration.compare import EVER, compare
from gateway.migration.copy import refuse_unfit
from gateway.migration.daemons import STILL_SECONDS, is_running
from gateway.migration.new import NewDatabase
from gateway.migration.old import OldTable
from gateway.migration.rows import OPTIONAL
from gateway.migration.sessions import read_old_session
from gateway.migration.state import Plan
from gateway.settings import Settings

CLOCK_SECONDS = 5.0
GROWTH = 2.0  # our rows, their indexes and what a copy writes ahead, per byte of the old table

_SERVER = "SELECT current_setting('server_version') AS version, clock_timestamp() AS now"
_TIMESCALEDB = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; not `ok` stops the migration."""

    what: str
    ok: bool
    said: str


async def look(old: OldTable, new: NewDatabase, plan: Plan, settings: Settings) -> AsyncIterator[Finding]:
    """Everything in turn. Raises GatewayError when a server fails while it is asked."""
    for side, connection in (("old", old.connection), ("new", new.connection)):
        yield await _server(side, connection)
    missing = [name for name in OPTIONAL if name not in old.carried]
    yield Finding(
        "old table",
        True,
        f"no column for {', '.join(missing)}: not carried back" if missing else "all columns known",
    )
    summary = await old.summary(plan.since or EVER)
    span = f"{summary.oldest:%F} to {summary.newest:%F}" if summary.oldest and summary.newest else "empty"
    yield Finding(
        "old rows",
        True,
        f"{summary.rows} rows, {summary.messages} messages of {summary.chats} chats ({span}); "
        f"{summary.valid - summary.messages} duplicates fold, {summary.undated} lack their date, "
        f"{summary.rows - summary.valid} have no usable id and are kept in a file, {summary.before} "
        "before --since stay",
    )
    found = await compare(old, new, plan)
    try:
        refuse_unfit(found, plan, settings)
    except NeedsOperator as error:
        yield Finding("what is taken", False, str(error))
    else:
        yield Finding(
            "what is taken", True, f"{found.different_old} messages, none that retention would drop"
        )
    yield await _space(old, new)
    yield await _idle(new, settings)
    yield _session(plan, settings)


async def _server(side: str, connection: "asyncpg.Connection[asyncpg.Record]") -> Finding:
    row = await connection.fetchrow(_SERVER)
    assert row is not None
    timescaledb = await connection.fetchval(_TIMESCALEDB)
    apart = abs((row["now"] - datetime.now(UTC)).total_seconds())
    said = f"PostgreSQL {row['version']}, " + (
        f"TimescaleDB {timescaledb}" if timescaledb else "no TimescaleDB"
    )
    if apart > CLOCK_SECONDS:
        return Finding(
            f"{side} database", False, f"{said}; its clock is {apart:.0f} s from this host's: set the clocks"
        )
    return Finding(f"{side} database", True, f"{said}, clock {apart:.1f} s from ours")


async def _space(old: OldTable, new: NewDatabase) -> Finding:
    needed = round(await old.bytes() * GROWTH)
    said = f"about {needed / 1e6:,.0f} MB needed"
    try:
        directory = Path(await new.connection.fetchval("SHOW data_directory"))
    except asyncpg.InsufficientPrivilegeError:
        directory = None
    if directory is None or not os.access(directory.parent, os.X_OK) or not directory.exists():
        return Finding("free space", True, f"{said}; see yourself whether the new server's disk has it")
    free = shutil.disk_usage(directory).free
    return Finding("free space", free > needed, f"{said}, {free / 1e6:,.0f} MB free at {directory}")


async def _idle(new: NewDatabase, settings: Settings) -> Finding:
    if is_running(settings):
        return Finding("nothing else writes", False, "our gateway runs: systemctl stop telegram-gateway")
    before = await new.newest_arrival()
    await asyncio.sleep(STILL_SECONDS)
    if await new.newest_arrival() != before:
        return Finding(
            "nothing else writes", False, "messages come into the new database: stop whoever stores them"
        )
    return Finding("nothing else writes", True, "our gateway is stopped, the new database is still")


def _session(plan: Plan, settings: Settings) -> Finding:
    if plan.volume is None:
        return Finding("session", True, "no --volume given: the session is not taken over")
    try:
        found = read_old_session(plan.volume, plan.account, settings)
    except GatewayError as error:
        return Finding("session", False, str(error))
    begins = "its update state too" if 0 in found.states else "without an update state"
    return Finding("session", True, f"{found.file}, data centre {found.login.dc_id}, {begins}")
