"""Both gateways from the outside: starting and stopping by the operator's commands, and whether they
still work."""

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec

from gateway.errors import GatewayError, NeedsOperator
from gateway.settings import Settings

COMMAND_SECONDS = 300.0
READY_SECONDS = 120.0
ANSWER_SECONDS = 5.0
STILL_SECONDS = 3.0  # an old table that does not change for this long is taken for stopped
STOPPING_SECONDS = 60.0
LOOK_SECONDS = 0.5

Say = Callable[[str], None]


async def run_command(command: str, what: str) -> None:
    """Runs the operator's own command line in a shell. Raises NeedsOperator when it fails."""
    process = await asyncio.create_subprocess_shell(command)
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            code = await process.wait()
    except TimeoutError:
        raise NeedsOperator(
            f"the command to {what} did not end within {COMMAND_SECONDS:.0f} s: {command}"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        raise NeedsOperator(f"the command to {what} failed with exit code {code}: {command}")


async def status(settings: Settings) -> dict[str, Any] | None:
    """What our daemon says of itself; None when nothing answers."""
    host, port = settings.metrics_addr
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as http,
            http.get(f"http://{host}:{port}/status") as answer,
        ):
            found = msgspec.json.decode(await answer.read())
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) and "sinks" in found else None


def is_running(settings: Settings) -> bool:
    """Whether a process has the journal of this state directory, which the daemon holds until its very
    end."""
    path = settings.journal_path.with_name(settings.journal_path.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def refuse_running(settings: Settings) -> None:
    """Raises NeedsOperator while our daemon runs."""
    if is_running(settings):
        raise NeedsOperator(
            f"a gateway runs with the state directory {settings.state_dir}: stop it first "
            "(systemctl stop telegram-gateway)"
        )


async def until_stopped(settings: Settings) -> None:
    """Returns once our daemon is gone. Raises NeedsOperator when it stays."""

    async def gone() -> bool:
        return not is_running(settings)

    await _until(gone, STOPPING_SECONDS, "the gateway still runs; stop it, and run this again")


async def until_ready(settings: Settings) -> dict[str, Any]:
    """Returns our daemon's status once it is ready. Raises GatewayError when it is not in time."""
    found: dict[str, Any] | None = None

    async def ready() -> bool:
        nonlocal found
        found = await status(settings)
        return bool(found and found.get("ready"))

    await _until(
        ready,
        READY_SECONDS,
        "the gateway is not ready; see telegram-gateway status and its log, "
        "then run migrate switch again, or go back with migrate rollback",
    )
    assert found is not None
    return found


async def until_still(pulse: Callable[[], Awaitable[object]]) -> None:
    """Returns once the old table has not changed for a while. Raises NeedsOperator when it goes on
    changing."""
    deadline = time.monotonic() + STOPPING_SECONDS
    last = await pulse()
    while time.monotonic() < deadline:
        await asyncio.sleep(STILL_SECONDS)
        now = await pulse()
        if now == last:
            return
        last = now
    raise NeedsOperator(
        "the old table is still written to: stop the old stack (all of it), and run this again"
    )


async def _until(condition: Callable[[], Awaitable[bool]], within: float, otherwise: str) -> None:
    try:
        async with asyncio.timeout(within):
            while not await condition():  # noqa: ASYNC110 - another process does not call back
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise GatewayError(otherwise) from None
