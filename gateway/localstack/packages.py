"""Finds the servers that Debian's packages installed, and names the packages of those that are absent."""

import shutil
from pathlib import Path

from gateway.errors import ConfigurationError

POSTGRES_VERSION_MIN = 15
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RABBITMQ = Path("/usr/lib/rabbitmq/bin")


def _postgres_directory() -> Path | None:
    versions = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
        if path.parts[-3].isdigit() and int(path.parts[-3]) >= POSTGRES_VERSION_MIN
    ]
    return max(versions, key=lambda path: int(path.parts[-2]), default=None)


def _find(name: str) -> Path | None:
    if name in {"postgres", "initdb", "psql", "pg_config"}:
        directory = _postgres_directory()
        return directory / name if directory is not None and (directory / name).exists() else None
    if name.startswith("rabbitmq"):
        # Debian's wrappers in the PATH insist on their own user; the scripts behind them run as anybody.
        return _RABBITMQ / name if (_RABBITMQ / name).exists() else None
    found = shutil.which(name, path=_SEARCH_PATH)
    return Path(found) if found else None


# Program -> the Debian package that brings it.
_PACKAGES = {
    "postgres": "postgresql",
    "psql": "postgresql-client",
    "pgbouncer": "pgbouncer",
    "redis-server": "redis-server",
    "rabbitmq-server": "rabbitmq-server",
    "epmd": "erlang-base",
}


def missing_servers() -> list[str]:
    """The Debian packages to install before a LocalStack can start; empty when everything is there."""
    return sorted({package for program, package in _PACKAGES.items() if _find(program) is None})


def program(name: str) -> Path:
    """Where a server's program is. Raises ConfigurationError with the line that installs what is missing."""
    found = _find(name)
    if found is None:
        packages = missing_servers() or [_PACKAGES.get(name, name)]
        raise ConfigurationError(f"{name} is not installed; run: apt-get install {' '.join(packages)}")
    return found


def timescaledb_installed() -> bool:
    """Whether PostgreSQL can load the timescaledb extension."""
    directory = _postgres_directory()
    if directory is None:
        return False
    return Path("/usr/share/postgresql", directory.parts[-2], "extension/timescaledb.control").exists()
