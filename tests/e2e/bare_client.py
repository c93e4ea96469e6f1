"""An unmodified Telethon client, as an afternoon's script would run it, beside a gateway in the same account.

Both are sessions of one account in one sandbox, so both get the same traffic at the same time.
Run as a program (`python -m tests.e2e.bare_client`) it is the script itself, to be killed as scripts are.
"""

import asyncio
import selectors
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from telethon import TelegramClient, events
from telethon.crypto import rsa
from telethon.sessions import SQLiteSession

from gateway.demo.comparison import compare_journal
from gateway.demo.process import POLL_SECONDS
from gateway.event import Event
from gateway.journal import open_reader
from gateway.sandbox import Chat, Sandbox, User
from gateway.sandbox.scene import phone, populate
from tests.e2e.desk import NO_SINKS, Desk

PATIENCE_SECONDS = 90.0
CHANNELS = 24  # one for each test of a module, and some to spare
HURRY = 20  # how much faster a hurried client's clock runs

Result = TypeVar("Result")


async def until(condition: Callable[[], object], within: float = PATIENCE_SECONDS) -> None:
    """Returns once `condition` holds; neither Telethon nor a process calls back."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(POLL_SECONDS)


class Bare:
    """A session file, and the client that runs on it now.

    `seen` has the texts that the handler was given, `done` those that it also finished with; `work` is what
    the handler does in between. `updates` has every update that any handler was given.
    """

    def __init__(self, server: tuple[str, int], public_key: Path, session: Path, **options: Any) -> None:
        rsa.add_key(public_key.read_text(), old=False)
        self._server = server
        self._session = session
        self.options = options
        self.seen: list[str] = []
        self.done: list[str] = []
        self.events: list[Any] = []
        self.work: Callable[[str], Awaitable[None]] | None = None

    async def log_in(self, number: str, *, dialogs: bool = True) -> None:
        self.client = self._new_client()
        await self.client.connect()
        await self.client.send_code_request(number)
        await self.client.sign_in(number, "12345")
        if dialogs:
            await self.client.get_dialogs()

    async def restart(self) -> None:
        """The script is started anew, on the session file that the last run left."""
        self.client = self._new_client()
        await self.client.connect()

    @property
    def session_file(self) -> Path:
        return self._session.with_suffix(".session")

    @property
    def key(self) -> int:
        """The id of its authorisation key: what the sandbox's faults and counters call it."""
        return int(self.client.session.auth_key.key_id)

    def pts(self, chat: Chat) -> int | None:
        """How far the client believes to have everything of a channel; None where it does not keep count."""
        state = self.client._message_box.map.get(chat.id)
        return state.pts if state is not None else None

    async def until_seen(self, *texts: str) -> None:
        await until(lambda: set(texts) <= set(self.seen))

    def _new_client(self) -> TelegramClient:
        session = SQLiteSession(str(self._session))
        session.set_dc(2, *self._server)
        client = TelegramClient(session, 1, "sandbox", **self.options)
        client.add_event_handler(self._on_message, events.NewMessage)
        for kind in (events.MessageEdited, events.MessageDeleted, events.ChatAction):
            client.add_event_handler(self._on_event, kind)
        return client

    async def _on_message(self, event: Any) -> None:
        self.seen.append(event.raw_text)
        if self.work is not None:
            await self.work(event.raw_text)
        self.done.append(event.raw_text)

    async def _on_event(self, event: Any) -> None:
        self.events.append(event)


