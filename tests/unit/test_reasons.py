"""The names of Telegram's errors as the operator reads them: Telegram's own, and never a message's bytes."""

import pytest
from telethon.errors import TypeNotFoundError, rpc_message_to_error
from telethon.tl.functions.users import GetUsersRequest
from telethon.tl.types import RpcError

from gateway.telegram.reasons import reason


@pytest.mark.parametrize(
    ("code", "name", "shown"),
    [
        (401, "AUTH_KEY_UNREGISTERED", "AUTH_KEY_UNREGISTERED"),
        (406, "AUTH_KEY_DUPLICATED", "AUTH_KEY_DUPLICATED"),
        (400, "API_ID_INVALID", "API_ID_INVALID"),
        (420, "FLOOD_WAIT_7", "FLOOD_WAIT"),
        (400, "NEWER_THAN_TELETHON", "NEWER_THAN_TELETHON"),
    ],
)
def test_telegrams_errors_keep_their_names(code: int, name: str, shown: str) -> None:
    assert reason(rpc_message_to_error(RpcError(code, name), GetUsersRequest([]))) == shown


def test_what_could_not_be_read_is_named_and_not_quoted() -> None:
    assert (
        reason(TypeNotFoundError(0x1234ABCD, b"PETR4 compra"))
        == "an object unknown to this version: 1234abcd"
    )


def test_silence_has_a_reason_too() -> None:
    assert reason(TimeoutError()) == "no answer in time"
    assert reason(ConnectionResetError("cut")) == "cut"
