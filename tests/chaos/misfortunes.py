"""Carries out a schedule: every kind of action, what it does to the arena, and how long it holds."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import apsw

from gateway.localstack.process import Server
from gateway.sandbox.chats import Chat
from gateway.sandbox.users import User
from gateway.sandbox.wire.faults import PushFault
from tests.chaos.arena import NAMES, Arena
from tests.chaos.schedule import Action

FAREWELL_SECONDS = 60.0  # that a leave waits for the gateway to have what was posted before
LOOK_SECONDS = 0.3
BURST = 300  # messages
BURST_SECONDS = 0.5
PUSH_SHARE = 0.5  # of the pushes that a push fault strikes until its count is used up

_SINKS = {"postgres": "timescaledb", "pgbouncer": "timescaledb", "redis": "redis", "rabbitmq": "rabbitmq"}
_HAS_ALL = """
SELECT EXISTS (SELECT 1 FROM ledger WHERE account = ?1 AND chat = ?2 AND top >= ?3)
    AND EXISTS (SELECT 1 FROM channel_state WHERE account = ?1 AND channel_id = ?4 AND pts >= ?5)
    AND NOT EXISTS (SELECT 1 FROM gaps WHERE account = ?1 AND chat = ?2 AND state = 'open')
"""


class Misfortunes:
    """Each action is a task of its own, so they overlap; two that need the same server take turns."""

    def __init__(self, arena: Arena, seed: int, report: Callable[[str], None]) -> None:
        self._arena = arena
        self._chance = random.Random(f"{seed} actions")
        self._report = report
        self._locks: dict[str, asyncio.Lock] = {}
        self.done: Counter[str] = Counter()
        self.late_leaves = 0
        self._perform: dict[str, Callable[[Action], Awaitable[None]]] = {
            "kill": self._kill,
            "freeze": lambda action: arena.keeper.freeze(action.seconds),
            "restart": lambda action: arena.keeper.restart(),
            "disk full": self._fill_disk,
            "cut": self._cut,
            "stall": self._stall,
            "refuse": self._refuse,
            "Telegram restarts": self._restart_telegram,
            "swallow": lambda action: self._pushes("swallow", action),
            "duplicate": lambda action: self._pushes("duplicate", action),
            "reorder": lambda action: self._pushes("reorder", action),
            "delay": lambda action: self._pushes("delay", action),
            "account too long": self._account_too_long,
            "channel too long": self._channel_too_long,
            "flood wait": self._flood_wait,
            "error 500": self._error_500,
            "undecodable": self._undecodable,
            "lost answer": self._lost_answer,
            "PostgreSQL": lambda action: self._outage(arena.stack.postgres, action),
            "PgBouncer": lambda action: self._outage(arena.stack.pgbouncer, action),
            "RabbitMQ": lambda action: self._outage(arena.stack.rabbitmq, action),
            "Redis master": self._redis_outage,
            "Redis failover": self._redis_outage,
            "Sentinel": self._sentinel,
            "slow line": self._slow_line,
            "line cut": lambda action: arena.lines[action.target].cut(),
            "line stall": self._stall_line,
            "answers stall": self._stall_line,
            "join": self._join,
            "join while down": self._join_while_down,
            "leave": self._leave,
            "title": self._title,
            "pin": self._pin,
            "migration": self._migrate,
        }

    async def run(self, actions: Sequence[Action]) -> None:
        """Returns when the last one is over."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for action in actions:
                await asyncio.sleep(start + action.at - time.monotonic())
                group.create_task(self._one(action), name=action.kind)

    async def _one(self, action: Action) -> None:
        self._report(str(action))
        await self._perform[action.kind](action)
        self.done[action.kind] += 1

    # The gateway

    async def _kill(self, action: Action) -> None:
        await self._arena.keeper.kill(self._chance, action.target, action.seconds)

    async def _fill_disk(self, action: Action) -> None:
        async with self._turn("disk"), asyncio.TaskGroup() as group:
            bursts = group.create_task(self._bursts())
            await self._arena.keeper.fill_disk(action.seconds)
            bursts.cancel()

    async def _bursts(self) -> None:
        """More than the log's file has room for from before: else a short shortage would go unnoticed."""
        world = self._arena.sandbox.world
        while True:
            world.post_many(self._arena.chats[0], [f"rajada {n}" for n in range(BURST)], per_push=10)
            await asyncio.sleep(BURST_SECONDS)

    # The Telegram wire

    async def _cut(self, action: Action) -> None:
        self._arena.sandbox.drop_connections(self._user(action))

    async def _stall(self, action: Action) -> None:
        user = self._user(action)
        keys = [None] if user is None else self._arena.sandbox.accounts.keys_of(user)
        for key in keys:
            self._arena.sandbox.faults.stall(action.seconds, key)

    async def _refuse(self, action: Action) -> None:
        self._arena.sandbox.faults.refuse_connections(action.seconds)

    async def _restart_telegram(self, action: Action) -> None:
        async with self._turn("telegram"):
            await self._arena.sandbox.restart(action.seconds)

    async def _pushes(self, kind: PushFault, action: Action) -> None:
        self._arena.sandbox.faults.fault_pushes(
            kind, times=action.times, probability=PUSH_SHARE, delay=action.seconds
        )

    async def _account_too_long(self, action: Action) -> None:
        self._arena.sandbox.faults.too_long(self._arena.users[int(action.target)], times=action.times)

    async def _channel_too_long(self, action: Action) -> None:
        joined = [chat for chat in (*self._arena.chats, *self._arena.side) if chat.is_channel]
        self._arena.sandbox.faults.too_long(self._chance.choice(joined), times=action.times)

    async def _flood_wait(self, action: Action) -> None:
        seconds = max(1, round(action.seconds))
        self._arena.sandbox.faults.fail_calls(action.target, 420, f"FLOOD_WAIT_{seconds}", times=action.times)

    async def _error_500(self, action: Action) -> None:
        self._arena.sandbox.faults.fail_calls(action.target, 500, "INTERNAL", times=action.times)

    async def _undecodable(self, action: Action) -> None:
        self._arena.sandbox.faults.garble_answers(action.target, times=action.times)

    async def _lost_answer(self, action: Action) -> None:
        self._arena.sandbox.faults.lose_answers(action.target, times=action.times)

    # The servers

    async def _outage(self, server: Server, action: Action) -> None:
        async with self._turn(server.name):
            if action.target == "freeze":
                server.pause()
            else:
                await (server.stop if action.target == "stop" else server.kill)()
            try:
                await asyncio.sleep(action.seconds)
            finally:
                if action.target == "freeze":
                    server.resume()
                else:
                    await server.start()
            self._arena.keeper.expect(_SINKS[server.name.removesuffix("_replica")])

    async def _redis_outage(self, action: Action) -> None:
        async with self._turn("redis master"):
            await self._outage(await self._arena.redis_master(), action)

    async def _sentinel(self, action: Action) -> None:
        async with self._turn("sentinels"):
            (sentinel,) = [one for one in self._arena.stack.sentinels if one.name == action.target]
            await sentinel.kill()
            try:
                await asyncio.sleep(action.seconds)
            finally:
                await sentinel.start()

    async def _slow_line(self, action: Action) -> None:
        async with (
            self._turn(f"{action.target} line"),
            self._arena.lines[action.target].slow(action.times / 1000),
        ):
            await asyncio.sleep(action.seconds)

    async def _stall_line(self, action: Action) -> None:
        line = self._arena.lines[action.target]
        async with (
            self._turn(f"{action.target} stall"),
            line.stalled(requests=action.kind == "line stall"),
        ):
            await asyncio.sleep(action.seconds)

    # The people

    async def _join(self, action: Action) -> None:
        self._enter(self._arena.users[int(action.target)])

    async def _join_while_down(self, action: Action) -> None:
        async def join() -> None:
            self._enter(self._arena.users[int(action.target)])
            await asyncio.sleep(action.seconds)

        await self._arena.keeper.kill(self._chance, meanwhile=join)

    def _enter(self, user: User) -> None:
        outside = [chat for chat in self._arena.side if user.id not in chat.members]
        if outside:
            self._arena.sandbox.world.join(self._chance.choice(outside), user)

    async def _leave(self, action: Action) -> None:
        """Leaves once the gateway has what was posted: what nobody can see any more, nobody can fetch."""
        arena, user = self._arena, self._arena.users[int(action.target)]
        async with self._turn("leave"):
            inside = [chat for chat in arena.side if user.id in chat.members]
            if not inside:
                return
            chat = self._chance.choice(inside)
            await arena.stop_side(chat)
            last = arena.sandbox.world.post(chat, "até logo").id
            account, pts = NAMES[int(action.target)], chat.log.pts
            deadline = time.monotonic() + FAREWELL_SECONDS
            while not await asyncio.to_thread(self._has_all, account, chat, last, pts):
                if time.monotonic() > deadline:
                    self.late_leaves += 1
                    break
                await asyncio.sleep(LOOK_SECONDS)
            else:
                arena.sandbox.world.leave(chat, user)
            await arena.start_side(chat)

    def _has_all(self, account: str, chat: Chat, last: int, pts: int) -> bool:
        path = self._arena.gateway.journal_path
        try:
            journal = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                return bool(journal.execute(_HAS_ALL, (account, chat.marked_id, last, chat.id, pts)).get)
            finally:
                journal.close()
        except apsw.Error:
            return False  # it is being killed, torn or has no room: looked at again

    async def _title(self, action: Action) -> None:
        chat = self._chance.choice([chat for chat in self._arena.chats if chat.is_channel])
        self._arena.sandbox.world.set_title(chat, f"{chat.title.split(' · ')[0]} · {self.done['title'] + 1}")

    async def _pin(self, action: Action) -> None:
        chat = self._chance.choice([chat for chat in self._arena.chats if chat.is_channel and chat.ids])
        self._arena.sandbox.world.pin(chat, self._chance.choice(chat.ids[-50:]))

    async def _migrate(self, action: Action) -> None:
        groups = [chat for chat in self._arena.chats if chat.kind == "group" and chat.migrated_to is None]
        self._arena.sandbox.world.migrate(groups[-1])

    # What they share

    def _user(self, action: Action) -> User | None:
        return None if action.target == "all" else self._arena.users[int(action.target)]

    @asynccontextmanager
    async def _turn(self, of: str) -> AsyncIterator[None]:
        async with self._locks.setdefault(of, asyncio.Lock()):
            yield
