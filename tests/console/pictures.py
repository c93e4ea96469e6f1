"""Takes the pictures in docs/images: `python -m tests.console.pictures`.

With `--serve` it takes none, and keeps the console running to be looked at until Ctrl-C.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import Any, Literal

from playwright.async_api import Browser, Page, expect

from gateway.localstack import LocalStack
from gateway.sandbox.signals import words
from tests.console import trading_day
from tests.console.conftest import DESKTOP, PHONE, Place, Visit, running_browser, running_place

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SERVERS = ("postgres", "pgbouncer", "redis", "rabbitmq")
Scheme = Literal["light", "dark"]


async def main(serve: bool, directory: Path) -> None:
    async with LocalStack(servers=SERVERS) as stack, running_place(stack, directory, channels=5) as place:
        await trading_day.hold(place)
        await trading_day.give_up(place)
        if serve:
            token = await place.api.token(["admin"])
            print(f"{place.api.url}\nadmin {token}\nread  {await place.api.token(['read'])}", flush=True)
            await _talk(place)
        async with running_browser() as browser:
            await _take(place, browser)


async def _talk(place: Place) -> None:
    chance = Random(5)
    channels = [chat for chat in place.scene.chats if chat.kind == "channel"]
    while True:
        place.sandbox.world.post(chance.choice(channels), words(chance))
        await asyncio.sleep(chance.uniform(0.5, 4))


async def _take(place: Place, browser: Browser) -> None:
    token = await place.api.token(["admin"])
    for name, scheme, size in (("desktop-light", "light", DESKTOP), ("desktop-dark", "dark", DESKTOP)):
        visit = await _visit(place, browser, scheme, size)
        await visit.sign_in(token)
        await _views(place, visit, name)
    visit = await _visit(place, browser, "light", PHONE, is_mobile=True, has_touch=True)
    await visit.sign_in(token)
    await _views(place, visit, "phone")


async def _visit(place: Place, browser: Browser, scheme: str, size: Any, **options: Any) -> Visit:
    context = await browser.new_context(viewport=size, color_scheme=scheme, locale="en-GB", **options)
    visit = Visit(await context.new_page(), place.api.url)
    visit.watch()
    return visit


async def _views(place: Place, visit: Visit, name: str) -> None:
    page = visit.page
    await expect(page.locator("#view-overview table")).to_have_count(2)
    await _save(page, f"console-overview-{name}")
    await visit.open("Live")
    await expect(page.locator("#view-live").get_by_text("Connected")).to_be_visible()
    await trading_day.hold(place, posts=12)
    await _save(page, f"console-live-{name}")
    await page.goto(f"{visit.url}/console/search?search=PETR4+compra")
    await expect(page.locator("#view-search mark").first).to_be_visible()
    await _save(page, f"console-search-{name}")
    await visit.open("Chats")
    await expect(page.locator("#view-chats table")).to_be_visible()
    await _save(page, f"console-chats-{name}")
    await visit.open("Dead letters")
    await expect(page.locator("#view-dead-letters table")).to_be_visible()
    await _save(page, f"console-dead-letters-{name}")
    visit.assert_clean()


async def _save(page: Page, name: str) -> None:
    await page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="keep the console running instead")
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(parser.parse_args().serve, Path(scratch)))
