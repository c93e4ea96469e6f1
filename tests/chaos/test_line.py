"""The proxy line: what passes, what is held, and what a client sees of a server that is down."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.chaos.line import Line

ANSWER_SECONDS = 60.0
HELD_SECONDS = 0.2


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1024):
        writer.write(data)
    writer.close()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    made = Line(server.sockets[0].getsockname()[1])
    await made.start()
    yield made
    await made.close()
    server.close()


async def test_a_stalled_line_holds_what_is_said_and_hands_it_on_afterwards(line: Line) -> None:
    reader, writer = await line.create_client()
    async with line.stalled(requests=True):
        writer.write(b"first")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(5), HELD_SECONDS)
    assert await asyncio.wait_for(reader.readexactly(5), ANSWER_SECONDS) == b"first"
    writer.close()


async def test_a_cut_line_ends_its_connections_and_takes_new_ones(line: Line) -> None:
    reader, writer = await line.create_client()
    writer.write(b"first")
    await reader.readexactly(5)
    await line.cut()
    assert await asyncio.wait_for(reader.read(), ANSWER_SECONDS) == b""
    writer.close()
    reader, writer = await line.create_client()
    writer.write(b"again")
    assert await asyncio.wait_for(reader.readexactly(5), ANSWER_SECONDS) == b"again"
    writer.close()


async def test_a_server_that_is_down_refuses_rather_than_keeps_silent(line: Line) -> None:
    line.target_port = 1  # nobody listens there
    reader, writer = await line.create_client()
    with pytest.raises((ConnectionError, EOFError)):
        await asyncio.wait_for(reader.readexactly(1), ANSWER_SECONDS)
    writer.close()
    assert not line.clients
