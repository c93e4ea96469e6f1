"""What docs/consume.md tells people to write runs as it stands."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import gateway
from gateway.consumer import QueueConsumer
from gateway.localstack import LocalStack
from tests.consumer_rig import ConsumerRig, until
from tests.sink_events import new

DOCUMENT = Path(gateway.__file__).resolve().parents[1] / "docs" / "consume.md"
PROGRAM, TRANSACTION = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
async def rig(stack: LocalStack) -> AsyncIterator[ConsumerRig]:
    async with ConsumerRig.on(stack) as rig:
        rig.name = "my-consumer"
        yield rig


async def test_the_program_of_the_document_consumes_and_stops(rig: ConsumerRig, tmp_path: Path) -> None:
    program = tmp_path / "consumer.py"
    program.write_text(PROGRAM)
    await rig.declare()
    events = [new(1), new(2, text=None), new(3, text="VALE3")]
    await rig.everywhere(*events)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        program,
        env={**os.environ, **rig.stack.environment, "PYTHONPATH": str(DOCUMENT.parents[1])},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: _has(rig, {1: "published", 2: "ignored", 3: "failed"}))
        child.terminate()
        printed, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
    assert child.returncode == 0
    assert str(events[0].content) in printed.decode()
    assert len(await rig.letters()) == 1


async def test_the_transaction_of_the_document_writes_its_row(rig: ConsumerRig) -> None:
    names: dict[str, object] = {}
    exec(TRANSACTION, names)
    handler = names["store"]
    assert callable(handler)
    await rig.database.execute("CREATE TABLE IF NOT EXISTS public.my_signals (message_id bigint, words text)")
    await rig.database.execute("TRUNCATE public.my_signals")
    async with QueueConsumer(rig.settings(), registry=rig.registry) as consumer, asyncio.TaskGroup() as group:
        group.create_task(consumer.run_in_transaction(handler))
        await consumer.ready.wait()
        await rig.publish(new(1), new(1))
        await until(lambda: rig.metric("handled_total", outcome="duplicate") == 1)
        consumer.stop()
    assert await rig.database.fetchval("SELECT array_agg(message_id) FROM public.my_signals") == [1]


def test_the_library_is_light() -> None:
    code = "import gateway.consumer, sys; print(*(name.partition('.')[0] for name in sys.modules))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert "asyncpg" in loaded
    assert not loaded & {"telethon", "apsw", "fastapi", "uvicorn", "pydantic"}


async def _has(rig: ConsumerRig, expected: dict[int, str]) -> bool:
    return await rig.states() == expected
