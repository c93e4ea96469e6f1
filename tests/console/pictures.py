"""Takes the pictures in docs/images: `python -m tests.console.pictures`.

With `--serve` it takes none, and keeps the console running to be looked at until Ctrl-C.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from playwright.async_api import Page, expect

from gateway.localstack import LocalStack
from gateway.sandbox.signals import words
from gateway.tokens import create_token
from tests.console import trading_day
from tests.console.conftest import DESKTOP, PHONE, Place, Visit, running_browser, running_place

TAKEN = {
    "light": {"overview", "live", "search", "chats", "dead-letters"},
    "dark": {"overview", "live"},
    "phone": {"overview", "live", "chats"},
}
IMAGES = Path(__file__).parents[2] / "docs" / "images"
SERVERS = ("postgres", "pgbouncer", "redis", "rabbitmq")
WINDOWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESKTOP, "color_scheme": "light"},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "is_mobile": True, "has_touch": True},
}


async def main(serve: bool, directory: Path) -> None:
    async with LocalStack(servers=SERVERS) as stack, running_place(stack, directory, channels=5) as place:
        await trading_day.hold(place)
        await trading_day.give_up(place)
        token = await _token(place)
        if serve:
            print(f"{place.api.url}/console/sign-in\n{token}", flush=True)
            await _talk(place)
        async with running_browser() as browser:
            for name, options in WINDOWS.items():
                context = await browser.new_context(locale="en-GB", **options)
                visit = Visit(await context.new_page(), place.api.url)
                visit.watch()
                await visit.sign_in(token)
                await _views(place, visit, name)
                visit.assert_clean()


async def _token(place: Place) -> str:
    connection = await asyncpg.connect(place.api.stack.postgres.dsn)
    try:
        secret, _ = await create_token(connection, "operations desk", ["admin"])
        await connection.execute(
            "UPDATE telegram_gateway.channels SET is_active = false WHERE title = 'Opções & Cia'"
        )
    finally:
        await connection.close()
    return secret


async def _talk(place: Place) -> None:
    chance = Random(5)
    channels = [chat for chat in place.scene.chats if chat.kind == "channel"]
    while True:
        place.sandbox.world.post(chance.choice(channels), words(chance))
        await asyncio.sleep(chance.uniform(0.5, 4))


async def _views(place: Place, visit: Visit, name: str) -> None:
    page = visit.page
    await expect(page.locator("#view-overview .spark path:not(.floor)")).to_have_count(3)
    await _save(page, "overview", name)
    await visit.open("Live")
    await expect(page.locator("#view-live").get_by_text("Connected")).to_be_visible()
    await trading_day.hold(place, posts=7, pause=1.1)
    await _save(page, "live", name)
    await page.goto(f"{visit.url}/console/search?search=compra+petr4")
    await expect(page.locator("#view-search mark").first).to_be_visible()
    await _save(page, "search", name)
    await visit.open("Chats")
    await expect(page.locator("#view-chats table")).to_be_visible()
    await _save(page, "chats", name)
    await visit.open("Dead letters")
    await page.locator("#view-dead-letters table").get_by_role("button", name="Show").first.click()
    await expect(page.get_by_role("dialog").locator("pre")).to_be_visible()
    await _save(page, "dead-letters", name)


async def _save(page: Page, view: str, window: str) -> None:
    if view in TAKEN[window]:
        await page.screenshot(path=IMAGES / f"console-{view}-{window}.png", animations="disabled")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="keep the console running instead")
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(parser.parse_args().serve, Path(scratch)))
