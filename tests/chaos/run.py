"""One run of chaos: plays a schedule while messages flow, waits until all is still, and judges."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.demo.comparison import Comparison
from gateway.sandbox.world import World
from tests.bench.machine import describe
from tests.chaos.arena import Arena, arena
from tests.chaos.misfortunes import Misfortunes
from tests.chaos.oracle import judge, problems
from tests.chaos.report import Report
from tests.chaos.schedule import Action

DISK_BYTES_A_MESSAGE = 8_000
DISK_BYTES = 48 << 20
CALM_CHANGES = 150  # made once every fault is over: they, too, must arrive
CALM_RATE = 50.0
STILL_SECONDS = 3.0
LOOK_SECONDS = 1.0
JUDGE_SECONDS = 10.0  # between two judgements while something is missing
READY_SECONDS = 120.0
_LOGGED = (
    "journal_full",
    "connection_lost",
    "connection_failed",
    "sink_retry",
    "difference_too_long",
    "channel_difference_too_long",
    "answer_undecodable",
    "flood_wait",
)


@dataclass(frozen=True)
class Options:
    """What to play. `patience` bounds the wait for the last message, in seconds."""

    seed: int
    actions: Sequence[Action]
    kills: int
    messages: int
    rate: float
    patience: float
    left_out: Sequence[str] = ()


async def run(options: Options, directory: Path, report: Callable[[str], None]) -> Report:
    """Plays, waits and judges. What it leaves in `directory` is the evidence."""
    size = DISK_BYTES + options.messages * DISK_BYTES_A_MESSAGE
    async with arena(directory, seed=options.seed, disk_bytes=size) as stage:
        left_out = list(options.left_out)
        actions = list(options.actions)
        if stage.keeper.disk is None:
            actions = [action for action in actions if action.kind != "disk full"]
            left_out.append("disk full (takes root)")
        machine = (await describe(stage.stack))["machine"]
        misfortunes = Misfortunes(stage, options.seed, report)
        before = _posted(stage.sandbox.world)
        changes = stage.sandbox.world.position
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(stage.keeper.run())
            traffic = group.create_task(stage.sandbox.traffic.run(options.rate, chats=stage.chats))
            for chat in stage.side:
                await stage.start_side(chat)
            await misfortunes.run(actions)
            while _posted(stage.sandbox.world) - before < options.messages:
                await asyncio.sleep(LOOK_SECONDS)
            traffic.cancel()
            played = time.monotonic()
            await _calm(stage, report)
            results = await _settled(stage, options.patience, report)
            settled = time.monotonic()
            keeping.cancel()
        found = problems(results) + stage.keeper.ended
        logged = _logged(stage.gateway.log())
        await asyncio.to_thread(_keep_journal, stage, directory)
        return Report(
            seed=options.seed,
            machine=machine,
            seconds=played - start,
            settled_seconds=settled - played,
            messages=_posted(stage.sandbox.world) - before,
            changes=stage.sandbox.world.position - changes,
            kills=misfortunes.done["kill"] + misfortunes.done["join while down"],
            torn=stage.keeper.torn,
            restarted=stage.keeper.restarted,
            late_leaves=misfortunes.late_leaves,
            actions=misfortunes.done,
            struck=stage.sandbox.faults.injected,
            logged=logged,
            recoveries=stage.keeper.recoveries.seconds,
            results=results,
            left_out=left_out,
            problems=found,
        )


async def _calm(stage: Arena, report: Callable[[str], None]) -> None:
    """Ends every fault, and posts once more everywhere: what is still missing then shows."""
    report("all faults end")
    stage.sandbox.faults.clear()
    async with asyncio.timeout(READY_SECONDS):
        # Not `wait_ready`: one that the full disk ended at the last moment is started again by its keeper.
        while not ((status := await stage.gateway.status()) and status["ready"]):
            await asyncio.sleep(LOOK_SECONDS / 2)
    for chat in stage.side:
        await stage.stop_side(chat)
        stage.sandbox.world.post(chat, "fim")
    open_chats = [chat for chat in stage.chats if chat.migrated_to is None]
    open_chats += [chat.migrated_to for chat in stage.chats if chat.migrated_to is not None]
    await stage.sandbox.traffic.run(CALM_RATE, count=CALM_CHANGES, chats=open_chats)
    for chat in open_chats:
        stage.sandbox.world.post(chat, "fim")


async def _settled(stage: Arena, patience: float, report: Callable[[str], None]) -> list[Comparison]:
    """Judges whenever all stands still, until nothing is wrong or patience has run out."""
    deadline = time.monotonic() + patience
    while True:
        await _still(stage, deadline)
        results = await judge(stage)
        found = problems(results)
        if not found or time.monotonic() > deadline:
            return results
        report(f"{len(found)} problems so far, the first: {found[0]}")
        await asyncio.sleep(JUDGE_SECONDS)


async def _still(stage: Arena, deadline: float) -> None:
    seen: object = None
    now = still_since = time.monotonic()
    while now < min(deadline, still_since + STILL_SECONDS):
        status = await stage.gateway.status()
        state = (status and status["journal"]["last_seq"], stage.consumer.times.total())
        waiting = status is None or not status["ready"] or any(s["lag_events"] for s in status["sinks"])
        now = time.monotonic()
        if waiting or state != seen:
            seen, still_since = state, now
        await asyncio.sleep(LOOK_SECONDS / 2)


def _posted(world: World) -> int:
    """How many messages there ever were in the world."""
    return sum(chat.next_message_id - 1 for chat in world.chats.values())


def _logged(log: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for line in log.splitlines():
        try:
            counts[json.loads(line[line.index("{") :])["event"]] += 1
        except (ValueError, KeyError):
            continue  # a line that a kill cut short
    return {event: counts[event] for event in _LOGGED if counts[event]}


def _keep_journal(stage: Arena, directory: Path) -> None:
    """The journal lies on a disk that goes with the run."""
    import shutil

    kept = directory / "journal"
    kept.mkdir()
    for file in stage.gateway.state_dir.glob("journal.db*"):
        shutil.copy(file, kept)
