"""Releases to install and to upgrade to, made without a network: checkouts of several versions, a wheelhouse.

The gateway's wheels are built as `deploy/bin/wheelhouse` builds them. The packages it needs are those of this
environment, each packed again into a wheel from the list of its files: what `pip` installs from them is what
the tests run on, but their hashes are not the registry's.
"""

import csv
import io
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
_CHECKOUT = (
    "deploy",
    "gateway",
    "sql",
    "systemd",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements.txt",
)
# What an installer wrote beside the package.
_INSTALLERS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def checkout(place: Path, version: str) -> Path:
    """A copy of this checkout, as a version of its own."""
    place.mkdir(parents=True)
    for name in _CHECKOUT:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, place / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, place)
    change(place / "gateway/__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"')
    return place


def change(file: Path, pattern: str, replacement: str) -> None:
    """Replaces the one place where `pattern` matches."""
    text, changed = re.subn(pattern, replacement, file.read_text())
    assert changed == 1, f"{pattern} matches {changed} times in {file}"
    file.write_text(text)


def add_migration(checkout: Path, name: str) -> None:
    """One more step of the schema: a table."""
    number = len(list((checkout / "sql").glob("*.up.sql"))) + 1
    (checkout / f"sql/{number:04d}_{name}.up.sql").write_text(
        f"CREATE TABLE telegram_gateway.{name} (n integer PRIMARY KEY);\n"
    )
    (checkout / f"sql/{number:04d}_{name}.down.sql").write_text(f"DROP TABLE telegram_gateway.{name};\n")


def change_journal(checkout: Path) -> None:
    """One more version of the journal: older programs refuse it."""
    schema = checkout / "gateway/journal/schema.py"
    version = re.search(r"^SCHEMA_VERSION = (\d+)", schema.read_text(), re.MULTILINE)
    assert version is not None
    change(schema, rf"SCHEMA_VERSION = {version[1]}\b", f"SCHEMA_VERSION = {int(version[1]) + 1}")
    change(schema, r"(steps = {[^}]*)}", rf'\1, {version[1]}: "SELECT 1"}}')


def never_ready(checkout: Path) -> None:
    """The daemon works, and never says that it does."""
    change(
        checkout / "gateway/daemon.py",
        r"        self\._ready = True\n",
        "        await asyncio.Event().wait()\n",
    )


def wheelhouse(place: Path, *checkouts: Path) -> Path:
    """The gateway's wheel of each checkout, and all packages it needs."""
    place.mkdir(parents=True)
    for source in checkouts:
        build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
        subprocess.run(
            [sys.executable, "-c", build, place], cwd=source, check=True, capture_output=True, text=True
        )
    for needed in _needed():
        _packed(needed, place)
    sums = (f"{sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n" for wheel in place.glob("*.whl"))
    (place / "SHA256SUMS").write_text("".join(sums))
    return place


def _needed() -> Iterator[metadata.Distribution]:
    """Everything that the gateway needs, as it is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [(requirement, "") for requirement in project["dependencies"]]
    given: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        distribution = metadata.distribution(requirement.name)
        if distribution.name not in given:
            given.add(distribution.name)
            yield distribution
        for each in {"", *requirement.extras} - {done for name, done in seen if name == distribution.name}:
            seen.add((distribution.name, each))
            waiting += [(needed, each) for needed in distribution.requires or ()]


def _packed(distribution: metadata.Distribution, place: Path) -> None:
    """The wheel that an installed package came from, by the list of its files; its scripts come anew."""
    described = distribution.read_text("WHEEL") or ""
    tags = [line.removeprefix("Tag:").strip().split("-") for line in described.splitlines() if "Tag:" in line]
    tag = "-".join(".".join(sorted(set(part))) for part in zip(*tags, strict=True))
    files = [file for file in distribution.files or () if not str(file).startswith("..")]
    info = next(file.parts[0] for file in files if file.parts[0].endswith(".dist-info"))
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(place / f"{info.removesuffix('.dist-info')}-{tag}.whl", "w") as wheel:
        for file in files:
            if file.suffix == ".pyc" or (file.parts[0] == info and file.name in _INSTALLERS):
                continue
            wheel.writestr(str(file), Path(str(file.locate())).read_bytes())
            rows.writerow([file, f"sha256={file.hash.value}" if file.hash else "", file.size or ""])
        rows.writerow([f"{info}/RECORD", "", ""])
        wheel.writestr(f"{info}/RECORD", record.getvalue())
