"""What others write stays text, and the console's pages let nothing else in."""

import httpx
import pytest
from playwright.async_api import expect

from tests.api.conftest import ANSWER_SECONDS
from tests.console.conftest import Place, Visitor

ATTACKS = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    '"><svg onload=alert(3)>',
    "</li></ol><iframe srcdoc='<script>parent.alert(4)</script>'>",
    "<mark>javascript:alert(5)</mark> \u0002wichtig\u0003",
)
FOREIGN = "main :is(img, iframe, script, object, embed, mark:has(*)), dialog :is(img, iframe, script)"


async def test_markup_in_messages_and_titles_stays_text(visitor: Visitor, place: Place) -> None:
    world = place.sandbox.world
    chat = next(chat for chat in place.scene.chats if chat.title == "Mini Índice Ao Vivo")
    visit = await visitor("admin")
    page = visit.page
    await visit.open("Live")
    live = page.locator("#view-live")
    await expect(live.get_by_text("Connected")).to_be_visible()
    world.set_title(chat, ATTACKS[0])
    for attack in ATTACKS:
        world.post(chat, f"angriff {attack}")
    for attack in ATTACKS:
        await expect(live.locator(".words", has_text=f"angriff {attack}")).to_be_visible()
    await expect(live.locator(".chat", has_text=ATTACKS[0]).first).to_be_visible()
    await expect(page.locator(FOREIGN)).to_have_count(0)

    await place.arrived(chat)
    await page.goto(f"{visit.url}/console/search?search=angriff+onerror+alert")
    found = page.locator("#view-search li")
    await expect(found).to_have_count(1)
    await expect(found.locator(".words")).to_have_text(f"angriff {ATTACKS[0]}")
    await expect(found.locator("mark").first).to_be_visible()
    await found.get_by_role("button").click()
    await expect(page.get_by_role("dialog").locator(".body-text")).to_have_text(f"angriff {ATTACKS[0]}")
    await expect(page.locator(FOREIGN)).to_have_count(0)
    await page.keyboard.press("Escape")

    await visit.open("Chats")
    await expect(page.get_by_role("row").filter(has_text=ATTACKS[0])).to_be_visible()
    await expect(page.get_by_role("switch", name=f"Capture {ATTACKS[0]}")).to_be_visible()
    await expect(page.locator(FOREIGN)).to_have_count(0)
    visit.assert_clean()


@pytest.mark.parametrize("path", ["/", "/console/live", "/console/sign-in", "/console/no-such-page"])
async def test_every_page_allows_only_its_own_files_and_no_frame(place: Place, path: str) -> None:
    async with httpx.AsyncClient(base_url=place.api.url, timeout=ANSWER_SECONDS) as client:
        answer = await client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "<style" not in answer.text
    assert " style=" not in answer.text
    assert " onclick=" not in answer.text


async def test_a_string_cannot_become_markup_even_by_mistake(visitor: Visitor) -> None:
    visit = await visitor("read")
    refused = await visit.page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } }"
    )
    assert refused == "TypeError"


async def test_files_are_a_fixed_set_that_a_browser_keeps_and_asks_about(place: Place) -> None:
    async with httpx.AsyncClient(base_url=place.api.url, timeout=ANSWER_SECONDS) as client:
        script = await client.get("/console/static/app.js")
        assert script.headers["content-type"].startswith("text/javascript")
        again = await client.get("/console/static/app.js", headers={"If-None-Match": script.headers["etag"]})
        assert again.status_code == 304
        for path in ("../pages.py", "%2e%2e/pages.py", "views/../../pages.py", "nothing.js", ""):
            assert (await client.get(f"/console/static/{path}")).status_code == 404
