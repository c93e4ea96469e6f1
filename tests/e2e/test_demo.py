"""The demo, as a newcomer would run it without a screen."""

import asyncio
import sys

import pytest


async def _demo(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "demo",
        "--plain",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize(
    ("arguments", "sinks"),
    [
        (["--seconds", "14"], ["timescaledb", "redis", "rabbitmq"]),
        (["--seconds", "8", "--no-servers"], ["journal"]),
    ],
    ids=["all servers", "journal alone"],
)
async def test_the_demo_ends_with_everything_delivered(arguments: list[str], sinks: list[str]) -> None:
    code, output = await _demo(*arguments)
    assert code == 0, output
    for sink in sinks:
        (row,) = [line for line in output.splitlines() if line.startswith(f"│ {sink}")]
        assert "complete" in row
        assert "│ 0 " not in row, "nothing was posted, so nothing was compared"
    assert "Traceback" not in output
