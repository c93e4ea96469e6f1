"""The host of the great rehearsal: a machine to install on, servers and Telegram beside it, and what is lost.

It differs from a customer's host in this: the packages come from a wheelhouse that was packed from this
environment, the Python is this environment's, and the servers run on the network that host and machine share.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from gateway.demo.comparison import compare_queue, judge_rows
from gateway.demo.consumer import SampleConsumer
from gateway.demo.expected import history_of
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import Scene, phone, populate
from tests import old_stack
from tests.systemd.machine import ANSWER_SECONDS, Machine, booted, free_port
from tests.systemd.releases import add_migration, change_journal, checkout, never_ready, wheelhouse

SOURCES = Path("/srv/telegram-gateway")  # where the machine has the checkouts and the wheelhouse
GATEWAY, API, WORKER = (f"telegram-gateway{name}.service" for name in ("", "-api", "-tp-capital"))
FIRST, NEXT, BROKEN = "0.1.0", "0.2.0", "0.3.0"
OLD_VOLUME = "/var/lib/docker/volumes/telegram/_data"
COMMAND_SECONDS = 900.0  # on a machine that has much else to do
PATIENCE_SECONDS = 300.0
API_HASH = "0123456789abcdef0123456789abcdef"

_PYTHON = Path(sys.base_prefix)
# A Python below /root, say, is one that the units do not let the gateway see.
_PYTHON_INSIDE = _PYTHON if Path("/usr") == _PYTHON else Path("/opt/python")
PYTHON = f"{_PYTHON_INSIDE}/bin/python{sys.version_info.major}.{sys.version_info.minor}"

# `make rehearsal` takes ten times as many.
ROWS = int(os.environ.get("REHEARSAL_ROWS", "20000"))
_ROWS = """
SELECT account_scope, channel_id, message_id, text, caption, is_deleted
FROM telegram_gateway.messages_current WHERE channel_id <> ALL ($1::text[])
"""
_EVENT_IDS = """
SELECT event_id FROM telegram_gateway.messages WHERE channel_id <> ALL ($1::text[])
UNION ALL SELECT event_id FROM telegram_gateway.message_revisions WHERE channel_id <> ALL ($1::text[])
"""


def prepare_sources(place: Path) -> Path:
    """Three versions: each newer one has another schema and journal, the third a fault."""
    checkouts = [checkout(place / version, version) for version in (FIRST, NEXT, BROKEN)]
    for newer in checkouts[1:]:
        add_migration(newer, "rehearsed")
        change_journal(newer)
    add_migration(checkouts[-1], "broken")
    change_journal(checkouts[-1])
    never_ready(checkouts[-1])
    wheelhouse(place / "wheelhouse", *checkouts)
    return place


@dataclass
class Host:
    """The machine with the sources in it, the Telegram that it talks to, and its servers."""

    machine: Machine
    stack: LocalStack
    sandbox: Sandbox
    scene: Scene
    consumer: SampleConsumer
    ports: dict[str, int]
    since: int = 0  # the world's position when the gateway was first ready
    elsewhere: tuple[str, ...] = ()  # chats that are not of this Telegram: the old stack's
    old_dsn: str = ""
    restored: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase of the rehearsal."""
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began

    async def run(self, *command: str | Path, code: int = 0) -> str:
        """Runs a command in the machine, and fails unless it ends with `code`."""
        words = [str(word) for word in command]
        ended, said = await asyncio.to_thread(self.machine.call, *words, seconds=COMMAND_SECONDS)
        assert ended == code, f"{' '.join(words)} ended with {ended}, not {code}:\n{said}"
        return said

    async def script(self, version: str, name: str, *arguments: str, code: int = 0) -> str:
        """Runs one of `deploy/bin` of a version's checkout."""
        return await self.run(SOURCES / version / "deploy/bin" / name, *arguments, code=code)

    async def install(self, version: str, name: str, *arguments: str, code: int = 0) -> str:
        """`install` or `upgrade`, from the wheelhouse."""
        given = (f"--wheelhouse={SOURCES}/wheelhouse", f"--python={PYTHON}")
        words = [word for option in given for word in option.split("=")]
        return await self.script(version, name, *words, *arguments, code=code)

    def configure(self) -> None:
        """What an operator writes into the shipped file: the application, the Telegram, and free ports."""
        settings = {
            "TELEGRAM_API_ID": "12345",
            "TELEGRAM_BACKUP_DB_USER": "postgres",
            "TELEGRAM_SERVER": f"{self.sandbox.host}:{self.sandbox.port}",
            "TELEGRAM_SERVER_PUBLIC_KEY": "/etc/telegram-gateway/server.pem",
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{self.ports[GATEWAY]}",
            "TELEGRAM_API_ADDR": f"127.0.0.1:{self.ports[API]}",
            "TP_CAPITAL_METRICS_ADDR": f"127.0.0.1:{self.ports[WORKER]}",
        }
        file = self.machine.root / "etc/telegram-gateway/telegram-gateway.env"
        with file.open("a") as stream:
            stream.writelines(f"{name}={value}\n" for name, value in settings.items())
        self.machine.write("/etc/telegram-gateway/server.pem", self.sandbox.public_key_path.read_text())

    def write_credentials(self, directory: str) -> None:
        """The servers' addresses, passwords included, and the application's hash, for `install` to take."""
        environment = self.stack.environment
        names = ("DB_DSN", "DB_DIRECT_DSN", "REDIS_URL", "RABBITMQ_URL")
        secrets = {f"telegram_{name.lower()}": environment[f"TELEGRAM_{name}"] for name in names}
        # The superuser's: backups are restored on trial, and the old stack's database is on the same server.
        password = str(urlsplit(self.stack.postgres.admin_dsn).password)
        secrets |= {"api_hash": API_HASH, "backup_db_password": password, "old_db_password": password}
        for name, secret in secrets.items():
            self.machine.write(f"{directory}/{name}", f"{secret}\n", 0o600)

    async def make_old_stack(self, scratch: Path) -> old_stack.OldStack:
        """A predecessor with `ROWS` rows in its database, and a login in its container's volume."""
        admin_dsn = self.stack.postgres.admin_dsn
        self.old_dsn = await old_stack.create_database(admin_dsn)
        made = await old_stack.fill(self.old_dsn, rows=ROWS)
        file = await old_stack.fill_volume(scratch / "volume", self.sandbox, phone(0))
        inside = self.machine.root / OLD_VOLUME.lstrip("/")
        await asyncio.to_thread(shutil.copytree, file.parent, inside)
        self.elsewhere = old_stack.CHANNELS
        return made

    async def move(self, script: str, *arguments: str) -> str:
        """`migrate` or `rollback-migration`, as an operator of the old stack runs it."""
        without_password = re.sub(r":[^:@/]+@", "@", self.old_dsn)
        told = (f"--old-dsn={without_password}", f"--volume={OLD_VOLUME}", "--consumer=tp-capital")
        return await self.script(FIRST, script, *told, *arguments)

    async def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""

        def ask() -> Any:
            address = f"http://127.0.0.1:{self.ports[GATEWAY]}/status"
            with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)

        status: dict[str, Any] = await asyncio.to_thread(ask)
        return status

    async def ask(self, query: str, *arguments: Any, old: bool = False) -> list[Any]:
        """What our database says, or the old stack's."""
        connection = await asyncpg.connect(self.old_dsn if old else self.stack.postgres.dsn)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def migrations(self) -> int:
        """How many steps of the schema the database has."""
        return len(await self.ask("SELECT FROM telegram_gateway.schema_migrations"))

    async def wipe(self) -> None:
        """What a dead disk leaves: no database, no journal, no session."""
        await self.ask("DROP SCHEMA telegram_gateway, tp_capital CASCADE")
        await self.run("sh", "-c", "rm -r /var/lib/telegram-gateway/* /opt/telegram-gateway/.session/*")

    async def post(self, count: int) -> None:
        """`count` changes of every kind, all over the world."""
        await self.sandbox.traffic.run(50, count=count)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Changes go on while the block runs."""
        await self.sandbox.traffic.start(20)
        try:
            yield
        finally:
            await self.sandbox.traffic.stop()

    async def differences(self) -> list[str]:
        """What database and broker lack, or have too much, beside the ground truth.

        Whoever saw a message before a wipe is not told what became of its words until the restore: after one,
        a reader of the broker has to have every message, in whatever words.
        """
        truth = self.sandbox.truth(self.scene.accounts[0], self.since)
        history = history_of(self.scene.accounts)
        rows = [dict(row) for row in await self.ask(_ROWS, self.elsewhere)]
        ids = [row["event_id"] for row in await self.ask(_EVENT_IDS, self.elsewhere)]
        results = [
            judge_rows(rows, ids, truth, history=history),
            compare_queue(self.consumer, truth, history=history),
        ]
        problems = [f"{result.sink}: {problem}" for result in results for problem in result.problems]
        untold = ("has old or other words", "was deleted, which did not arrive")
        return [
            problem
            for problem in problems
            if not (self.restored and problem.startswith("rabbitmq") and problem.endswith(untold))
        ]

    async def everything_arrives(self) -> None:
        """Waits until nothing is missing; fails with what still is."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while problems := await self.differences():
            assert time.monotonic() < deadline, f"{len(problems)} problems, the first: {problems[:10]}"
            await asyncio.sleep(0.5)

    def journal(self) -> str:
        """The gateway's part of the machine's journal, for a test that failed."""
        return self.machine.run("journalctl", "--no-pager", "--lines=200", "--unit=telegram-gateway*")


