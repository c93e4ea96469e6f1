"""The line between the sandbox's wire (MTProto) and its world (accounts, chats, messages)."""

from typing import Any, Protocol


class RpcError(Exception):
    """An error answer, such as RpcError(420, "FLOOD_WAIT_5")."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


class ClientSession(Protocol):
    """One client session on a live connection, as the wire shows it to the backend."""

    auth_key_id: int
    session_id: int
    layer: int
    receives_updates: bool  # False while the client only ever used invokeWithoutUpdates

    def push(self, updates: bytes) -> None:
        """Queues a serialised Updates object for the client; never blocks, and is lost when the client is."""

    def close(self) -> None:
        """Drops the connection at once."""


class Backend(Protocol):
    """What answers requests. Wrappers (invokeWithLayer, initConnection, …) are already taken off."""

    async def call(self, session: ClientSession, request: Any) -> Any:
        """The answer to `request` (a Telethon request object): a TL object, a list of them, or a bool.

        Raises RpcError for an error answer.
        """

    def opened(self, session: ClientSession) -> None:
        """A client session came up (new_session_created has been sent)."""

    def closed(self, session: ClientSession) -> None:
        """The session's connection is gone."""
