"""What went wrong with Telegram, in the operator's words: an error's own name where Telegram gave it one."""

from typing import Any

from telethon import errors
from telethon.errors import AuthKeyNotFound, TypeNotFoundError

from gateway.telegram.plain import snake_case


class UndecodableAnswer(errors.ServerError):  # type: ignore[misc]  # untyped base
    """Telegram's answer holds an object that this Telethon does not know; asking again brings the same."""

    def __init__(self, request: Any, constructor: str) -> None:
        super().__init__(request, f"UNDECODABLE_{constructor}", 500)


def reason(error: Exception) -> str:
    """A short name of `error`; never what a message held."""
    if isinstance(error, AuthKeyNotFound):
        return "AUTH_KEY_NOT_FOUND"
    if isinstance(error, TypeNotFoundError):  # its text quotes the bytes that it could not read
        return f"an object unknown to this version: {error.invalid_constructor_id:08x}"
    if isinstance(error, errors.RPCError):
        # Telethon knows the common ones by class alone; their `message` is only the kind of error.
        if type(error).__module__.endswith(".rpcerrorlist"):
            return snake_case(type(error).__name__.removesuffix("Error")).upper()
        return str(error.message)
    if isinstance(error, TimeoutError):
        return str(error) or "no answer in time"
    return str(error) or type(error).__name__
