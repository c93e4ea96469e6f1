"""What happens in the demo, and when: traffic all the time, and one misfortune after another."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.signals import signal as trading_signal

CALM_SECONDS = 3.0  # between two misfortunes
OUTAGE_SECONDS = 5.0
BURST = 400  # messages at once


@dataclass(frozen=True)
class Act:
    """One thing that happens, with the line that announces it. `play` returns when it is over."""

    title: str
    play: Callable[[], Awaitable[None]]


class Script:
    """The acts of the demo, in order, over and over until it is cancelled. `now` is the act being played."""

    def __init__(self, sandbox: Sandbox, stack: LocalStack | None) -> None:
        self._sandbox = sandbox
        self._stack = stack
        self.now = "trading as usual"

    async def run(self) -> None:
        """Plays until cancelled; a server that is down then is started again first."""
        while True:
            for act in self._acts():
                self.now = "trading as usual"
                await asyncio.sleep(CALM_SECONDS)
                self.now = act.title
                await act.play()

    def _acts(self) -> list[Act]:
        acts = [Act(f"a burst of {BURST} signals", self._burst)]
        if self._stack is not None:
            stack = self._stack
            acts += [
                Act("Redis is frozen", lambda: _outage(_now(stack.redis.pause), _now(stack.redis.resume))),
                Act("PgBouncer is stopped", lambda: _outage(stack.pgbouncer.stop, stack.pgbouncer.start)),
                Act("PostgreSQL is killed", lambda: _outage(stack.postgres.kill, stack.postgres.start)),
                Act("RabbitMQ is stopped", lambda: _outage(stack.rabbitmq.stop, stack.rabbitmq.start)),
            ]
        return [
            *acts,
            Act("the connection to Telegram is cut", self._cut),
            Act("Telegram restarts", lambda: self._sandbox.restart(down_seconds=1.0)),
        ]

    async def _burst(self) -> None:
        channel = next(chat for chat in self._sandbox.world.chats.values() if chat.kind == "channel")
        chance = random.Random(self._sandbox.world.position)
        self._sandbox.world.post_many(channel, [trading_signal(chance) for _ in range(BURST)])
        await asyncio.sleep(CALM_SECONDS)

    async def _cut(self) -> None:
        self._sandbox.drop_connections()
        await asyncio.sleep(CALM_SECONDS / 2)


async def _outage(begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]) -> None:
    await begin()
    try:
        await asyncio.sleep(OUTAGE_SECONDS)
    finally:
        # Also when the demo ends in the middle: what was delivered can only be counted with all servers up.
        await end()


def _now(action: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        action()

    return call
