"""Signing in and out: who holds a token gets in, and no script, other site or later user gets the token."""

import asyncio

import asyncpg
import httpx
from playwright.async_api import Route, expect

from gateway.api.auth import CONSOLE_COOKIE
from gateway.tokens import revoke_token
from tests.api.conftest import ANSWER_SECONDS
from tests.console.conftest import Place, Visitor

HEADER = {"X-Console": "1"}


async def test_a_good_token_opens_the_console_and_is_out_of_every_scripts_reach(
    visitor: Visitor, place: Place
) -> None:
    visit = await visitor("read")
    (cookie,) = await visit.page.context.cookies()
    assert cookie["name"] == CONSOLE_COOKIE
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    kept = await visit.page.evaluate(
        "document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + location.href"
    )
    assert "tgw_" not in kept
    assert cookie["value"] not in await visit.page.content()
    visit.assert_clean()


async def test_a_bad_token_stays_outside_and_is_told_why(visitor: Visitor) -> None:
    visit = await visitor()
    page = visit.page
    await page.goto(visit.url)
    await expect(page).to_have_url(f"{visit.url}/console/sign-in")
    for token, answer in (("tgw_" + "x" * 43, "unknown or was revoked"), ("geheim", "no token of this")):
        await page.get_by_label("Token").fill(token)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text(answer)
        await expect(page.get_by_label("Token")).to_be_focused()
    assert await page.context.cookies() == []


async def test_who_was_sent_to_sign_in_gets_where_they_wanted_and_nowhere_else(
    visitor: Visitor, place: Place
) -> None:
    visit = await visitor()
    page = visit.page
    token = await place.api.token(["read"])
    await page.goto(f"{visit.url}/console/search?search=petr4")
    await page.get_by_label("Token").fill(token)
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{visit.url}/console/search?search=petr4")
    await page.goto(f"{visit.url}/console/sign-in?next=//example.org/")
    await expect(page).to_have_url(f"{visit.url}/")
    visit.assert_clean()


async def test_nothing_can_be_typed_or_sent_before_the_page_listens(visitor: Visitor, place: Place) -> None:
    visit = await visitor()
    page = visit.page
    token = await place.api.token(["read"])
    held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
    await page.route("**/static/sign_in.js", lambda route: held.set_result(route))
    await page.goto(f"{visit.url}/console/sign-in", wait_until="commit")
    script = await held
    await expect(page.get_by_label("Token")).to_be_disabled()
    await expect(page.get_by_role("button", name="Sign in")).to_be_disabled()
    await script.continue_()
    await page.get_by_label("Token").fill(token)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
    visit.assert_clean()


async def test_signing_out_forgets_the_token(visitor: Visitor) -> None:
    visit = await visitor("read")
    page = visit.page
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await page.context.cookies() == []
    await page.goto(visit.url)
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    visit.assert_clean()


async def test_a_revoked_token_is_out_within_seconds(visitor: Visitor, place: Place) -> None:
    visit = await visitor()
    token = await place.api.token(["read"])
    await visit.sign_in(token)
    connection = await asyncpg.connect(place.api.stack.postgres.dsn)
    try:
        assert await revoke_token(connection, token[:10])
    finally:
        await connection.close()
    await expect(visit.page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_the_cookie_counts_only_beside_a_header_that_no_other_site_can_send(place: Place) -> None:
    token = await place.api.token(["admin"])
    async with httpx.AsyncClient(base_url=place.api.url, timeout=ANSWER_SECONDS) as client:
        refused = await client.post("/console/session", json={"token": token})
        assert refused.status_code == 403
        assert "set-cookie" not in refused.headers
        signed_in = await client.post("/console/session", json={"token": token}, headers=HEADER)
        assert signed_in.json() == {
            "name": signed_in.json()["name"],
            "scopes": ["admin", "process", "read"],
            "chats": None,
        }
        assert (await client.get("/api/gateway/status")).status_code == 401
        assert (await client.post("/api/sync", json={})).status_code == 401
        assert (await client.delete("/console/session")).status_code == 403
        assert (await client.get("/api/gateway/status", headers=HEADER)).status_code == 200
        # Neither does the API let another origin's page send it.
        preflight = await client.options(
            "/api/sync",
            headers={
                "Origin": "https://example.org",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-console",
            },
        )
        assert "access-control-allow-origin" not in preflight.headers


async def test_behind_https_the_cookie_never_travels_in_the_clear(place: Place) -> None:
    token = await place.api.token(["read"])
    async with httpx.AsyncClient(base_url=place.api.url, headers=HEADER, timeout=ANSWER_SECONDS) as client:
        plain = await client.post("/console/session", json={"token": token})
        assert "secure" not in plain.headers["set-cookie"].lower()
        behind = await client.post(
            "/console/session", json={"token": token}, headers={"X-Forwarded-Proto": "https"}
        )
        assert "; Secure" in behind.headers["set-cookie"]
