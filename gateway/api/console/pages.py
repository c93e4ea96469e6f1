"""The console's pages, its static files, and signing in and out."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Header, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from gateway import __version__
from gateway.api.auth import CONSOLE_COOKIE, CONSOLE_HEADER, Caller, presented
from gateway.api.console.assets import assets
from gateway.api.model import ApiModel
from gateway.api.problems import Problem
from gateway.api.resources import Resources

router = APIRouter(include_in_schema=False)

SIGNED_IN_FOR = timedelta(hours=12)
LONGEST_TOKEN = 256
# name, title, icon, the key that follows g
VIEWS = (
    ("overview", "Overview", "overview", "o"),
    ("live", "Live", "live", "l"),
    ("search", "Search", "search", "s"),
    ("chats", "Chats", "chats", "c"),
    ("gaps", "Gaps", "gaps", "g"),
    ("dead-letters", "Dead letters", "letters", "d"),
)
_TITLES = {name: title for name, title, _, _ in VIEWS}
# Nothing inline, nothing from elsewhere, in nobody's frame; and no script turns a string into markup.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}

_templates = Environment(
    loader=PackageLoader("gateway.api.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class SignIn(ApiModel):
    """What the sign-in form sends."""

    token: str


class Session(ApiModel):
    """Who is signed in: a token's name, what it may do, and the chats it may see (null: all)."""

    name: str
    scopes: list[str]
    chats: list[str] | None


@router.get("/")
async def console() -> Response:
    """The console's first page."""
    return _page("console.html", view="overview", title=_TITLES["overview"])


@router.get("/console/sign-in")
async def sign_in_page() -> Response:
    """The form that asks for a token."""
    return _page("sign_in.html")


@router.get("/console/static/{path:path}")
async def static_file(path: str, request: Request) -> Response:
    """A stylesheet, script or picture of the console."""
    asset = assets().get(path)
    if asset is None:
        raise Problem(404, "Not Found", "There is no such file.")
    headers = {**_HEADERS, "ETag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.media_type)


@router.get("/console/session", response_model=None)
async def session(request: Request) -> Session | Response:
    """Who is signed in; 204 when nobody is."""
    token = presented(request)
    if token is None:
        return Response(status_code=204)
    return _session(await _authenticate(request, token))


@router.post("/console/session")
async def sign_in(
    form: SignIn,
    request: Request,
    response: Response,
    console: Annotated[str | None, Header(alias=CONSOLE_HEADER)] = None,
) -> Session:
    """Keeps the token in a cookie, once it is known to be one."""
    _require_own_page(console)
    if not form.token.isascii() or len(form.token) > LONGEST_TOKEN:
        raise Problem(401, "Unauthorized", "This is no token of this gateway's.")
    caller = await _authenticate(request, form.token)
    response.set_cookie(
        CONSOLE_COOKIE,
        form.token,
        max_age=int(SIGNED_IN_FOR.total_seconds()),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    response.headers["Cache-Control"] = "no-store"
    return _session(caller)


@router.delete("/console/session", status_code=204)
async def sign_out(
    request: Request, console: Annotated[str | None, Header(alias=CONSOLE_HEADER)] = None
) -> Response:
    """Forgets the token."""
    _require_own_page(console)
    response = Response(status_code=204)
    response.delete_cookie(
        CONSOLE_COOKIE, secure=request.url.scheme == "https", httponly=True, samesite="strict"
    )
    return response


@router.get("/console/{view}")
async def view(view: str) -> Response:
    """The console, opened at one of its views."""
    if view not in _TITLES:
        return _page("not_found.html", status=404)
    return _page("console.html", view=view, title=_TITLES[view])


def _page(template: str, status: int = 200, **values: str) -> Response:
    body = _templates.get_template(template).render(views=VIEWS, version=__version__, **values)
    return HTMLResponse(body, status, headers=_HEADERS)


async def _authenticate(request: Request, token: str) -> Caller:
    resources: Resources = request.app.state.resources
    return await resources.authenticator.authenticate(token, request.client.host if request.client else "")


def _session(caller: Caller) -> Session:
    chats = sorted(caller.chats) if caller.chats is not None else None
    return Session(name=caller.name, scopes=sorted(caller.scopes), chats=chats)


def _require_own_page(header: str | None) -> None:
    # No other site's page can send this header: the browser would ask us first, and we allow nobody.
    if header is None:
        raise Problem(403, "Forbidden", f"Only the console's own pages do this (header {CONSOLE_HEADER}).")
