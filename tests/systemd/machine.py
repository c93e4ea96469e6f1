"""A real systemd to test the units on: this host's own files under an overlay, booted in systemd-nspawn.

Needs root, systemd-container and dbus. It sees a throw-away copy of the host's root file system with only
journald and D-Bus started, shares the host's network, and is up in a fraction of a second.
"""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.localstack.site import FreePorts

BOOT_SECONDS = 120.0
WAIT_SECONDS = 120.0
COMMAND_SECONDS = 300.0
ANSWER_SECONDS = 60.0
POLL_SECONDS = 0.05

# Machines share the host's network, so their units' ports are the host's.
free_port = FreePorts().take

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_numbers = itertools.count(1)

# Directories of the host whose content must not be in the machine: an installed gateway, and what the
# distribution would start at boot on the network that host and machine share.
_EMPTIED = (
    "opt/telegram-gateway",
    "etc/telegram-gateway",
    "var/lib/telegram-gateway",
    "etc/systemd/system",
    "usr/lib/systemd/system/multi-user.target.wants",
    "usr/lib/systemd/system/sockets.target.wants",
    "usr/lib/systemd/system/sysinit.target.wants",
    "usr/lib/systemd/system/timers.target.wants",
)
_TARGET = """\
[Unit]
Requires=dbus.socket systemd-journald.service
After=dbus.socket systemd-journald.service
"""
_MOUNT_THEN_BOOT = """\
scratch=$0 cgroup=$1; shift
echo $$ >"$cgroup/cgroup.procs" &&
mount -t tmpfs -o size=2g,mode=0755 tmpfs "$scratch" &&
mkdir -p "$scratch/upper" "$scratch/work" "$scratch/root" &&
mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root" &&
echo mounted &&
read -r _ &&
exec "$@" </dev/null >"$scratch/console" 2>&1
"""

# Ends the machine with the test process, however that ends: its end of the pipe closes.
_REAP = """\
cat >/dev/null
echo 1 >"$0/cgroup.kill"
while grep -q "populated 1" "$0/cgroup.events"; do sleep 0.02; done
find "$0" "$1" -depth -type d -exec rmdir {} + 2>/dev/null
rmdir /run/systemd/nspawn/*/"$2" 2>/dev/null
"""


class Unsupported(Exception):
    """This host cannot boot a systemd of its own; the message says why."""