@asynccontextmanager
async def rehearsal_host(scratch: Path) -> AsyncIterator[Host]:
    """Everything is there but the gateway. Raises Unsupported where no machine can be booted."""
    with ExitStack() as cleanup:
        sources = await asyncio.to_thread(prepare_sources, scratch / "sources")
        binds = {sources: SOURCES} | ({_PYTHON: _PYTHON_INSIDE} if _PYTHON_INSIDE != _PYTHON else {})
        (scratch / "machine").mkdir()
        machine = await asyncio.to_thread(
            cleanup.enter_context, booted(scratch / "machine", binds, _let_python_find_its_library)
        )
        await asyncio.to_thread(machine.run, "ldconfig")
        async with (
            LocalStack(servers=("postgres", "pgbouncer", "redis", "rabbitmq")) as stack,
            Sandbox(state_dir=scratch / "sandbox") as sandbox,
        ):
            # As Telegram does: a difference has messages in their present form, and none that are gone.
            sandbox.world.replays_revisions = False
            consumer = SampleConsumer(stack.environment["TELEGRAM_RABBITMQ_URL"], name="rehearsal")
            yield Host(machine, stack, sandbox, populate(sandbox.world), consumer, _free_ports())


def _let_python_find_its_library(root: Path) -> None:
    """A Python that was built to stand elsewhere looks for its own library there."""
    (root / "etc/ld.so.conf.d/rehearsal.conf").write_text(f"{_PYTHON_INSIDE}/lib\n")


def _free_ports() -> dict[str, int]:
    return {unit: free_port() for unit in (GATEWAY, API, WORKER)}
