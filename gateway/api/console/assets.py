"""The console's static files, held in memory: a fixed set, so a path never reaches the file system."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

MEDIA_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file as it is served."""

    body: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Every static file by its path below `static/`."""
    found: dict[str, Asset] = {}
    _collect(files("gateway.api.console") / "static", "", found)
    return found


def _collect(folder: Traversable, prefix: str, found: dict[str, Asset]) -> None:
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            _collect(entry, f"{path}/", found)
        elif (media_type := MEDIA_TYPES.get(path[path.rfind(".") :])) is not None:
            body = entry.read_bytes()
            found[path] = Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
