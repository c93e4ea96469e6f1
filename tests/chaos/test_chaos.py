"""The short form of `make chaos`: one of everything in three quarters of a minute, and nothing is lost."""

import shutil
import tempfile
from pathlib import Path

from tests.chaos.run import Options, run
from tests.chaos.schedule import plan

SEED = 3
SECONDS = 45.0
KILLS = 9
MESSAGES = 1_500
PATIENCE_SECONDS = 300.0


async def test_one_of_everything_that_can_go_wrong_loses_nothing() -> None:
    actions = plan(SEED, seconds=SECONDS, kills=KILLS)
    print(f"seed {SEED}", *actions, sep="\n")  # pytest shows it when the test fails
    directory = Path(tempfile.mkdtemp(prefix="telegram-chaos-"))
    directory.chmod(0o711)  # the servers' user passes through
    options = Options(
        seed=SEED,
        actions=actions,
        kills=KILLS,
        messages=MESSAGES,
        rate=MESSAGES / SECONDS,
        patience=PATIENCE_SECONDS,
    )
    report = await run(options, directory, print)
    print(report.markdown())
    assert report.kills > KILLS
    assert report.messages >= MESSAGES
    assert min(result.expected for result in report.results) > MESSAGES / 2, "too little was compared"
    assert not report.problems, f"the evidence is in {directory}"
    shutil.rmtree(directory)
