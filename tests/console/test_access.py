"""Everybody can use it: by keyboard alone, on a phone, in the dark, with a screen reader, without motion."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.console.conftest import DESKTOP, PHONE, WAIT_MS, Place, Visit, Visitor

AUDIT = (Path(__file__).parent / "audit.js").read_text()
TRANSITIONS = """() => Promise.allSettled(
    document.getAnimations().filter((one) => one instanceof CSSTransition).map((one) => one.finished)
).then(() => null)"""
VIEWS = ("Overview", "Live", "Search", "Chats", "Gaps", "Dead letters")
KEYS = {"o": "Overview", "l": "Live", "s": "Search", "c": "Chats", "g": "Gaps", "d": "Dead letters"}


async def _settled(visit: Visit) -> None:
    """The view that is open has what it asked for, and no colour is on its way to another one."""
    await expect(visit.page.locator(".view:visible .skeleton")).to_have_count(0)
    await visit.page.evaluate(TRANSITIONS)


async def _go(page: Page, key: str, view: str) -> None:
    """By the keys: once more where the machine stood still between the two, which then are no pair."""
    heading = page.get_by_role("heading", name=view, level=1)
    for _ in range(5):
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        with suppress(AssertionError):
            await expect(heading).to_be_focused(timeout=WAIT_MS / 5)
            return
    pytest.fail(f"g and {key} do not lead to {view}")


async def _fits(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize(
    "window",
    [
        {"viewport": DESKTOP, "color_scheme": "light"},
        {"viewport": DESKTOP, "color_scheme": "dark"},
        {"viewport": PHONE, "color_scheme": "dark", "is_mobile": True, "has_touch": True},
        {"viewport": PHONE, "color_scheme": "light", "is_mobile": True, "has_touch": True},
    ],
    ids=["light", "dark", "phone-dark", "phone-light"],
)
async def test_names_headings_sizes_and_contrast_are_right_in_every_view(
    visitor: Visitor, place: Place, window: dict[str, Any]
) -> None:
    place.sandbox.world.post(place.scene.chats[0], "Um sinal com #etiqueta e 1.234,50 pontos " + "muito" * 40)
    await place.arrived(place.scene.chats[0])
    touch = bool(window.get("has_touch"))
    visit = await visitor(**window)
    await visit.page.goto(visit.url)
    await expect(visit.page.get_by_role("heading", name="Sign in")).to_be_visible()
    await visit.page.wait_for_load_state()  # of the page that the first one led to, styles and all
    await visit.page.evaluate(TRANSITIONS)
    problems = {"Sign in": await visit.page.evaluate(AUDIT, {"touch": touch})}
    await visit.sign_in(await place.api.token(["admin"]))
    for view in VIEWS:
        await visit.open(view)
        await _settled(visit)
        problems[view] = await visit.page.evaluate(AUDIT, {"touch": touch})
        assert await _fits(visit.page), f"{view} is wider than the window"
    await visit.open("Search")
    await visit.page.locator("#view-search li").first.click()
    await expect(visit.page.get_by_role("dialog").locator(".body-text")).to_be_visible()
    assert await _fits(visit.page)
    assert {view: found for view, found in problems.items() if found} == {}
    visit.assert_clean()


async def test_every_view_is_reached_and_used_by_keyboard_alone(visitor: Visitor, place: Place) -> None:
    for number in range(3):
        place.sandbox.world.post(place.scene.chats[0], f"tastatur {number}")
    await place.arrived(place.scene.chats[0])
    visit = await visitor()
    page = visit.page
    await page.goto(visit.url)
    await expect(page.get_by_label("Token")).to_be_focused()
    await page.keyboard.type(await place.api.token(["admin"]))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await visit.ready()

    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()

    for key, view in KEYS.items():
        await _go(page, key, view)
        await expect(page).to_have_title(f"{view} · Telegram gateway")
        current = page.get_by_role("navigation").locator("[aria-current=page]")
        await expect(current).to_contain_text(view)

    await page.keyboard.press("/")
    await page.keyboard.type("tastatur")
    await page.keyboard.press("Enter")
    rows = page.locator("#view-search .entry-open")
    await expect(page.locator("#view-search li:has(mark)")).to_have_count(3)
    for _ in range(30):  # the form's other fields are in between; a date alone is seven stops
        await page.keyboard.press("Tab")
        if await rows.first.evaluate("row => row === document.activeElement"):
            break
    await expect(rows.first).to_be_focused()
    await page.keyboard.press("ArrowDown")
    await expect(rows.nth(1)).to_be_focused()
    await page.keyboard.press("End")
    await expect(rows.nth(2)).to_be_focused()
    await page.keyboard.press("Enter")
    panel = page.get_by_role("dialog")
    await expect(panel.locator(".body-text")).to_have_text("tastatur 0")
    await page.keyboard.press("Escape")
    await expect(rows.nth(2)).to_be_focused()
    visit.assert_clean()


async def test_what_has_the_focus_shows_it(visitor: Visitor) -> None:
    visit = await visitor("admin")
    page = visit.page
    await visit.open("Chats")
    await _settled(visit)
    await page.evaluate("document.activeElement.blur()")
    unseen = []
    for _ in range(25):
        await page.keyboard.press("Tab")
        shown = await page.evaluate(
            """() => {
                const element = document.activeElement;
                if (element === document.body) return null;
                const style = getComputedStyle(element);
                const drawn = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
                return [element.outerHTML.slice(0, 80), drawn];
            }"""
        )
        if shown and not shown[1]:
            unseen.append(shown[0])
    assert unseen == []


async def test_the_keys_are_listed_and_can_be_switched_off(visitor: Visitor) -> None:
    visit = await visitor("read")
    page = visit.page
    await page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    await expect(dialog).to_be_visible()
    await dialog.get_by_role("checkbox").uncheck()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await page.keyboard.press("g")
    await page.keyboard.press("l")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await page.reload()
    await visit.ready()
    await page.keyboard.press("?")
    await expect(dialog).to_be_hidden()
    visit.assert_clean()


async def test_the_phones_menu_opens_goes_there_and_closes(visitor: Visitor) -> None:
    visit = await visitor("read", viewport=PHONE, is_mobile=True, has_touch=True)
    page = visit.page
    menu = page.get_by_role("button", name="Menu")
    link = page.get_by_role("navigation").get_by_role("link", name="Chats")
    await expect(link).to_be_hidden()
    await menu.tap()
    await expect(menu).to_have_attribute("aria-expanded", "true")
    await page.keyboard.press("Escape")
    await expect(link).to_be_hidden()
    await menu.tap()
    await link.tap()
    await expect(page.get_by_role("heading", name="Chats")).to_be_visible()
    await expect(link).to_be_hidden()
    visit.assert_clean()


async def test_nothing_moves_for_those_who_ask_for_that(visitor: Visitor, place: Place) -> None:
    visit = await visitor("read", reduced_motion="reduce")
    page = visit.page
    await visit.open("Live")
    await expect(page.locator("#view-live").get_by_text("Connected")).to_be_visible()
    place.sandbox.world.post(place.scene.chats[0], "ruhig")
    await expect(page.locator("#view-live li").first).to_contain_text("ruhig")
    assert await page.evaluate("document.getAnimations().length") == 0
    visit.assert_clean()


async def test_back_and_forward_go_through_the_views(visitor: Visitor) -> None:
    visit = await visitor("read")
    page = visit.page
    await visit.open("Chats")
    await visit.open("Live")
    await page.go_back()
    await expect(page.get_by_role("heading", name="Chats")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    visit.assert_clean()
