"""`telegram-gateway migrate`: the way in from the old containerised stack in phases, and the way back."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
from rich.console import Console
from rich.table import Table

from gateway.cli.moments import MOMENT
from gateway.errors import ConfigurationError, NeedsOperator, SessionError
from gateway.logs import configure_logging
from gateway.migration import copy as copying
from gateway.migration import rollback as going_back
from gateway.migration import switch as switching
from gateway.migration.compare import Comparison, compare, refuse_different
from gateway.migration.new import NewDatabase, new_database
from gateway.migration.old import OldTable, old_table
from gateway.migration.preflight import look
from gateway.migration.sessions import bring_in, read_old_session
from gateway.migration.state import DEFAULT_CONSUMER, Plan, StateFile
from gateway.settings import Settings, load_settings, parse_duration

SHOWN_DIFFERENCES = 50
SECONDS_BETWEEN_LINES = 2.0

_OPTIONS = (
    click.option(
        "--old-dsn", metavar="URL", help="The old database; TELEGRAM_OLD_DB_DSN. Without its password."
    ),
    click.option("--consumer", help=f"Whose status the old rows hold ({DEFAULT_CONSUMER})."),
    click.option("--account", help="The account whose session and messages they are (main)."),
    click.option(
        "--volume", metavar="PLACE", help="The old session: a file, a directory, or a docker volume's name."
    ),
    click.option(
        "--user-id", type=int, help="The account's Telegram user id, where there are private chats."
    ),
    click.option("--since", type=MOMENT, help="Leave what is older in the old database: a date, or 90d."),
    click.option("--stop-old", metavar="COMMAND", help="Stops the old gateway and its consumers."),
    click.option("--start-old", metavar="COMMAND", help="Starts them again, for the way back."),
    click.option("--stop-new", metavar="COMMAND", help="Stops this gateway, for the way back."),
    click.option("--start-new", metavar="COMMAND", help="Starts this gateway."),
)
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error))


_watch_for = click.option(
    "--for", "how_long", type=_Duration(), default="1m", show_default=True, help="How long to watch."
)


@dataclass
class _Move:
    """What every phase has at hand."""

    settings: Settings
    state: StateFile
    plan: Plan
    dry_run: bool

    @asynccontextmanager
    async def databases(self, *, writable: bool = False) -> AsyncIterator[tuple[OldTable, NewDatabase]]:
        named = self.settings.old_db_dsn
        dsn = self.plan.old_dsn or (named.get_secret_value() if named else None)
        if dsn is None:
            raise ConfigurationError(
                "the old database is not named: set TELEGRAM_OLD_DB_DSN, or give --old-dsn "
                "(its password in TELEGRAM_OLD_DB_PASSWORD)"
            )
        secret = self.settings.old_db_password
        password = secret.get_secret_value() if secret else None
        async with old_table(dsn, password, writable=writable) as old, new_database(self.settings) as new:
            yield old, new


@click.group("migrate")
def command() -> None:
    """Move in from the old containerised stack, and back.

    Each phase can be run again at any time; options are remembered. The old side is only read, except by
    rollback, and nothing is deleted anywhere.
    """


def _phase(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options that all share, and a `_Move` made of them."""

    @wraps(function)
    def run(dry_run: bool, **given: Any) -> Any:
        options = {name: given.pop(name) for name in Plan.__struct_fields__}
        return function(_prepare(options, dry_run), **given)

    for option in reversed((*_OPTIONS, _dry_run)):
        run = option(run)
    return run


@command.command()
@_phase
def preflight(move: _Move) -> None:
    """Check both databases, space, clocks, the schema, and the session file."""
    asyncio.run(_preflight(move))


@command.command()
@_phase
def sessions(move: _Move) -> None:
    """Copy the session out of the container's volume; the original stays."""
    _sessions(move)


@command.command()
@_phase
def copy(move: _Move) -> None:
    """Bring messages and statuses over: whatever differs, however often it is run."""
    asyncio.run(_copy(move))


@command.command()
@_phase
def verify(move: _Move) -> None:
    """Compare counts and checksums of each chat and day. Exits 78 when any differ."""
    asyncio.run(_verify(move))