@dataclass
class SideBySide:
    """A gateway without sinks, logged in to the account that bare clients share with it."""

    sandbox: Sandbox
    desk: Desk
    account: User
    friend: Chat
    elsewhere: Chat  # a private chat too, for the message that shows that all goes on
    group: Chat
    channels: Iterator[Chat]
    directory: Path
    since: int

    @asynccontextmanager
    async def bare(self, *, dialogs: bool = True, **options: Any) -> AsyncIterator[Bare]:
        """A bare client, logged in; `dialogs` is whether its author knew that it should ask for them."""
        bare = self.new_bare(**options)
        try:
            await bare.log_in(phone(0), dialogs=dialogs)
            yield bare
        finally:
            await bare.client.disconnect()

    def new_bare(self, **options: Any) -> Bare:
        name = self.directory / f"bare-{time.monotonic_ns()}"
        return Bare((self.sandbox.host, self.sandbox.port), self.sandbox.public_key_path, name, **options)

    def post(self, chat: Chat, *texts: str) -> None:
        """One push for each text."""
        self.sandbox.world.post_many(chat, texts)

    def lose(self, chat: Chat, *texts: str) -> None:
        """Posts what is pushed to nobody."""
        for key in self.keys:
            self.sandbox.faults.fault_pushes("swallow", times=len(texts), auth_key_id=key)
        self.post(chat, *texts)

    def fail(self, method: str, code: int, message: str) -> None:
        """Every client's next call of `method` fails."""
        for key in self.keys:
            self.sandbox.faults.fail_calls(method, code, message, times=1, auth_key_id=key)

    def asked(self, bare: Bare, method: str) -> int:
        """How often the bare client has called `method`."""
        return self.sandbox.faults.asked[bare.key, method]

    async def until_attached(self, bare: Bare) -> None:
        """Returns once pushes reach the bare client (again)."""
        await until(
            lambda: bare.key in {one.auth_key_id for one in self.sandbox.delivery.sessions(self.account)}
        )

    async def assert_gateway_has(self, *chats: Chat) -> None:
        """Waits until the journal holds all that happened in `chats`; fails with what is missing."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        truth = self.sandbox.truth(self.account, self.since)
        named = {str(chat.marked_id_for(self.account)) for chat in chats}
        assert named <= {event.channel_id for event in truth}, "nothing would be compared"
        elsewhere = {event.channel_id for event in truth} - named
        while problems := [
            problem
            for problem in compare_journal(self.desk.gateway.journal_path, truth).problems
            if not any(f"chat {other}" in problem for other in elsewhere)
        ]:
            assert time.monotonic() < deadline, f"the gateway: {problems[:5]}"
            await asyncio.sleep(POLL_SECONDS)

    async def metric(self, name: str) -> float:
        """A metric of the gateway's, over all its labels."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.desk.gateway.port}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def journal(self, chat: Chat) -> list[Event]:
        """What the gateway's journal holds of a chat."""
        marked = str(chat.marked_id_for(self.account))
        with open_reader(self.desk.gateway.journal_path) as reader:
            last = reader.last_seq()
            return [
                record.event for record in reader.read(0, last, last) if record.event.channel_id == marked
            ]

    @property
    def keys(self) -> list[int]:
        """Every client of the account, the gateway among them."""
        return self.sandbox.accounts.keys_of(self.account)


@asynccontextmanager
async def side_by_side(directory: Path, **settings: str) -> AsyncIterator[SideBySide]:
    """A sandbox and a running gateway, for a whole module: a test takes the next channel for itself."""
    async with Sandbox(state_dir=directory / "sandbox") as sandbox:
        # As Telegram does: a difference has messages in their present form, and none that are gone.
        sandbox.world.replays_revisions = False
        scene = populate(sandbox.world, channels=CHANNELS)
        desk = Desk(directory, sandbox, {**NO_SINKS, **settings})
        try:
            await desk.gateway.login(phone(0))
            await desk.gateway.start()
            group, friend, elsewhere = scene.chats[-3:]
            yield SideBySide(
                sandbox,
                desk,
                scene.accounts[0],
                friend,
                elsewhere,
                group,
                iter(scene.chats[:CHANNELS]),
                directory,
                sandbox.world.position,
            )
        finally:
            await desk.gateway.close()


class _HurriedSelector(selectors.EpollSelector):
    """What it sleeps for longer than it was told to, the machine stood still: no time passed then."""

    overslept = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select()
        began = time.monotonic()
        found = super().select(timeout / HURRY)
        self.overslept += max(time.monotonic() - began - max(timeout, 0.0) / HURRY, 0.0)
        return found


class _HurriedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._slept = _HurriedSelector()
        super().__init__(self._slept)

    def time(self) -> float:
        return (super().time() - self._slept.overslept) * HURRY


async def hurried(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Runs `main` in a thread whose event loop's clock runs `HURRY` times faster, for what takes minutes."""

    def run() -> Result:
        with asyncio.Runner(loop_factory=_HurriedLoop) as runner:
            return runner.run(main())

    return await asyncio.to_thread(run)


async def _script(host: str, port: str, public_key: str, session: str, number: str) -> None:
    bare = Bare((host, int(port)), Path(public_key), Path(session), catch_up=True)
    bare.work = _print
    await bare.log_in(number)
    await _print("ready")
    await bare.client.disconnected


async def _print(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    asyncio.run(_script(*sys.argv[1:]))
