"""The whole way in and back with both gateways on one account: no message that was posted is lost on
either way."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from gateway.localstack import LocalStack
from gateway.sandbox import Chat, Sandbox, User
from gateway.sandbox.messages import Message
from tests import old_stack
from tests.migration_rig import Move, ended, in_background, moving

PHONE = "+5511999990001"
PATIENCE_SECONDS = 120.0


@pytest_asyncio.fixture(scope="module")
async def stack() -> AsyncIterator[LocalStack]:
    async with LocalStack(servers=("postgres", "pgbouncer")) as running:
        yield running


@dataclass
class Both:
    """The old gateway runs; `channel`, `quiet` and `group` are chats of its account."""

    move: Move
    sandbox: Sandbox
    me: User
    channel: Chat
    quiet: Chat
    group: Chat
    options: list[str]
    volume: Path

    def post(self, chat: Chat, text: str) -> Message:
        return self.sandbox.world.post(chat, text)

    async def until(self, where: str, texts: set[str]) -> None:
        """Returns once all of `texts` are in the old or the new table."""
        asked = self.move.ask_old if where == "old" else self.move.ask_new
        async with asyncio.timeout(PATIENCE_SECONDS):
            while texts - {row[0] for row in await asked("SELECT text FROM telegram_gateway.messages")}:
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture
async def both(stack: LocalStack, tmp_path: Path) -> AsyncIterator[Both]:
    async with Sandbox(state_dir=tmp_path / "sandbox") as sandbox, moving(stack, tmp_path) as move:
        world = sandbox.world
        me, ana = world.add_user("Operador", phone=PHONE), world.add_user("Ana", username="ana_trader")
        channel = world.add_channel("TP Sinais", [me, ana])
        quiet = world.add_channel("Calado", [me, ana])
        group = world.add_group("Grupo da Corretora", [me, ana])
        await old_stack.fill(move.old, rows=3000, days=5)
        volume = tmp_path / "volume" / "_data"
        file = await old_stack.fill_volume(volume, sandbox, PHONE)
        old_gateway = [
            *(sys.executable, "-m", "tests.old_stack", move.old, str(file)),
            *(sandbox.host, str(sandbox.port), str(sandbox.public_key_path)),
        ]
        pids = {name: tmp_path / f"{name}.pid" for name in ("old", "new")}
        start_old = in_background(old_gateway, tmp_path / "old.log", pids["old"])
        start_new = in_background([sys.executable, "-m", "gateway", "run"], tmp_path / "new.log", pids["new"])
        move.environment = {
            "TELEGRAM_API_ID": "1",
            "TELEGRAM_API_HASH": "sandbox",
            "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
            "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
            "TELEGRAM_METRICS_ADDR": f"127.0.0.1:{stack.postgres.site.ports.take()}",
            "TELEGRAM_ENABLE_CACHE": "false",
            "TELEGRAM_ENABLE_QUEUE": "false",
        }
        options = [
            *("--volume", str(volume), "--consumer", "tp-capital"),
            *("--stop-old", ended(pids["old"]), "--start-old", start_old),
            *("--stop-new", ended(pids["new"]), "--start-new", start_new),
        ]
        await _shell(start_old)
        try:
            rig = Both(move, sandbox, me, channel, quiet, group, options, volume)
            await _until_said(tmp_path / "old.log", "ready")
            yield rig
        finally:
            for pid in pids.values():
                if pid.exists():
                    await _shell(f"kill -9 $(cat {pid}) 2>/dev/null || true")


async def test_in_and_back_and_in_again_loses_nothing_that_was_posted(both: Both) -> None:
    move = both.move
    for chat in (both.channel, both.group):
        both.post(chat, "antes")
    edited = both.post(both.channel, "a corrigir")
    await both.until("old", {"antes", "a corrigir"})
    both.sandbox.world.edit(both.channel, edited, "corrigido")
    await both.until("old", {"corrigido"})

    # What is posted while nobody looks, also where the old gateway had nothing.
    slow = ["--stop-old", f"{both.options[5]} && touch {move.directory}/stopped && sleep 4"]
    arriving = asyncio.create_task(move.run("all", *both.options, *slow, "--for", "3s"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (move.directory / "stopped").exists():
            assert not arriving.done(), arriving.result()
            await asyncio.sleep(0.05)
    meanwhile = {f"no meio {number}" for number in range(5)}
    for text in meanwhile:
        both.post(both.channel, text)
    both.post(both.quiet, "no meio, calado")
    both.post(both.group, "no meio, grupo")
    said = await arriving
    assert "-- watch:" in said
    await both.until("new", {"antes", *meanwhile, "no meio, calado", "no meio, grupo"})
    current = await move.ask_new(
        "SELECT text FROM telegram_gateway.messages_current WHERE channel_id = $1 AND message_id = $2",
        str(both.channel.marked_id_for(both.me)),
        edited.id,
    )
    assert [row[0] for row in current] == ["corrigido"]

    both.post(both.channel, "depois")
    await both.until("new", {"depois"})
    before_back = (both.volume / "telegram.session").read_bytes()
    said = await move.run("rollback")
    assert "carried back" in said
    assert (both.volume / "telegram.session").read_bytes()[:16] == before_back[:16]
    new_ids = await move.ask_new("SELECT channel_id, message_id::text FROM telegram_gateway.messages")
    old_ids = await move.ask_old(
        "SELECT channel_id, message_id, count(*) FROM telegram_gateway.messages GROUP BY 1, 2"
    )
    assert {tuple(row) for row in new_ids} <= {tuple(row)[:2] for row in old_ids}
    carried = [
        row for row in old_ids if int(row["count"]) > 1 and row["channel_id"] not in old_stack.CHANNELS
    ]
    assert not carried, "what came back is there once"

    await _until_said(move.directory / "old.log", "ready")
    both.post(both.channel, "outra vez no antigo")
    await both.until("old", {"outra vez no antigo"})
    await move.run("all", "--stop-old", both.options[5], "--for", "1s")
    await both.until("new", {"outra vez no antigo"})
    both.post(both.channel, "outra vez no novo")
    await both.until("new", {"outra vez no novo"})
    held = await move.ask_new(
        "SELECT channel_id, message_id FROM telegram_gateway.messages GROUP BY 1, 2 HAVING count(*) > 1"
    )
    assert held == []


async def _shell(command: str) -> None:
    process = await asyncio.create_subprocess_shell(command)
    assert await process.wait() == 0


async def _until_said(log: Path, text: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while text not in log.read_text():
            await asyncio.sleep(0.05)
