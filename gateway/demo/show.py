"""The demo as a whole: sandbox, servers, gateway, consumer, script, screen, and the reckoning at the end."""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from gateway.demo.comparison import (
    Comparison,
    compare_cache,
    compare_database,
    compare_journal,
    compare_queue,
    expectations,
)
from gateway.demo.consumer import SampleConsumer
from gateway.demo.process import GatewayProcess
from gateway.demo.screen import Screen, print_result
from gateway.demo.script import Script
from gateway.localstack import LocalStack, missing_servers
from gateway.sandbox import Sandbox
from gateway.sandbox.scene import phone, populate
from gateway.sandbox.truth import TruthEvent

FRAME_SECONDS = 0.25
LINE_SECONDS = 1.0
STILL_SECONDS = 2.0
PATIENCE_SECONDS = 90.0
# Without Sentinels: they would replace a Redis that is frozen, and the gateway is told only of the first.
SERVERS = ("postgres", "pgbouncer", "redis", "rabbitmq")


async def run_demo(
    console: Console, *, seconds: float | None, plain: bool, rate: float, with_servers: bool
) -> bool:
    """Plays for `seconds` (None: until cancelled); returns whether every sink got everything."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telegram-demo-")))
        missing = missing_servers() if with_servers else []
        servers: LocalStack | None = None
        if not with_servers:
            console.print("Without servers: every sink is off, the journal alone is compared.")
        elif missing:
            console.print(
                f"These servers are not installed: {', '.join(missing)}. The demo runs on the journal alone, "
                f"every sink off. To see them all: apt-get install {' '.join(missing)}"
            )
        else:
            console.print("Starting PostgreSQL, PgBouncer, Redis and RabbitMQ…")
            servers = await stack.enter_async_context(LocalStack(servers=SERVERS))
        sandbox = await stack.enter_async_context(Sandbox(state_dir=directory / "sandbox"))
        scene = populate(sandbox.world)
        gateway = GatewayProcess(directory, _environment(sandbox, servers))
        stack.push_async_callback(gateway.close)
        screen = Screen()
        consumer = None
        if servers is not None:
            await gateway.command("db", "migrate")
            url = servers.environment["TELEGRAM_RABBITMQ_URL"]
            consumer = SampleConsumer(url, on_event=screen.arrived)
            await stack.enter_async_context(consumer.running())
        console.print("Logging in and starting the gateway…")
        await gateway.login(phone(0))
        await gateway.start()
        since = sandbox.world.position

        await _play(console, sandbox, servers, gateway, screen, seconds=seconds, plain=plain, rate=rate)
        console.print("Waiting for what is still on its way…")
        truth = sandbox.truth(scene.accounts[0], since)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            await _settle(gateway, consumer, deadline)
            results = await _compare(gateway, servers, consumer, truth)
            # A gateway that is just connecting again stands still as well.
            if time.monotonic() > deadline or not any(result.problems for result in results):
                break
        console.print(f"{len(truth)} changes to {len(expectations(truth))} messages were made.")
        print_result(console, results)
        return not any(result.problems for result in results)


async def _play(
    console: Console,
    sandbox: Sandbox,
    servers: LocalStack | None,
    gateway: GatewayProcess,
    screen: Screen,
    *,
    seconds: float | None,
    plain: bool,
    rate: float,
) -> None:
    script = Script(sandbox, servers)

    async def show() -> None:
        with Live(console=console, screen=not plain, auto_refresh=False, redirect_stdout=False) as live:
            while True:
                status = await gateway.status()
                posted = sandbox.world.position
                if plain:
                    console.print(screen.line(status, posted, script.now), highlight=False, soft_wrap=True)
                else:
                    frame = screen.draw(status, posted, script.now, console.height)
                    live.update(frame, refresh=True)
                await asyncio.sleep(LINE_SECONDS if plain else FRAME_SECONDS)

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(sandbox.traffic.run(rate))
            group.create_task(script.run())
            group.create_task(show())


async def _settle(gateway: GatewayProcess, consumer: SampleConsumer | None, deadline: float) -> None:
    """Returns once journal, sinks and consumer have stood still for a while with nothing waiting."""
    seen: object = None
    now = still_since = time.monotonic()
    while now < min(deadline, still_since + STILL_SECONDS):
        status = await gateway.status()
        state = (
            status and status["journal"]["last_seq"],
            status and [(sink["cursor"], sink["up"]) for sink in status["sinks"]],
            consumer and consumer.times.total(),
        )
        waiting = status is None or any(sink["lag_events"] for sink in status["sinks"])
        now = time.monotonic()
        if state != seen or waiting:
            seen, still_since = state, now
        await asyncio.sleep(FRAME_SECONDS)


async def _compare(
    gateway: GatewayProcess,
    servers: LocalStack | None,
    consumer: SampleConsumer | None,
    truth: list[TruthEvent],
) -> list[Comparison]:
    if servers is None or consumer is None:
        return [compare_journal(gateway.journal_path, truth)]
    environment = servers.environment
    return [
        await compare_database(environment["TELEGRAM_DB_DIRECT_DSN"], truth),
        await compare_cache(environment["TELEGRAM_REDIS_URL"], truth),
        compare_queue(consumer, truth),
    ]


def _environment(sandbox: Sandbox, servers: LocalStack | None) -> dict[str, str]:
    telegram = {
        "TELEGRAM_API_ID": "1",
        "TELEGRAM_API_HASH": "sandbox",
        "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
        "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
    }
    if servers is not None:
        return telegram | servers.environment
    return telegram | dict.fromkeys(
        ("TELEGRAM_ENABLE_DB", "TELEGRAM_ENABLE_CACHE", "TELEGRAM_ENABLE_QUEUE"), "false"
    )
