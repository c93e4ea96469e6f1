"""The process: how it starts, how it stops, and what it leaves with."""

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx

from gateway.api.server import STOP_SECONDS
from gateway.localstack import LocalStack
from tests.api.conftest import ANSWER_SECONDS, Api, running_api, telegram_gateway

EXPECT = "Expect: 100-continue\r\n"


async def under_way(reader: asyncio.StreamReader) -> None:
    """Returns once the server has begun with the request and wants its body."""
    async with asyncio.timeout(ANSWER_SECONDS):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")


def events(api: Api) -> list[dict[str, Any]]:
    return [json.loads(line[3:]) for line in api.log.splitlines()]


async def test_told_to_stop_it_ends_its_streams_and_leaves_cleanly_at_once(
    stack: LocalStack, tmp_path: Path
) -> None:
    took: list[float] = []
    while not took or (took[-1] >= STOP_SECONDS and len(took) < 3):  # the machine may stumble
        async with running_api(stack, tmp_path) as api:
            headers = {"Authorization": f"Bearer {await api.token()}"}
            async with (
                httpx.AsyncClient(base_url=api.url, headers=headers, timeout=ANSWER_SECONDS) as client,
                client.stream("GET", "/api/stream") as stream,
            ):
                assert stream.status_code == 200
                body = stream.aiter_bytes()
                await anext(body)  # it is under way
                began = time.monotonic()
                stopping = asyncio.ensure_future(api.stop())
                async for _ in body:
                    pass
                assert await stopping == 0
                took.append(time.monotonic() - began)
            assert [event["event"] for event in events(api)][-2:] == ["api_stopping", "api_stopped"]
            assert all(event["level"] == "info" for event in events(api))
    assert took[-1] < STOP_SECONDS, took


async def test_what_is_under_way_is_answered_and_nothing_new_is_taken(
    stack: LocalStack, tmp_path: Path
) -> None:
    async with running_api(stack, tmp_path) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        token = await api.token(("admin",))
        body = b'{"isActive": true, "hidden": false}'
        head = (
            f"PUT /api/channels/-100777 HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{EXPECT}\r\n"
        )
        writer.write(head.encode())
        await under_way(reader)
        writer.write(body[:10])
        stopping = asyncio.ensure_future(api.stop())
        async with asyncio.timeout(ANSWER_SECONDS), httpx.AsyncClient(timeout=ANSWER_SECONDS) as other:
            while True:
                try:
                    await other.get(f"{api.url}/ready")
                except httpx.TransportError:
                    break
                await asyncio.sleep(0.05)
        writer.write(body[10:])
        answer = await reader.read(1024)
        assert answer.startswith(b"HTTP/1.1 404 ")
        writer.close()
        assert await stopping == 0


async def test_killed_twice_it_does_not_wait(stack: LocalStack, tmp_path: Path) -> None:
    async with running_api(stack, tmp_path) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        head = f"POST /api/sync HTTP/1.1\r\nHost: api\r\nContent-Length: 100\r\n{EXPECT}\r\n"
        writer.write(head.encode())
        await under_way(reader)
        first = asyncio.ensure_future(api.stop())
        async with asyncio.timeout(ANSWER_SECONDS):
            while "api_stopping" not in api.log:
                await asyncio.sleep(0.02)
        assert not first.done()
        assert await api.stop(signal.SIGINT) == 0
        await first
        writer.close()


async def test_a_wrong_setting_and_a_taken_port_need_a_person(stack: LocalStack, tmp_path: Path) -> None:
    api = Api(stack, tmp_path)
    said = await telegram_gateway({**api.environment, "TELEGRAM_API_RATE_LIMIT": "-1"}, "api", code=78)
    assert "TELEGRAM_API_RATE_LIMIT" in said
    with socket.create_server(("127.0.0.1", api.port)):
        assert "TELEGRAM_API_ADDR" in await telegram_gateway(api.environment, "api", code=78)


async def test_large_answers_are_compressed_for_who_asks_and_carry_no_server_name(api: Api) -> None:
    client = api.client_with(None)
    packed = await client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    plain = await client.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(plain.content) / 4
    assert packed.json() == plain.json()
    assert "content-encoding" not in plain.headers
    assert "server" not in plain.headers
    assert plain.headers["x-content-type-options"] == "nosniff"


async def test_the_doctor_knows_the_api_from_something_else_on_its_port(
    stack: LocalStack, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    key.write_text("")
    api = Api(stack, tmp_path)
    # No Telegram at all: the doctor's other findings are not what is asked here.
    environment = {
        **api.environment,
        "TELEGRAM_SERVER": "127.0.0.1:1",
        "TELEGRAM_SERVER_PUBLIC_KEY": str(key),
        "TELEGRAM_LEASE": "false",
    }

    async def finding() -> str:
        said = await telegram_gateway(environment, "doctor", code=78)
        return next(line for line in said.splitlines() if " api: " in line)

    assert (await finding()).startswith("ok")
    await api.start()
    assert f"runs at 127.0.0.1:{api.port}" in await finding()
    await api.stop()
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", api.port):
        assert (await finding()).startswith("FAIL")
