"""One lane per chat: events of a chat one after another, chats side by side.

A lane outlives the connection that brought its events. What is being handled then is handled to its end; what
stood behind keeps its place until it comes again, since a broker may give back later messages first. A chat
that waits for a retry holds its lane, but none of the places at work.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

AGAIN_SECONDS = 5.0  # how long what is lost holds up what has come after it; a broker gives it back first


class InLane(Protocol):
    """Anything that belongs to a chat."""

    @property
    def chat(self) -> str:
        """The chat's key."""
        ...

    @property
    def key(self) -> str:
        """The same when it comes again; empty when that cannot be told."""
        ...

    @property
    def stale(self) -> bool:
        """Whether it comes again, so that there is no use in beginning with this one."""
        ...


Item = TypeVar("Item", bound=InLane)


class Stopping(Exception):
    """The consumer is told to stop: whatever is not done is left to whoever delivers it again."""


class Lane(Generic[Item]):
    """The events of one chat that were taken and are not done; the first of them is being handled."""

    def __init__(self, lanes: "Lanes[Item]") -> None:
        self._lanes = lanes
        self._came = asyncio.Event()
        self._begun: Item | None = None
        self.items: deque[Item] = deque()
        self.waiting = False

    def put(self, item: Item) -> None:
        """Puts `item` in the place of the one that it is again, or else at the end."""
        for place, other in enumerate(self.items):
            if other.stale and other is not self._begun and other.key == item.key:
                self.items[place] = item
                break
        else:
            self.items.append(item)
        self._came.set()

    async def run(self, work: Callable[[Item, "Lane[Item]"], Awaitable[None]]) -> None:
        """Has every item handled in turn. Raises Stopping when the consumer is told to stop."""
        while self.items:
            await self._come_again()
            if self.items:
                self._begun = self.items[0]
                await work(self._begun, self)
                self.items.popleft()
                self._begun = None
                self._lanes.progressed()

    def wake(self) -> None:
        """Has what waits look whether all is to stop."""
        self._came.set()

    async def _come_again(self) -> None:
        """Returns once the first item is no stale one, if need be without those that do not come again."""
        until: float | None = None
        while not self._lanes.stopping.is_set():
            while self.items and self.items[0].stale and not self.items[0].key:
                self.items.popleft()
            if not self.items or not self.items[0].stale:
                return
            if not self._holds_up():
                until = None
            elif until is None:
                until = asyncio.get_running_loop().time() + AGAIN_SECONDS
            self._came.clear()
            self.waiting = True
            self._lanes.tell()
            try:
                async with asyncio.timeout_at(until):
                    await self._came.wait()
            except TimeoutError:
                if self._holds_up():
                    self.items = deque(item for item in self.items if not item.stale)
            finally:
                self.waiting = False
        raise Stopping

    def _holds_up(self) -> bool:
        return not all(item.stale for item in self.items)

    async def pause(self, seconds: float) -> None:
        """Waits. Raises Stopping, at once, when the consumer is told to stop."""
        self.waiting = True
        self._lanes.tell()
        try:
            async with asyncio.timeout(seconds):
                await self._lanes.stopping.wait()
        except TimeoutError:
            return
        finally:
            self.waiting = False
        raise Stopping


class Lanes(Generic[Item]):
    """All lanes of a consumer; `work` handles one item, and at most `width` of them are at work at a time."""

    def __init__(self, width: int, work: Callable[[Item, Lane[Item]], Awaitable[None]]) -> None:
        self._work = work
        self._places = asyncio.Semaphore(width)
        self._lanes: dict[str, Lane[Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self.stopping = asyncio.Event()
        self.drained = asyncio.Event()
        self._progress = asyncio.Event()
        # Called when items have begun to wait for another try of one of their chat, and when all is to stop.
        self.listeners: set[Callable[[], None]] = set()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Lanes run in `group` from now on."""
        self._group = group

    def submit(self, item: Item) -> None:
        """Puts `item` at the end of its chat's lane; once told to stop, drops it."""
        if self._group is None or self.stopping.is_set():
            return
        lane = self._lanes.get(item.chat)
        if lane is None:
            lane = self._lanes[item.chat] = Lane(self)
            lane.put(item)
            task = self._group.create_task(self._run(item.chat, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            lane.put(item)
            if lane.waiting:
                self.tell()

    def progressed(self) -> None:
        """Something is done."""
        self._progress.set()

    def tell(self) -> None:
        """Calls the listeners."""
        self.progressed()
        for listener in tuple(self.listeners):
            listener()

    def place(self) -> AbstractAsyncContextManager[None]:
        """A place at work, held for one run of a handler."""
        return self._places

    def waiting(self) -> list[Item]:
        """The items of all lanes that wait for another try."""
        return [item for lane in self._lanes.values() if lane.waiting for item in lane.items]

    def items(self, chat: str) -> Sequence[Item]:
        """The items in one chat's lane."""
        lane = self._lanes.get(chat)
        return tuple(lane.items) if lane else ()

    async def less_than(self, items: int) -> None:
        """Returns when fewer than `items` are on their way, besides those that wait, or all is to stop."""
        while not self.stopping.is_set():
            self._progress.clear()
            if sum(len(lane.items) for lane in self._lanes.values() if not lane.waiting) < items:
                return
            await self._progress.wait()

    async def drain(self, seconds: float) -> int:
        """Lets running handlers finish, for at most `seconds`. Returns how many had to be broken off."""
        self.stopping.set()
        for lane in self._lanes.values():
            lane.wake()
        self.tell()
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
            tasks = late
        self.drained.set()
        return len(tasks)

    async def _run(self, chat: str, lane: Lane[Item]) -> None:
        try:
            await lane.run(self._work)
        except Stopping:
            return
        finally:
            del self._lanes[chat]
            self.progressed()
