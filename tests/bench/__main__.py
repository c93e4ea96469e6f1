"""`make bench`: the gateway beside a bare Telethon client and the afternoon version, on real servers."""

import argparse
import gc
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console

from gateway.localstack import LocalStack
from tests.bench.options import MOST_MESSAGES, QUICK, SCENARIOS, SERVERS, Options
from tests.bench.run import run

TABLE_WIDTH = 170


def _options(arguments: argparse.Namespace) -> Options:
    base = QUICK if arguments.quick else Options()
    given = {
        name: value
        for name in ("messages", "seconds", "rows", "outage_seconds")
        if (value := getattr(arguments, name)) is not None
    }
    return replace(base, scenarios=frozenset(arguments.scenarios or SCENARIOS), **given)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--messages", type=int, help=f"in the burst, at most {MOST_MESSAGES:,}")
    parser.add_argument("--seconds", type=float, help="at each rate")
    parser.add_argument("--rows", type=int, help="in the backlog")
    parser.add_argument("--outage-seconds", type=float, help="that each server is down")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if (arguments.messages or 0) > MOST_MESSAGES:
        parser.error(
            f"--messages is at most {MOST_MESSAGES}: the sandbox drops a client that is further behind"
        )
    return arguments


async def main(arguments: argparse.Namespace) -> int:
    """Prints the table; 1 when a scenario could not be measured, and the processes' logs are kept then."""
    progress = Console(stderr=True, log_path=False)
    directory = Path(tempfile.mkdtemp(prefix="telegram-bench-"))
    async with LocalStack(servers=SERVERS) as stack:
        report = await run(_options(arguments), stack, directory, lambda text: progress.log(text))
    report.render(Console(width=None if sys.stdout.isatty() else TABLE_WIDTH))
    if arguments.json:
        report.write(arguments.json)
    if report.failures:
        progress.log(f"the logs are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    # As installed: without cached bytecode every process spends 2 s and 80 MB on compiling what it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # the broker is stopped on purpose
    # The consumer that takes the times is in this process: it must not stop for the collector.
    gc.collect()
    gc.freeze()
    sys.exit(uvloop.run(main(_parse())))
