"""Traffic: makes things happen in the world at a rate, in a mix, until a count is reached or for ever."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from gateway.sandbox.chats import Chat
from gateway.sandbox.messages import Message
from gateway.sandbox.signals import words
from gateway.sandbox.users import User
from gateway.sandbox.world import World

_REMEMBERED = 200  # recent messages of a chat that edits, reactions and deletions pick from
_AT_ONCE = 64  # changes before the sessions get their turn
_KINDS = ("new", "edits", "deletions", "albums", "media", "replies", "reactions")
_ON_EARLIER = ("edits", "deletions", "replies", "reactions")
_EMOJIS = ("👍", "🔥", "🎯", "❤", "😱")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How likely each kind of change is, as weights. `private` and `groups` weigh chats against channels."""

    new: float = 80.0
    edits: float = 6.0
    deletions: float = 3.0
    albums: float = 2.0
    media: float = 4.0
    replies: float = 4.0
    reactions: float = 3.0
    channels: float = 80.0
    private: float = 10.0
    groups: float = 10.0

    @classmethod
    def of(cls, weights: dict[str, Any]) -> Mix:
        """Raises ValueError for weights there are none of."""
        unknown = set(weights) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"no traffic is called {', '.join(sorted(unknown))}")
        return cls(**{name: float(weight) for name, weight in weights.items()})


ONLY_NEW = Mix(edits=0, deletions=0, albums=0, media=0, replies=0, reactions=0)
MIXED = Mix()


class Traffic:
    """One stream of changes. `made` counts them: each message, edit, deletion and reaction is one."""

    def __init__(self, world: World, *, seed: int = 0) -> None:
        self._world = world
        self._chance = random.Random(seed)
        self._recent: dict[Chat, deque[int]] = {}
        self.by_kind: Counter[str] = Counter()
        self.made = 0
        self._started = self._ended = 0.0
        self._task: asyncio.Task[int] | None = None

    @property
    def running(self) -> bool:
        return self._started > self._ended

    @property
    def rate(self) -> float:
        """Changes a second over the last run, up to now while it runs."""
        elapsed = (time.monotonic() if self.running else self._ended) - self._started
        return self.made / elapsed if elapsed > 0 else 0.0

    async def run(
        self,
        rate: float,
        *,
        count: int | None = None,
        mix: Mix = MIXED,
        chats: Sequence[Chat] | None = None,
    ) -> int:
        """Makes `rate` changes a second, exactly `count` of them if given, else until cancelled.

        Without `chats` it uses every chat that is open now. Each change is due at its own time from the
        start, so a late one does not slow down those that follow. Raises ValueError where no chat fits.
        """
        choices = self._choices(mix, chats)
        self.made, self._started = 0, time.monotonic()
        self.by_kind.clear()
        try:
            while count is None or self.made < count:
                delay = self._started + self.made / rate - time.monotonic()
                # Yielding even when late lets the sessions' writers go on.
                await asyncio.sleep(max(delay, 0.0))
                due = int((time.monotonic() - self._started) * rate) + 1 - self.made
                goal = self.made + min(max(due, 1), _AT_ONCE)
                while self.made < goal and self.made != count:
                    self._step(mix, choices, None if count is None else count - self.made)
        finally:
            self._ended = time.monotonic()
        return self.made

    async def start(
        self,
        rate: float,
        *,
        count: int | None = None,
        mix: Mix = MIXED,
        chats: Sequence[Chat] | None = None,
    ) -> None:
        """As `run`, in the background and in place of what runs there; `finish` or `stop` ends it."""
        await self.stop()
        self._task = asyncio.get_running_loop().create_task(self.run(rate, count=count, mix=mix, chats=chats))

    async def finish(self) -> None:
        """Waits until what `start` began has made its count. Raises what it failed with."""
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        """Ends what `start` began. Raises what it failed with."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def _choices(self, mix: Mix, chats: Sequence[Chat] | None) -> dict[str, tuple[float, list[Chat]]]:
        """The chats to choose from, by kind, with each kind's weight."""
        weights = {
            "channel": mix.channels,
            "supergroup": mix.channels,
            "private": mix.private,
            "group": mix.groups,
        }
        found: dict[str, tuple[float, list[Chat]]] = {}
        for chat in self._world.chats.values() if chats is None else chats:
            if chat.migrated_to is None and weights[chat.kind] > 0:
                found.setdefault(chat.kind, (weights[chat.kind], []))[1].append(chat)
        if not found:
            raise ValueError("there is no open chat for this traffic; add one, or change the mix")
        return found

    def _step(self, mix: Mix, choices: dict[str, tuple[float, list[Chat]]], room: int | None) -> None:
        """Makes one change now; an album makes as many as it has items, and at most `room`."""
        chance = self._chance
        _, chats = chance.choices(list(choices.values()), [weight for weight, _ in choices.values()])[0]
        chat = chance.choice(chats)
        kind = chance.choices(_KINDS, [getattr(mix, kind) for kind in _KINDS])[0]
        recent = self._recent.setdefault(chat, deque(maxlen=_REMEMBERED))
        if chat.migrated_to is not None:
            chat = chat.migrated_to
        made = self._make(kind, chat, recent, room)
        self.made += made
        self.by_kind[kind] += made

    def _make(self, kind: str, chat: Chat, recent: deque[int], room: int | None) -> int:
        world, chance, sender = self._world, self._chance, self._sender(chat)
        if kind in _ON_EARLIER:
            earlier = chance.choice(recent) if recent else 0
            if earlier in chat.messages:
                self._change(kind, chat, chat.messages[earlier])
                return 1
        if kind == "albums":
            items = min(chance.randint(2, 4), room or 4)
            captions = [words(chance), *[""] * (items - 1)]
            recent.extend(message.id for message in world.post_album(chat, captions, sender=sender))
            return items
        media = chance.choice(("photo", "document", "webpage")) if kind == "media" else None
        topic = chance.choice([None, *list(chat.topics)[1:]]) if chat.forum else None
        recent.append(world.post(chat, words(chance), sender=sender, media=media, topic=topic).id)
        return 1

    def _change(self, kind: str, chat: Chat, earlier: Message) -> None:
        """Does something to, or with, a message that is there."""
        world, chance = self._world, self._chance
        if kind == "edits":
            world.edit(chat, earlier, f"{words(chance)} (corrigido)")
        elif kind == "deletions":
            world.delete(chat, earlier)
        elif kind == "reactions":
            world.react(chat, earlier, chance.choice(_EMOJIS))
        else:
            sender = self._sender(chat)
            world.post(chat, words(chance), sender=sender, reply_to=earlier, topic=earlier.topic)

    def _sender(self, chat: Chat) -> User | None:
        """Somebody who is not the chat's first member: that one is the account that listens."""
        if chat.kind == "channel":
            return None
        members = list(chat.members.values())
        return self._chance.choice(members[1:] or members)