@command.command()
@_phase
def switch(move: _Move) -> None:
    """Stop the old gateway, bring the rest over, start this one behind where it stopped."""
    asyncio.run(_switch(move))


@command.command()
@_phase
@_watch_for
def watch(move: _Move, how_long: timedelta) -> None:
    """See that messages come in here, and that the old table rests."""
    asyncio.run(_watch(move, how_long))


@command.command("all")
@_phase
@_watch_for
def everything(move: _Move, how_long: timedelta) -> None:
    """All phases in turn; stops at the first that is not fit, and can be run again."""
    asyncio.run(_all(move, how_long))


@command.command()
@click.option(
    "--wait-gaps",
    type=_Duration(),
    default="1m",
    show_default=True,
    help="How long open gaps may take to close.",
)
@_phase
def rollback(move: _Move, wait_gaps: timedelta) -> None:
    """Go back: stop this gateway, carry back what came since, start the old one."""
    asyncio.run(_rollback(move, wait_gaps))


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show which phases are done, when, and what they found."""
    state = StateFile(load_settings()).state
    if as_json:
        click.echo(msgspec.json.encode(state))
        return
    table = Table("phase", "done at", "found", box=None)
    for name, done in state.phases.items():
        found = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in done.found.items())
        table.add_row(name, f"{done.at:%F %T %Z}", found)
    Console().print(table)


def _prepare(given: dict[str, Any], dry_run: bool) -> _Move:
    settings = load_settings()
    configure_logging("WARNING")
    if given["old_dsn"] is not None and urlsplit(given["old_dsn"]).password is not None:
        raise ConfigurationError(
            "a password on the command line can be read by every user of this host; "
            "leave it out of --old-dsn and set TELEGRAM_OLD_DB_PASSWORD"
        )
    state = StateFile(settings)
    plan = state.plan(given, keep=not dry_run)
    if plan.user_id is None and plan.volume is not None:
        try:
            user_id = read_old_session(plan.volume, plan.account, settings).user_id
        except SessionError:
            user_id = None  # preflight and sessions say what is wrong with it
        plan = state.plan({"user_id": user_id}, keep=not dry_run)
    return _Move(settings, state, plan, dry_run)


async def _preflight(move: _Move) -> None:
    wrong = []
    async with move.databases() as (old, new):
        async for finding in look(old, new, move.plan, move.settings):
            click.echo(f"{'ok' if finding.ok else '!!'}  {finding.what}: {finding.said}")
            if not finding.ok:
                wrong.append(finding.what)
    if wrong:
        raise NeedsOperator(f"not fit to migrate: {', '.join(wrong)}; put it right and run preflight again")
    if not move.dry_run:
        move.state.done("preflight")


def _sessions(move: _Move) -> None:
    if move.plan.volume is None:
        click.echo("no --volume given: no session is taken over; log in with: telegram-gateway login")
        return
    found = read_old_session(move.plan.volume, move.plan.account, move.settings)
    if move.dry_run:
        click.echo(f"{found.file} would become the session of account {move.plan.account}")
        return
    changed = bring_in(found, move.plan.account, move.settings)
    click.echo(f"{move.plan.account}: {'taken from' if changed else 'already the same as'} {found.file}")
    move.state.done("sessions", file=str(found.file))


async def _copy(move: _Move) -> None:
    async with move.databases() as (old, new):
        done = await copying.copy(
            old, new, move.plan, move.settings, move.state, _report(), dry_run=move.dry_run
        )
    rate = f" in {done.seconds:.0f} s, {done.rows / done.seconds:,.0f} rows/s" if done.seconds else ""
    would = "would be carried over" if move.dry_run else "carried over"
    click.echo(f"{done.rows} messages of {done.days} days of chats that differed {would}{rate}")
    if done.rejected:
        where = "" if move.dry_run else f"; they are in {move.state.rejected}"
        click.echo(f"{done.rejected} rows have no usable id or date and are not taken{where}")
    if not move.dry_run:
        move.state.done("copy", messages=done.rows, rejected=done.rejected)


async def _verify(move: _Move) -> None:
    async with move.databases() as (old, new):
        found = await compare(old, new, move.plan)
    _show(found)
    if found.different and not move.dry_run:
        move.state.undone("verify")
    refuse_different(found, "run telegram-gateway migrate copy again")
    if not move.dry_run:
        move.state.done("verify", messages=found.old_messages, days=found.buckets)


async def _switch(move: _Move) -> None:
    if move.dry_run:
        plan = move.plan
        click.echo(f"would stop the old gateway with: {plan.stop_old or '(wait until its table rests)'}")
        await _copy(move)
        click.echo(f"would start this one with: {plan.start_new or '(left to you)'}")
        return
    if "verify" not in move.state.state.phases:
        raise NeedsOperator("not verified yet: run telegram-gateway migrate verify first, or migrate all")
    async with move.databases() as (old, new):
        await switching.switch(old, new, move.plan, move.settings, move.state, click.echo, _report())


async def _watch(move: _Move, how_long: timedelta) -> None:
    if move.dry_run:
        click.echo(f"would watch both databases for {how_long}")
        return
    async with move.databases() as (old, new):
        await switching.watch(old, new, move.settings, move.state, how_long, click.echo)


async def _all(move: _Move, how_long: timedelta) -> None:
    async def in_turn(phase: str, step: Callable[[], Any]) -> None:
        click.echo(f"== {phase}")
        started = time.monotonic()
        done = step()
        if done is not None:
            await done
        click.echo(f"-- {phase}: {time.monotonic() - started:.1f} s")

    await in_turn("preflight", lambda: _preflight(move))
    await in_turn("sessions", lambda: _sessions(move))
    await in_turn("copy", lambda: _copy(move))
    if not move.dry_run:
        await in_turn("verify", lambda: _verify(move))
    await in_turn("switch", lambda: _switch(move))
    if move.plan.start_new is not None:
        await in_turn("watch", lambda: _watch(move, how_long))


async def _rollback(move: _Move, wait_gaps: timedelta) -> None:
    async with move.databases(writable=not move.dry_run) as (old, new):
        if move.dry_run:
            found = await compare(old, new, move.plan)
            click.echo(
                f"would stop this gateway with: {move.plan.stop_new or '(left to you)'}\n"
                f"would compare {found.different_new} messages of {len(found.different)} days of chats "
                "with the old table and carry back what it lacks\n"
                f"would start the old gateway with: {move.plan.start_old or '(left to you)'}"
            )
            return
        await going_back.rollback(old, new, move.plan, move.settings, move.state, wait_gaps, click.echo)


def _show(found: Comparison) -> None:
    if found.different:
        table = Table("chat", "day", "old", "new", "differs in", box=None)
        for bucket in found.different[:SHOWN_DIFFERENCES]:
            counts = (str(bucket.old.messages), str(bucket.new.messages))
            table.add_row(bucket.channel_id, str(bucket.day), *counts, bucket.what)
        Console().print(table)
        if len(found.different) > SHOWN_DIFFERENCES:
            click.echo(f"and {len(found.different) - SHOWN_DIFFERENCES} more")
    click.echo(
        f"{found.old_messages} messages in the old database, {found.new_messages} in the new one, "
        f"{found.buckets - len(found.different)} of {found.buckets} days of chats are equal"
    )


def _report() -> Callable[[copying.Progress], None]:
    """Says now and then how far the copy is: on one line that moves at a terminal, line by line elsewhere."""
    terminal = sys.stderr.isatty()
    last = 0.0

    def report(progress: copying.Progress) -> None:
        nonlocal last
        now = time.monotonic()
        over = progress.rows >= progress.total
        if now - last < (0.2 if terminal else SECONDS_BETWEEN_LINES) and not over:
            return
        last = now
        left = progress.left_seconds
        text = (
            f"{progress.rows} of {progress.total} ({100 * progress.rows / max(progress.total, 1):.0f} %), "
            f"{progress.rate:,.0f} rows/s" + (f", about {left:.0f} s left" if left else "")
        )
        click.echo(f"\r{text}\x1b[K" if terminal else text, err=True, nl=not terminal or over)

    return report
