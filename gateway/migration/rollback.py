"""The way back in one go: stops ours, carries what came since into the old table, starts the old gateway.

Every step may be run again. Nothing is deleted on either side, so that the way in can be taken again, too.
"""

import asyncio
import time
from datetime import timedelta

from gateway.errors import NeedsOperator
from gateway.migration import daemons
from gateway.migration.back import carry_back, deliver_waiting, only_there
from gateway.migration.compare import compare
from gateway.migration.daemons import Say
from gateway.migration.new import NewDatabase
from gateway.migration.old import OldTable
from gateway.migration.sessions import hand_back
from gateway.migration.state import Plan, StateFile
from gateway.migration.switch import STOPPED, SWITCHED
from gateway.settings import Settings

LOOK_SECONDS = 1.0


async def rollback(
    old: OldTable, new: NewDatabase, plan: Plan, settings: Settings, state: StateFile,
    wait_gaps: timedelta, say: Say,
) -> None:  # fmt: skip
    """Goes back. Raises NeedsOperator or GatewayError where it cannot go on; run it again then."""
    started = time.monotonic()
    if daemons.is_running(settings):
        await _close_gaps(settings, wait_gaps, say)
        if plan.stop_new is None:
            raise NeedsOperator(
                "our gateway runs: stop it (systemctl stop telegram-gateway) and run this again, "
                "or have it stopped with --stop-new COMMAND"
            )
        say(f"stopping ours: {plan.stop_new}")
        await daemons.run_command(plan.stop_new, "stop our gateway")
        await daemons.until_stopped(settings)
    waiting = await deliver_waiting(settings)
    if waiting:
        say(f"stored {waiting} events that only the journal had")
    carried = await carry_back(old, new, plan)
    say(
        f"carried back: {carried.added} messages added, {carried.edited} edited, {carried.restated} "
        "with a new status"
    )
    left = await compare(old, new, plan)
    say(
        f"both hold the same in {left.buckets - len(left.different)} of {left.buckets} days of chats"
        + (f"; {only_there(left)} messages are in the old table only" if left.different else "")
    )
    if plan.volume is not None:
        kept = await asyncio.to_thread(hand_back, plan.volume, plan.account, settings)
        say(
            "the session is the same"
            if kept is None
            else f"handed our session back; the one before it is {kept}"
        )
    if plan.start_old is None:
        say("start the old gateway now")
    else:
        say(f"starting the old gateway: {plan.start_old}")
        await daemons.run_command(plan.start_old, "start the old gateway")
    state.undone("verify", STOPPED, SWITCHED, "watch")
    state.done("rollback", added=carried.added, edited=carried.edited, restated=carried.restated)
    say(f"back in {time.monotonic() - started:.0f} s")


async def _close_gaps(settings: Settings, patience: timedelta, say: Say) -> None:
    """Gives the backfill a while: what is not fetched by now, the old gateway has to fetch, if it can."""
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        status = await daemons.status(settings)
        gaps = sum(account["open_gaps"] for account in status["accounts"]) if status else 0
        if not gaps:
            return
        if time.monotonic() >= deadline:
            say(
                f"note: {gaps} gaps are still open (telegram-gateway gaps): their messages are in "
                "neither database"
            )
            return
        await asyncio.sleep(LOOK_SECONDS)
