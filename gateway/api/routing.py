"""Finds the operation for a path by looking it up, where FastAPI tries one route after the other.

Included routers are tried twice and with much bookkeeping: with the API's forty routes that cost more than
all the rest of a small request. And an operation may answer by itself, before FastAPI's layers.
"""

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send


class QuickRoute(APIRoute):
    """An operation that may have an answer before FastAPI's layers, which take longer than Redis does."""

    async def quick(self, request: Request) -> Response | None:
        """The answer, where it is found without FastAPI's help. Not asked where the path has parameters."""
        return None


def add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Gives `app` the routers' operations, as `include_router` does when it is given nothing else."""
    table = app.router
    by_path: dict[str, list[BaseRoute]] = {}
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                route.unique_id = route.name
                if not route.param_convertors:
                    by_path.setdefault(route.path, []).append(route)
            table.routes.append(route)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for route in by_path.get(scope["path"], ()):
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found)
                    scope.setdefault("router", table)
                    answer = None
                    if isinstance(route, QuickRoute):
                        answer = await route.quick(Request(scope, receive))
                    await (answer or route.handle)(scope, receive, send)
                    return
        await table.app(scope, receive, send)

    table.middleware_stack = dispatch
