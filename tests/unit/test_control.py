"""The control socket: who may open it, what comes over it, and what a command says when nobody answers."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from gateway.control import SOCKET_NAME, ControlClient, answer, body_of, json_lines, serve_control
from gateway.errors import ConfigurationError, GatewayError, GatewayNotRunning, NeedsOperator
from gateway.journal import Journal


class Order(msgspec.Struct):
    count: int


async def hello(request: web.Request) -> web.Response:
    return answer({"hello": request.query.get("name")})


async def double(request: web.Request) -> web.Response:
    return answer({"count": 2 * (await body_of(request, Order)).count})


async def count_up(request: web.Request) -> web.StreamResponse:
    count = (await body_of(request, Order)).count
    async with json_lines(request) as (response, send):
        for number in range(count):
            await send({"number": number})
        if count > 2:
            raise ConfigurationError("more than two is too many; ask for less")
    return response


async def refuse(_request: web.Request) -> web.Response:
    raise GatewayError("the sink is down; try again once it is up")


async def fail(_request: web.Request) -> web.Response:
    raise KeyError("secret")


ROUTES = [
    web.get("/hello", hello),
    web.post("/double", double),
    web.post("/count", count_up),
    web.post("/refuse", refuse),
    web.post("/fail", fail),
]


@asynccontextmanager
async def gateway(state_dir: Path) -> AsyncIterator[ControlClient]:
    async with serve_control(state_dir, ROUTES):
        yield ControlClient(state_dir)


async def test_questions_and_orders_are_answered(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        assert await client.get("/hello", name="João & Cia") == {"hello": "João & Cia"}
        assert await client.post("/double", Order(21)) == {"count": 42}


async def test_only_the_owner_may_open_it_and_it_goes_with_the_daemon(tmp_path: Path) -> None:
    async with gateway(tmp_path):
        assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
    assert not (tmp_path / SOCKET_NAME).exists()


@pytest.mark.parametrize("left", ["nothing", "no directory", "a socket nobody serves"])
async def test_without_a_gateway_the_command_says_what_to_start(tmp_path: Path, left: str) -> None:
    state_dir = tmp_path / "absent" if left == "no directory" else tmp_path
    if left == "a socket nobody serves":
        with socket.socket(socket.AF_UNIX) as crashed:
            crashed.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(GatewayNotRunning, match=r"no gateway runs with this state directory.*start it"):
        await ControlClient(state_dir).get("/hello")


async def test_the_socket_of_a_crashed_daemon_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(tmp_path / SOCKET_NAME))
    async with gateway(tmp_path) as client:
        assert await client.get("/hello", name="again") == {"hello": "again"}


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).write_text("somebody's notes")
    with pytest.raises(NeedsOperator, match="is no socket; move it away"):
        async with gateway(tmp_path):
            pass
    assert (tmp_path / SOCKET_NAME).read_text() == "somebody's notes"


async def test_a_second_daemon_is_stopped_before_it_can_take_the_socket(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal.db"), gateway(tmp_path) as client:
        with pytest.raises(NeedsOperator, match="in use by process"):
            async with Journal(tmp_path / "journal.db"), gateway(tmp_path):
                pass
        assert await client.get("/hello", name="first") == {"hello": "first"}


async def test_it_works_in_a_directory_whose_path_is_longer_than_a_socket_address(tmp_path: Path) -> None:
    state_dir = tmp_path / ("deep" * 30)
    state_dir.mkdir()
    async with gateway(state_dir) as client:
        assert await client.get("/hello", name="deep") == {"hello": "deep"}


async def test_a_refusal_comes_over_in_the_gateways_own_words(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        with pytest.raises(GatewayError, match=r"^the sink is down; try again once it is up$") as refused:
            await client.post("/refuse")
        assert refused.value.exit_code == 1
        with pytest.raises(GatewayError, match="does not understand the request"):
            await client.post("/double", {"count": "many"})
        with pytest.raises(GatewayError, match="has no POST /absent; restart it"):
            await client.post("/absent")


async def test_a_failure_inside_is_logged_there_and_not_told(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        with pytest.raises(GatewayError, match="its log says why") as failed:
            await client.post("/fail")
        assert "secret" not in str(failed.value)


async def test_progress_comes_line_by_line_and_an_error_ends_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as client:
        assert [line async for line in client.stream("/count", Order(2))] == [{"number": 0}, {"number": 1}]
        stream = client.stream("/count", Order(3))
        assert [await anext(stream) for _ in range(3)] == [{"number": 0}, {"number": 1}, {"number": 2}]
        with pytest.raises(NeedsOperator, match="more than two is too many"):
            await anext(stream)


async def test_a_gateway_that_stops_in_the_middle_is_told_apart_from_an_end(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        async with json_lines(request) as (response, send):
            await send("started")
            await asyncio.Event().wait()
        return response

    stream = ControlClient(tmp_path).stream("/endless")
    async with serve_control(tmp_path, [web.post("/endless", endless)]):
        assert await anext(stream) == "started"
    with pytest.raises(GatewayError, match="stopped answering in the middle"):
        await anext(stream)