@dataclass
class Machine:
    """A booted systemd; commands run inside it, files are written through its root."""

    root: Path
    leader: int
    _cursors: dict[str, str] = field(default_factory=dict)

    def call(self, *command: str, seconds: float = COMMAND_SECONDS) -> tuple[int, str]:
        """Runs a command inside and returns its exit code and what it printed."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.leader), "--all", "--wdns=/", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            text=True,
            timeout=seconds,
            check=False,
        )
        return done.returncode, done.stdout

    def run(self, *command: str, check: bool = True) -> str:
        """Runs a command inside that has to succeed, and returns what it printed."""
        code, said = self.call(*command)
        if check and code != 0:
            raise AssertionError(f"{' '.join(command)} ended with {code}:\n{said}")
        return said

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Runs systemctl inside."""
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def main_pid(self, unit: str) -> int:
        """The unit's main process, as numbered inside; 0 when there is none."""
        return int(self.show(unit, "MainPID"))

    def kill(self, pid: int, sig: signal.Signals) -> None:
        """Sends a signal to a process inside."""
        self.run("kill", f"-{sig.name.removeprefix('SIG')}", str(pid))

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """Writes a file of root's and returns where the host sees it."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """The unit's journal entries since `forget_journal`, oldest first; systemd's own among them."""
        self.run("journalctl", "--sync")
        after = [f"--after-cursor={cursor}"] if (cursor := self._cursors.get(unit)) else []
        lines = self.run("journalctl", "--quiet", "--output=json", "--all", f"--unit={unit}", *after)
        return [json.loads(line) for line in lines.splitlines()]

    def logged(self, unit: str) -> list[dict[str, Any]]:
        """What the unit's own processes logged, as fields of the journal."""
        return [entry for entry in self.journal(unit) if "EVENT" in entry]

    def forget_journal(self, unit: str) -> None:
        """Makes `journal` start here."""
        if entries := self.journal(unit):
            self._cursors[unit] = entries[-1]["__CURSOR"]

    def wait_until(self, what: str, holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Waits for a condition, and fails by its name."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            time.sleep(POLL_SECONDS)


@contextmanager
def booted(scratch: Path, binds: Mapping[Path, Path], prepare: Callable[[Path], None]) -> Iterator[Machine]:
    """Boots a machine and takes it down whatever happens, be it that this process is killed.

    `binds` are directories to show inside, read-only; `prepare` gets the root directory before the boot.
    Raises Unsupported where the host does not allow it.
    """
    if os.geteuid() != 0:
        raise Unsupported("booting a systemd needs root")
    if shutil.which("systemd-nspawn") is None or not Path("/usr/bin/dbus-daemon").exists():
        raise Unsupported("the Debian packages systemd-container and dbus are not installed")
    name = f"telegram-gateway-test-{os.getpid()}-{next(_numbers)}"
    with ExitStack() as cleanup:
        process = _mounted(name, scratch, binds, cleanup)
        # The mounts are in a namespace of that process alone, and go with it.
        root = Path(f"/proc/{process.pid}/root{scratch}/root")
        for directory in _EMPTIED:
            shutil.rmtree(root / directory, ignore_errors=True)
        target = root / f"etc/systemd/system/{name}.target"
        target.parent.mkdir(parents=True)
        target.write_text(_TARGET)
        prepare(root)
        yield Machine(root, _boot(process, name, root.parent / "console"))


def _own_cgroups(name: str) -> tuple[Path, Path]:
    """Control groups of the machine's own: machines side by side must not share one."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    unified = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if unified is None:
        raise Unsupported("no unified cgroup hierarchy is mounted")
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    cgroup = unified / own.removeprefix("0::").strip("/") / name
    try:
        cgroup.mkdir()
    except OSError as error:
        raise Unsupported(f"cannot make a control group: {error.strerror}") from error
    # On a hybrid host nspawn mirrors the group in systemd's own hierarchy.
    return cgroup, unified.parent / "systemd" / cgroup.relative_to(unified)


def _mounted(
    name: str, scratch: Path, binds: Mapping[Path, Path], cleanup: ExitStack
) -> subprocess.Popen[str]:
    """A process that has mounted the root, and becomes nspawn when it is told to."""
    cgroup, mirror = _own_cgroups(name)
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation=private", "/bin/sh", "-c", _MOUNT_THEN_BOOT),
            *(str(scratch), str(cgroup)),
            *("systemd-nspawn", f"--directory={scratch}/root", f"--machine={name}", "--register=no"),
            *("--keep-unit", "--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            *("--console=pipe", *(f"--bind-ro={source}:{place}" for source, place in binds.items())),
            *("--notify-ready=yes", "--boot", f"systemd.unit={name}.target"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "NOTIFY_SOCKET": f"@{name}"},
        text=True,
    )
    cleanup.enter_context(process)
    cleanup.enter_context(
        subprocess.Popen(
            ["/bin/sh", "-c", _REAP, cgroup, mirror, name], stdin=subprocess.PIPE, start_new_session=True
        )
    )
    assert process.stdout is not None
    answer = process.stdout.readline()
    if answer != "mounted\n":
        raise Unsupported(f"cannot mount: {answer.strip()}")
    return process


def _boot(process: subprocess.Popen[str], name: str, console: Path) -> int:
    """Lets it boot, and returns the machine's process 1 once its target is reached."""
    assert process.stdin is not None
    leader = 0
    # Closed once booted: systemd goes on to report, and would wait for ever for a reader.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"\0{name}")
        notify.settimeout(BOOT_SECONDS)
        process.stdin.write("boot\n")
        process.stdin.flush()
        while True:
            try:
                message = notify.recv(4096).decode()
            except TimeoutError:
                raise AssertionError(f"systemd did not boot:\n{console.read_text()}") from None
            for line in message.splitlines():
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    leader = int(line.partition("=")[2])
                elif line == "READY=1":
                    return leader
