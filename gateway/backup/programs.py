"""PostgreSQL's own programs: found for the server's version, run without a password in sight."""

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import BackupFailed, ConfigurationError

_VERSIONS = Path("/usr/lib/postgresql")
_ERROR_LINES = 3


def client_program(name: str, server: int, versions: Path = _VERSIONS) -> Path:
    """pg_dump or pg_restore, of the server's major version or the next one above that is installed.

    An older one refuses the server; a newer pg_restore may say what the server does not understand.
    """
    installed = {
        int(path.parts[-3]): path for path in versions.glob(f"*/bin/{name}") if path.parts[-3].isdigit()
    }
    fitting = [version for version in installed if version >= server]
    if fitting:
        return installed[min(fitting)]
    elsewhere = shutil.which(name)
    if elsewhere is not None and (
        not installed or not Path(elsewhere).resolve().is_relative_to("/usr/share")
    ):
        return Path(elsewhere)
    have = f"only version {max(installed)} is installed" if installed else "it is not installed"
    raise ConfigurationError(
        f"{name} for PostgreSQL {server} is needed and {have}; "
        f"run: apt-get install postgresql-client-{server}"
    )


async def run(program: Path, *arguments: str, variables: Mapping[str, str]) -> None:
    """Runs it to its end. Raises BackupFailed with its own error lines, which hold no data of rows."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TELEGRAM_")}
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env={**environment, "LC_ALL": "C.UTF-8", **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        umask=0o077,
    )
    try:
        _, said = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        raise
    if process.returncode != 0:
        # DETAIL and CONTEXT lines may quote a row, and a row is somebody's message.
        lines = [line for line in said.decode(errors="replace").splitlines() if ": error: " in line]
        reason = "; ".join(line.strip() for line in lines[:_ERROR_LINES]) or f"exit code {process.returncode}"
        raise BackupFailed(f"{program.name} failed: {reason}")
