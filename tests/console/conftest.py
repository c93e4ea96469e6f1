"""The console in Debian's Chromium, in front of the real API and, where a test wants one, a real daemon."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from gateway.demo.process import GatewayProcess
from gateway.localstack import LocalStack
from gateway.sandbox import Sandbox
from gateway.sandbox.chats import Chat
from gateway.sandbox.scene import Scene, phone, populate
from tests.api.conftest import Api, running_api, stack

__all__ = ["stack"]

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",  # the tests may run as root; every page is ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 60_000
ARRIVAL_SECONDS = 120.0
POLL_SECONDS = 0.05
DESKTOP = {"width": 1280, "height": 800}
LAUNCH_MS = 120_000
PHONE = {"width": 360, "height": 740}

_STORED = """
SELECT true FROM telegram_gateway.messages_current
WHERE channel_id = $1 AND message_id = $2 AND strpos(coalesce(text, ''), $3) > 0
"""

expect.set_options(timeout=WAIT_MS)


@dataclass
class Visit:
    """A browser window at the console, and all that went wrong in it."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def watch(self) -> None:
        page, origin = self.page, urlsplit(self.url).netloc
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                self.elsewhere.append(request.url) if urlsplit(request.url).netloc != origin else None
            ),
        )
        page.on("dialog", self._dialog)

    def assert_clean(self) -> None:
        """No error in the browser's console, no request to another origin, no script's dialog."""
        assert not self.errors, self.errors
        assert not self.elsewhere, self.elsewhere
        assert not self.dialogs, self.dialogs

    async def sign_in(self, token: str) -> None:
        """From the sign-in page to the overview."""
        await self.page.goto(f"{self.url}/console/sign-in")
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
        await self.ready()

    async def ready(self) -> None:
        """Its scripts run, and know who is signed in."""
        await expect(self.page.locator("#who-name")).not_to_be_empty()

    async def open(self, view: str) -> None:
        """Another view, by the navigation."""
        menu = self.page.get_by_role("button", name="Menu")
        if await menu.is_visible():
            await menu.click()
        await self.page.get_by_role("navigation").get_by_role("link", name=view).click()
        await expect(self.page.get_by_role("heading", name=view, level=1)).to_be_visible()

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    async def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()


Visitor = Callable[..., Coroutine[Any, Any, Visit]]


@dataclass
class Place:
    """A sandbox, a daemon that is logged in to it, and the API with the console in front of both."""

    sandbox: Sandbox
    scene: Scene
    gateway: GatewayProcess
    api: Api

    async def arrived(self, chat: Chat, words: str = "") -> None:
        """Returns once the newest message of a channel is in every sink, with these words in it.

        A gateway that has delivered all it knows of may not have been told yet of what was posted just now.
        """
        connection = await asyncpg.connect(self.api.stack.postgres.dsn)
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                while not await connection.fetchval(_STORED, str(chat.marked_id), chat.ids[-1], words):
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            await connection.close()
        await self.gateway.wait_delivered(3)


@asynccontextmanager
async def running_place(stack: LocalStack, directory: Path, channels: int = 4) -> AsyncIterator[Place]:
    """A gateway that has everything, in a world of its own."""
    async with AsyncExitStack() as parts:
        sandbox = await parts.enter_async_context(Sandbox(state_dir=directory / "sandbox"))
        scene = populate(sandbox.world, channels=channels)
        gateway = GatewayProcess(
            directory,
            {
                **stack.environment,
                "TELEGRAM_API_ID": "1",
                "TELEGRAM_API_HASH": "sandbox",
                "TELEGRAM_SERVER": f"{sandbox.host}:{sandbox.port}",
                "TELEGRAM_SERVER_PUBLIC_KEY": str(sandbox.public_key_path),
            },
        )
        parts.push_async_callback(gateway.close)
        await gateway.command("db", "migrate")
        await gateway.login(phone(0))
        await gateway.start()
        daemon = {"TELEGRAM_METRICS_ADDR": f"127.0.0.1:{gateway.port}"}
        api = await parts.enter_async_context(running_api(stack, directory, daemon))
        yield Place(sandbox, scene, gateway, api)


@pytest_asyncio.fixture(scope="session")
async def place(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """What all tests of the console look at."""
    async with running_place(stack, tmp_path_factory.mktemp("console")) as running:
        yield running


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, headless."""
    if not CHROMIUM.exists():
        pytest.fail(f"these tests need {CHROMIUM}: apt-get install chromium (deploy/bin/bootstrap does)")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=FLAGS,
            headless=True,
            chromium_sandbox=False,
            timeout=LAUNCH_MS,
        )
        yield running
        await running.close()


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each has windows of its own in it."""
    async with running_browser() as running:
        yield running


@pytest_asyncio.fixture
async def visitor(browser: Browser, place: Place) -> AsyncIterator[Visitor]:
    """Opens a window of a browser that has never been here, signed in where `scopes` says so."""
    contexts: list[BrowserContext] = []

    async def visit(
        *scopes: str, api: Api = place.api, chats: list[str] | None = None, **options: Any
    ) -> Visit:
        context = await browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        visit = Visit(await context.new_page(), api.url)
        visit.watch()
        if scopes:
            await visit.sign_in(await api.token(scopes, chats))
        return visit

    yield visit
    for context in contexts:
        await context.close()
