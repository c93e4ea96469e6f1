"""Lanes: what a lost connection took away keeps its place until it comes again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consumer import lanes as lanes_module
from gateway.consumer.lanes import Lane, Lanes

CHAT = "-100123"


@dataclass(eq=False)
class Item:
    key: str
    stale: bool = False
    chat: str = CHAT


class Desk:
    """Lanes whose first item is at work until it is let go."""

    def __init__(self) -> None:
        self.handled: list[str] = []
        self.go_on = asyncio.Event()
        self.lanes: Lanes[Item] = Lanes(1, self._work)

    async def _work(self, item: Item, _: Lane[Item]) -> None:
        await self.go_on.wait()
        self.handled.append(item.key)

    def give(self, *keys: str) -> list[Item]:
        items = [Item(key) for key in keys]
        for item in items:
            self.lanes.submit(item)
        return items

    async def until(self, *handled: str) -> None:
        async with asyncio.timeout(60):
            while self.handled != [*handled]:
                await asyncio.sleep(0)


@asynccontextmanager
async def at_work() -> AsyncIterator[Desk]:
    desk = Desk()
    async with asyncio.TaskGroup() as group:
        desk.lanes.start(group)
        yield desk
        await desk.lanes.drain(60)


def lose(items: list[Item]) -> None:
    for item in items:
        item.stale = True


async def test_what_comes_again_in_another_order_is_handled_in_the_first_one() -> None:
    async with at_work() as desk:
        items = desk.give("begun", "2", "3")
        await asyncio.sleep(0)
        lose(items)
        desk.give("3", "4", "begun", "2")
        desk.go_on.set()
        await desk.until("begun", "2", "3", "4", "begun")


async def test_what_was_begun_is_handled_to_its_end_and_only_then_again() -> None:
    async with at_work() as desk:
        items = desk.give("1")
        await asyncio.sleep(0)
        lose(items)
        desk.give("1")
        desk.go_on.set()
        await desk.until("1", "1")


async def test_what_stays_away_holds_up_the_rest_for_so_long_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "AGAIN_SECONDS", 0.05)
    async with at_work() as desk:
        desk.go_on.set()
        lose(desk.give("1", "2"))
        desk.give("3", "2")
        await desk.until("2", "3")
        desk.give("4")
        await desk.until("2", "3", "4")


async def test_while_nothing_comes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "AGAIN_SECONDS", 0.05)
    async with at_work() as desk:
        desk.go_on.set()
        lose(desk.give("1", "2"))
        lose(desk.give("2"))
        await asyncio.sleep(0.2)
        desk.give("2", "1")
        await desk.until("1", "2")


async def test_what_has_no_key_is_not_waited_for() -> None:
    async with at_work() as desk:
        lose(desk.give("", ""))
        desk.give("1")
        desk.go_on.set()
        await desk.until("1")


async def test_a_stop_waits_for_nothing_that_would_come_again() -> None:
    async with asyncio.timeout(60):
        async with at_work() as desk:
            lose(desk.give("1", "2"))
            await asyncio.sleep(0)
    assert desk.handled == []


@given(st.integers(1, 12), st.lists(st.randoms(use_true_random=False), min_size=1, max_size=4))
def test_however_often_and_in_whatever_order_it_is_given_back(count: int, losses: list[Random]) -> None:
    async def main() -> None:
        async with at_work() as desk:
            keys = [str(number) for number in range(count)]
            given_last = desk.give(*keys)
            for loss in losses:
                lose(given_last)
                again = keys.copy()
                loss.shuffle(again)
                given_last = desk.give(*again)
            desk.go_on.set()
            await desk.until(*keys)
        assert desk.handled == keys

    asyncio.run(main())
