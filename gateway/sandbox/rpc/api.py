"""The wire's backend: finds who asks and the handler that answers."""

from __future__ import annotations

from typing import Any

import structlog

from gateway.sandbox.backend import ClientSession, RpcError
from gateway.sandbox.rpc import (
    auth,
    channels,
    dialogs,
    help,
    history,
    sending,
    trivial,
    updates,
    upload,
    users,
)
from gateway.sandbox.rpc.call import Call, Handler, Services

log = structlog.get_logger()

_GROUPS = (auth, channels, dialogs, help, history, sending, trivial, updates, upload, users)
_HANDLERS: dict[type[Any], tuple[Handler, bool]] = {
    request: handler for group in _GROUPS for request, handler in group.handlers.by_request.items()
}


class Api:
    """Answers requests out of the world."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def call(self, session: ClientSession, request: Any) -> Any:
        user = self._services.accounts.user_of(session)
        handler, is_open = _HANDLERS.get(type(request), (None, False))
        if user is None and not is_open:
            raise RpcError(401, "AUTH_KEY_UNREGISTERED")
        if handler is None:
            log.warning("sandbox_method_unknown", method=type(request).__name__)
            raise RpcError(400, "METHOD_INVALID")
        return handler(Call(self._services, session, user), request)

    def opened(self, session: ClientSession) -> None:
        self._services.accounts.opened(session)

    def closed(self, session: ClientSession) -> None:
        self._services.accounts.closed(session)
