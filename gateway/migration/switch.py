"""From the old gateway to ours, and the look afterwards whether it holds.

The old one stops first: two users of one session end it for good. What it wrote last is carried over,
compared
once more, and only then ours starts; nobody captures in between, and nothing is lost by that, because
the journal
knows where the old one had come to (`gateway.migration.history`).
"""

import asyncio
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from gateway.control import ControlClient
from gateway.errors import NeedsOperator
from gateway.journal import open_reader
from gateway.migration import daemons
from gateway.migration.compare import compare, refuse_different
from gateway.migration.copy import Progress, copy
from gateway.migration.daemons import Say
from gateway.migration.history import begin_history
from gateway.migration.new import NewDatabase
from gateway.migration.old import OldTable
from gateway.migration.rows import CHANNELS_ABOVE
from gateway.migration.sessions import bring_in, read_old_session
from gateway.migration.state import Plan, StateFile
from gateway.settings import Settings
from gateway.telegram.history import BACKFILL_PATH, HistoryOrder

MARGIN = timedelta(minutes=1)  # the clocks of the two hosts and Telegram's
LOOK_SECONDS = 5.0

STOPPED, SWITCHED = "stop-old", "switch"


async def switch(
    old: OldTable, new: NewDatabase, plan: Plan, settings: Settings, state: StateFile,
    say: Say, report: Callable[[Progress], None],
) -> None:  # fmt: skip
    """Stops the old gateway, carries the rest over, starts ours. May be run again after a failure.

    Raises NeedsOperator where it must not go on; what it has done until then stays.
    """
    daemons.refuse_running(settings)
    stopped_at = await _stop_old(old, plan, state, say)
    copied = await copy(old, new, plan, settings, state, report)
    say(f"carried over what came last: {copied.rows} messages")
    refuse_different(
        await compare(old, new, plan),
        "the old gateway is stopped: start it again, or put it right and run switch again",
    )
    known: set[int] = set()
    states = {}
    if plan.volume is not None:
        session = read_old_session(plan.volume, plan.account, settings)
        states = session.states
        if await asyncio.to_thread(bring_in, session, plan.account, settings):
            say(f"took the session from {session.file}")
    newest = await old.chats()
    fresh = await begin_history(settings, plan.account, newest, states)
    known = newest.keys() | {-CHANNELS_ABOVE - channel for channel in states if channel}
    say(f"the journal goes on behind the newest message of {len(newest)} chats")
    if plan.start_new is None:
        say("start the gateway now: systemctl start telegram-gateway; then: telegram-gateway migrate watch")
    else:
        say(f"starting ours: {plan.start_new}")
        await daemons.run_command(plan.start_new, "start our gateway")
        await daemons.until_ready(settings)
        if fresh:
            await _fetch_unknown(plan, settings, known, stopped_at, say)
    state.done(SWITCHED, stopped_at=stopped_at, messages=copied.rows)


async def watch(
    old: OldTable, new: NewDatabase, settings: Settings, state: StateFile, how_long: timedelta, say: Say
) -> None:
    """Looks for a while whether ours works and the old one rests.

    Raises NeedsOperator as soon as the old table changes, or when ours is not ready at the end. That no
    message
    came is said, but is no failure: chats may be quiet.
    """
    before, pulse = await new.newest_arrival(), await old.pulse()
    deadline = time.monotonic() + how_long.total_seconds()
    status = await daemons.until_ready(settings)
    came = 0
    while True:
        await asyncio.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
        if await old.pulse() != pulse:
            raise NeedsOperator(
                "the old table changed: the old gateway, or one of its consumers, still runs. Stop it "
                "at once: two "
                "users of one session end it; then run migrate switch again"
            )
        status = await daemons.status(settings) or status
        came = await new.newest_arrival() - before
        if time.monotonic() >= deadline:
            break
    if not status.get("ready"):
        raise NeedsOperator(
            "the gateway is not ready any more; see telegram-gateway status, or go back: migrate rollback"
        )
    gaps = sum(account["open_gaps"] for account in status["accounts"])
    waiting = {sink["name"]: sink["lag_events"] for sink in status["sinks"] if sink["lag_events"]}
    say(
        f"{came} messages came in, the old table rests; {gaps} open gaps"
        + "".join(f", {lag} events wait for {name}" for name, lag in waiting.items())
    )
    if not came:
        say("no message came in: post one, or watch for longer (--for 10m)")
    state.done("watch", messages=came, open_gaps=gaps)


async def _stop_old(old: OldTable, plan: Plan, state: StateFile, say: Say) -> datetime:
    """Returns since when nobody captures any more, at the latest."""
    noted = state.state.phases.get(STOPPED)
    if noted is None:
        state.done(STOPPED)
        noted = state.state.phases[STOPPED]
    if plan.stop_old is not None:
        say(f"stopping the old gateway: {plan.stop_old}")
        await daemons.run_command(plan.stop_old, "stop the old gateway")
    else:
        say("no --stop-old given: taking the old gateway for stopped once its table rests")
    await daemons.until_still(old.pulse)
    clients = await old.clients()
    if clients:
        say(f"note: {clients} other connections to the old database are still open")
    return noted.at


async def _fetch_unknown(
    plan: Plan, settings: Settings, known: Collection[int], since: datetime, say: Say
) -> None:
    """Has channels fetched of which the old stack had nothing: for them our history begins with our
    first look."""
    with open_reader(settings.journal_path) as reader:
        chats = sorted(
            chat for chat in reader.ledger(plan.account) if chat < -CHANNELS_ABOVE and chat not in known
        )
    control = ControlClient(settings.state_dir)
    for chat in chats:
        order = HistoryOrder(chat=str(chat), since=since - MARGIN, account=plan.account)
        async for _ in control.stream(BACKFILL_PATH, order):
            pass
    if chats:
        say(f"asked for what {len(chats)} channels that the old gateway did not know had posted meanwhile")
