"""`make chaos`: all that can go wrong, at random times, while messages flow; then nothing may be missing.

The schedule is printed first and comes from the seed alone. Ends with tables in Markdown, and with 1 when
anything was lost, twice, out of order or unexplained; the evidence is kept then.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.chaos.run import Options, run
from tests.chaos.schedule import NAMES, plan

SHOWN_PROBLEMS = 20
CHANGES_A_MESSAGE = 1.13  # edits, deletions and reactions come on top of the messages


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=50.0, help="messages a second (default: 50)")
    parser.add_argument("--often", type=float, default=1.0, help="multiplies everything but the kills")
    parser.add_argument("--patience", type=float, default=420.0, help="seconds for the last message to come")
    parser.add_argument(
        "--without", action="append", default=[], metavar="ACTION", help=f"of {', '.join(NAMES)}; repeatable"
    )
    parser.add_argument("--plan", action="store_true", help="only print the schedule")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables there too")
    arguments = parser.parse_args()
    if unknown := set(arguments.without) - set(NAMES):
        parser.error(f"no action is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return arguments


async def main(arguments: argparse.Namespace) -> int:
    """Plays and prints; 1 when anything was wrong."""
    seconds = arguments.messages / arguments.rate
    actions = plan(
        arguments.seed,
        seconds=seconds,
        kills=arguments.kills,
        without=arguments.without,
        often=arguments.often,
    )
    schedule = "\n".join(map(str, actions))
    print(f"seed {arguments.seed}: {len(actions)} actions in {seconds:.0f} s\n{schedule}", flush=True)
    if arguments.plan:
        return 0
    directory = Path(tempfile.mkdtemp(prefix="telegram-chaos-"))
    directory.chmod(0o711)  # the servers' user passes through
    (directory / "schedule.txt").write_text(schedule)
    start = time.monotonic()
    options = Options(
        seed=arguments.seed,
        actions=actions,
        kills=arguments.kills,
        messages=arguments.messages,
        rate=arguments.rate * CHANGES_A_MESSAGE,
        patience=arguments.patience,
        left_out=arguments.without,
    )
    try:
        report = await run(
            options, directory, lambda text: print(f"[{time.monotonic() - start:7.1f}] {text}", flush=True)
        )
    except BaseException:
        print(f"the evidence is in {directory}", file=sys.stderr)
        raise
    table = report.markdown()
    print(f"\n{table}")
    if arguments.table:
        arguments.table.write_text(table + "\n")
    if report.problems:
        (directory / "problems.txt").write_text("\n".join(report.problems))
        print(f"\n{len(report.problems)} problems; the evidence is in {directory}. The first:")
        print("\n".join(report.problems[:SHOWN_PROBLEMS]))
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    # As installed: without cached bytecode every start of the gateway compiles all it imports for 2 s.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for noisy in ("asyncio", "aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # connections are cut on purpose
    sys.exit(uvloop.run(main(_parse())))
