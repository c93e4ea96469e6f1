"""One lane per chat: events of a chat one after another, chats side by side.

A lane outlives the connection that brought its events: what comes again after a reconnect stands behind what
is still being handled. A chat that waits for a retry holds its lane, but none of the places at work.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar


class InLane(Protocol):
    """Anything that belongs to a chat."""

    @property
    def chat(self) -> str:
        """The chat's key."""
        ...


Item = TypeVar("Item", bound=InLane)


class Stopping(Exception):
    """The consumer is told to stop: whatever is not done is left to whoever delivers it again."""


class Lane(Generic[Item]):
    """The events of one chat that were taken and are not done; the first of them is being handled."""

    def __init__(self, lanes: "Lanes[Item]") -> None:
        self._lanes = lanes
        self.items: deque[Item] = deque()
        self.waiting = False

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
            lane.items.append(item)
            task = self._group.create_task(self._run(item.chat, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            lane.items.append(item)
            if lane.waiting:
                self.tell()

    def tell(self) -> None:
        """Calls the listeners."""
        self._progress.set()
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
            while lane.items and not self.stopping.is_set():
                await self._work(lane.items[0], lane)
                lane.items.popleft()
                self._progress.set()
        except Stopping:
            return
        finally:
            del self._lanes[chat]
            self._progress.set()
