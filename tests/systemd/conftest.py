"""The gateway installed in a machine of its own, as production has it: a venv in /opt, the shipped units."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gateway
from tests.systemd.machine import ANSWER_SECONDS, Machine, Unsupported, booted

UNITS = Path(__file__).parents[2] / "systemd"
HOME = Path("/opt/telegram-gateway")
COMMAND = f"{HOME}/venv/bin/telegram-gateway"

_COMMAND = """\
#!/bin/sh
# The library path is for a Python that was built to stand elsewhere.
export LD_LIBRARY_PATH={python}/lib PYTHONPYCACHEPREFIX={home}/pycache
exec {home}/venv/bin/python -P -m gateway "$@"
"""
# Only what makes the tests fast, and lets the machine be slow; everything else is as shipped.
_FAST = """\
[Service]
RestartSec=100ms
TimeoutStartSec=5min
TimeoutStopSec=2min
"""


_PACKAGES = Path(sysconfig.get_path("platlib"))
_PYTHON = Path(sys.base_prefix)
# A Python below /root, say, is one that the units do not let the gateway see.
_PYTHON_INSIDE = _PYTHON if Path("/usr") == _PYTHON else HOME / "python"
_BINDS = {_PACKAGES: HOME / "packages", Path(gateway.__file__).parent: HOME / "source/gateway"} | (
    {_PYTHON: _PYTHON_INSIDE} if _PYTHON_INSIDE != _PYTHON else {}
)


def _install(root: Path) -> None:
    """This environment's Python and packages and this checkout's gateway as a venv in /opt, and the units."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    venv = root / HOME.relative_to("/") / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(_PYTHON_INSIDE / "bin" / version)
    (venv / "pyvenv.cfg").write_text(f"home = {_PYTHON_INSIDE}/bin\ninclude-system-site-packages = false\n")
    packages = venv / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    # Path files in a directory named by a path file are not read: an editable install stays without effect.
    (packages / "gateway.pth").write_text(f"{HOME}/source\n{HOME}/packages\n")
    command = venv / "bin/telegram-gateway"
    command.write_text(_COMMAND.format(home=HOME, python=_PYTHON_INSIDE))
    command.chmod(0o755)

    units = root / "etc/systemd/system"
    for shipped in UNITS.iterdir():
        if shipped.suffix in {".service", ".timer"}:
            shutil.copy(shipped, units)
        if shipped.suffix == ".service" and "Type=notify" in shipped.read_text():
            drop_in = units / f"{shipped.name}.d"
            drop_in.mkdir()
            (drop_in / "fast.conf").write_text(_FAST)
    for kind in ("sysusers", "tmpfiles"):
        shutil.copy(UNITS / f"telegram-gateway.{kind}", root / f"usr/lib/{kind}.d/telegram-gateway.conf")


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted systemd with the gateway installed and nothing of it running."""
    try:
        with booted(tmp_path_factory.mktemp("machine"), _BINDS, _install) as booted_machine:
            booted_machine.run("systemd-sysusers", "telegram-gateway.conf")
            booted_machine.run("systemd-tmpfiles", "--create", "telegram-gateway.conf")
            # As an installation compiles its packages: the unprivileged user cannot write them.
            booted_machine.run(COMMAND, "run", "--help")
            yield booted_machine
    except Unsupported as reason:
        pytest.skip(str(reason))


@dataclass(frozen=True)
class LoopbackTelegram:
    """A `telegram-gateway sandbox` process on the network that host and machine share."""

    server: str
    public_key: str
    control_url: str
    login_code: str

    def call(self, command: str, **arguments: Any) -> Any:
        """One command of its control interface."""
        request = urllib.request.Request(
            f"{self.control_url}/{command}",
            json.dumps(arguments).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)

    def describe(self) -> Any:
        """Its users and chats."""
        with urllib.request.urlopen(self.control_url, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def telegram(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackTelegram]:
    """A populated loopback Telegram."""
    state = tmp_path_factory.mktemp("telegram")
    command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", "gateway", "sandbox"]
    process = subprocess.Popen(
        [*command, "--port=0", "--control-port=0", f"--state-dir={state}"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        welcome = ""
        for line in process.stdout:
            welcome += line
            if "Control:" in line:
                break
        found = re.search(
            r"TELEGRAM_SERVER=(\S+).*PUBLIC_KEY=(\S+).*with code (\w+)\..*Control: (\S+)", welcome, re.DOTALL
        )
        assert found is not None, welcome
        yield LoopbackTelegram(
            found[1], Path(found[2]).read_text(), login_code=found[3], control_url=found[4]
        )
    finally:
        process.terminate()
        process.wait(60)
