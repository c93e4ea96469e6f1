"""The gateway installed in a machine of its own, as production has it: a venv in /opt, the shipped units."""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway
from tests.systemd.machine import Machine, Unsupported, booted

UNITS = Path(__file__).parents[2] / "systemd"
HOME = Path("/opt/telegram-gateway")
COMMAND = f"{HOME}/venv/bin/telegram-gateway"

_COMMAND = """\
#!/bin/sh
# The library path is for a Python that was built to stand elsewhere.
export LD_LIBRARY_PATH={python}/lib PYTHONPYCACHEPREFIX={home}/pycache
exec {home}/venv/bin/python -P -m gateway "$@"
"""
# Only what makes the tests fast; everything else is as shipped.
_FAST = """\
[Service]
WatchdogSec=3
RestartSec=100ms
"""


def _install(root: Path) -> dict[Path, str]:
    """This environment's Python and packages and this checkout's gateway as a venv in /opt, and the units."""
    binds = {
        Path(sysconfig.get_path("platlib")): f"{HOME}/packages",
        Path(gateway.__file__).parent: f"{HOME}/gateway/gateway",
    }
    python = Path("/usr")
    if Path(sys.base_prefix) != python:
        # Such as one below /root, which the units do not let the gateway see.
        python = HOME / "python"
        binds[Path(sys.base_prefix)] = str(python)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    venv = root / HOME.relative_to("/") / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(python / "bin" / version)
    (venv / "pyvenv.cfg").write_text(f"home = {python}/bin\ninclude-system-site-packages = false\n")
    packages = venv / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    # Path files in a directory named by a path file are not read: an editable install stays without effect.
    (packages / "gateway.pth").write_text(f"{HOME}/gateway\n{HOME}/packages\n")
    command = venv / "bin/telegram-gateway"
    command.write_text(_COMMAND.format(home=HOME, python=python))
    command.chmod(0o755)

    units = root / "etc/systemd/system"
    for unit in ("telegram-gateway.service", "telegram-gateway@.service"):
        shutil.copy(UNITS / unit, units)
        drop_in = units / f"{unit}.d"
        drop_in.mkdir()
        (drop_in / "fast.conf").write_text(_FAST)
    subprocess.run(["systemd-sysusers", f"--root={root}", UNITS / "telegram-gateway.sysusers"], check=True)
    subprocess.run(
        ["systemd-tmpfiles", f"--root={root}", "--create", UNITS / "telegram-gateway.tmpfiles"], check=True
    )
    return binds


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted systemd with the gateway installed and nothing of it running."""
    try:
        with booted(tmp_path_factory.mktemp("machine"), _install) as booted_machine:
            # As an installation compiles its packages: the unprivileged user cannot write them.
            booted_machine.run(COMMAND, "run", "--help")
            yield booted_machine
    except Unsupported as reason:
        pytest.skip(str(reason))
