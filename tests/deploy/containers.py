"""The services of the compose files without Docker: what an image brings is Debian's, all else is theirs.

Each service gets what Docker would give it: a root of its own (the host's under an overlay), its mounts,
secrets, environment and user, no capability, and the very command line. All share one private network, so the
ports are the real ones and nobody else's.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.deploy.compose import Service

READY_SECONDS = 240.0
POLL_SECONDS = 0.2
# The bridge between pooler and database: neither is on the other's loopback.
BRIDGE = "10.213.64.2"
_PATH = "/usr/lib/postgresql/15/bin:/usr/lib/rabbitmq/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What PostgreSQL's image does before it starts the server on an empty volume.
_POSTGRES_IMAGE = """
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb $POSTGRES_INITDB_ARGS --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --no-sync >/dev/null
    pg_ctl -s -w start -o "$(printf "%s " "$@" | cut -d" " -f2-) -c listen_addresses= -p $PGPORT"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username=postgres --dbname=postgres --file="$file"
    done
    pg_ctl -s -w -m fast stop
fi
exec "$@"
"""

# By image: the entry point in its place, and the environment that it sets.
_IMAGES: dict[str, tuple[list[str], dict[str, str]]] = {
    "timescale/timescaledb": (
        ["sh", "-euc", _POSTGRES_IMAGE, "sh"],
        {"PGDATA": "/var/lib/postgresql/data"},
    ),
    "edoburu/pgbouncer": ([], {}),
    "redis": ([], {}),
    "rabbitmq": (["rabbitmq-server"], {"HOME": "/var/lib/rabbitmq"}),
    "prom/prometheus": (["prometheus"], {}),
    "prom/alertmanager": (["prometheus-alertmanager"], {}),
    "prometheuscommunity/postgres-exporter": (["prometheus-postgres-exporter"], {}),
    "oliver006/redis_exporter": (["prometheus-redis-exporter"], {}),
}
# The extension is not in Debian, and PostgreSQL does not start with a library that it cannot find.
_NOT_MOUNTED = {"/etc/postgresql/timescaledb.conf"}

# Makes the root and becomes the service. A line for each mount comes on standard input.
_START = """
scratch=$0
mount -t tmpfs -o mode=0755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
cd "$scratch/root"
sed -i -e '/^postgres:/d' etc/passwd && echo "postgres:x:70:70::/:/bin/sh" >>etc/passwd
echo "127.0.0.1 localhost
$1 timescaledb" >etc/hosts
mount -t tmpfs -o mode=0755 tmpfs run
mkdir -m 1777 -p run/secrets run/postgresql var/log/rabbitmq
chmod 1777 var/log/rabbitmq
rm -rf etc/rabbitmq etc/redis etc/prometheus
while read -r source target mode; do
    mkdir -p ".$(dirname "$target")"
    if [ -d "$source" ]; then mkdir -p ".$target"; else touch ".$target"; fi
    mount --bind "$source" ".$target"
    if [ "$mode" = ro ]; then mount -o remount,bind,ro ".$target"; fi
done
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs tmp
if [ "$2" = read-only ]; then mount -o remount,ro "$scratch/root"; fi
shift 2
exec chroot . "$@" </dev/null
"""


class Host:
    """A private network, and the services that were started in it."""

    def __init__(self, directory: Path, secrets: Path, holder: int) -> None:
        self.directory = directory
        self._secrets = secrets
        self._holder = holder
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, service: Service) -> None:
        """Starts a service; returns before it is ready."""
        entry, _ = _image(service)
        scratch = self.directory / service.name
        scratch.mkdir(exist_ok=True)
        with self.log(service.name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "SIGKILL", "nsenter", f"--net=/proc/{self._holder}/ns/net"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--"),
                *("sh", "-euc", _START, scratch, BRIDGE),
                "read-only" if service.raw.get("read_only") else "writable",
                *_as_user(service),
                *("sh", "-c", 'cd "$0" && exec "$@"', service.raw.get("working_dir", "/")),
                *(*entry, *service.argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self._running[service.name] = process
        assert process.stdin is not None
        process.stdin.write("".join(f"{line}\n" for line in self._mounts(service)).encode())
        process.stdin.close()

    def _mounts(self, service: Service) -> list[str]:
        lines = []
        for mount in service.mounts:
            if mount.target in _NOT_MOUNTED:
                continue
            source = mount.shipped
            if source is None:
                source = self.directory / f"volume-{mount.source}"
                source.mkdir(mode=0o700, exist_ok=True)
                os.chown(source, service.uid, service.gid)
            lines.append(f"{source} {mount.target} {'ro' if mount.read_only else 'rw'}")
        return [*lines, *(f"{self._secrets / name} /run/secrets/{name} ro" for name in service.secrets)]

    def run(self, *argv: str, environment: dict[str, str] | None = None) -> str:
        """Runs a command in the network, beside the services; returns what it printed."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self._holder}/ns/net", *argv],
            env={"PATH": _PATH, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def get(self, url: str) -> str:
        """The body of an HTTP answer, from within the network; waits until somebody listens there."""
        program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=60).read().decode())"
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                return self.run(sys.executable, "-c", program, url)
            except AssertionError as refused:
                if "Connection refused" not in str(refused) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    async def wait_healthy(self, service: Service) -> None:
        """Runs the service's own health check inside it until it succeeds."""
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while True:
            process = self._running[service.name]
            assert process.returncode is None, f"{service.name} ended:\n{self.log(service.name).read_text()}"
            if inside := _children(process.pid):
                code, said = await _execute(inside[0], service, service.health)
                if code == 0:
                    return
                assert asyncio.get_running_loop().time() < deadline, (
                    f"{service.name} is not healthy: {said}\n{self.log(service.name).read_text()[-3000:]}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def execute(self, service: Service, *argv: str) -> str:
        """Runs a command inside a service, as `docker compose exec` does; returns what it printed."""
        (inside,) = _children(self._running[service.name].pid)
        code, said = await _execute(inside, service, argv)
        assert code == 0, said
        return said

    async def restart(self, service: Service) -> None:
        """Ends a service and starts it again; returns when it is healthy."""
        await self.kill(service.name)
        await self.start(service)
        await self.wait_healthy(service)

    async def kill(self, name: str) -> None:
        """Ends a service and all its processes, as a crash would."""
        process = self._running.pop(name)
        for inside in _children(process.pid):
            os.kill(inside, signal.SIGKILL)
        await process.wait()

    async def kill_all(self) -> None:
        for name in list(self._running):
            if self._running[name].returncode is None:
                await self.kill(name)

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


async def _execute(inside: int, service: Service, argv: Sequence[str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *("nsenter", f"--target={inside}", "--mount", "--net", "--pid", "--root", "--wd"),
        *_as_user(service),
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


def _children(pid: int) -> list[int]:
    """The service itself, below the process that keeps its namespaces; nothing when it has ended."""
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def _image(service: Service) -> tuple[list[str], dict[str, str]]:
    return _IMAGES[service.raw["image"].partition(":")[0]]


def _as_user(service: Service) -> list[str]:
    """The command line that gives up root, every capability and the environment for the service's own."""
    _, of_image = _image(service)
    environment = {"PATH": _PATH, "LANG": "C.UTF-8", **of_image, **service.environment}
    return [
        *("setpriv", f"--reuid={service.uid}", f"--regid={service.gid}", "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "env", "--ignore-environment"),
        *(f"{name}={value}" for name, value in environment.items()),
    ]


@asynccontextmanager
async def private_host(directory: Path, secrets: Path) -> AsyncIterator[Host]:
    """A network with a loopback and one more address of its own, gone with all that runs in it."""
    # Every user of a container passes through to what is mounted from there.
    directory.chmod(0o711)
    holder = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "SIGKILL", "unshare", "--net", sys.executable, "-c", _HOLD),
        BRIDGE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"up\n"
        host = Host(directory, secrets, holder.pid)
        try:
            yield host
        finally:
            await host.kill_all()
    finally:
        holder.kill()
        await holder.wait()


# Brings loopback up and gives it the further address, without tools that a small Debian does not have.
_HOLD = """
import fcntl, signal, socket, struct, sys
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, UP = 0x8916, 0x891C, 0x8914, 0x1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", UP))
    for request, address in ((SIOCSIFADDR, sys.argv[1]), (SIOCSIFNETMASK, "255.255.255.0")):
        packed = socket.inet_aton(address)
        fcntl.ioctl(control, request, struct.pack("16sH2x4s8x", b"lo:1", socket.AF_INET, packed))
print("up", flush=True)
signal.pause()
"""
