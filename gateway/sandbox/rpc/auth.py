"""Logging in and out: codes, two-step passwords, bots and QR tokens."""

from __future__ import annotations

import secrets
from typing import Any

from telethon.tl import functions, types

from gateway.sandbox.backend import RpcError
from gateway.sandbox.rpc.call import Call, Handlers
from gateway.sandbox.rpc.upload import FILE_DC_ID
from gateway.sandbox.users import User

handlers = Handlers()

_CODE_LENGTH = 5


def _authorize(call: Call, user: User) -> Any:
    call.services.accounts.log_in(call.session, user)
    return types.auth.Authorization(call.services.delivery.view(user).user(user))


@handlers.answers(functions.auth.SendCodeRequest, functions.auth.ResendCodeRequest, open=True)
def send_code(call: Call, request: Any) -> Any:
    code_hash = call.services.accounts.send_code(request.phone_number)
    return types.auth.SentCode(types.auth.SentCodeTypeApp(_CODE_LENGTH), code_hash)


@handlers.answers(functions.auth.SignInRequest, open=True)
def sign_in(call: Call, request: Any) -> Any:
    user = call.services.accounts.check_code(
        call.session, request.phone_number, request.phone_code_hash, request.phone_code or ""
    )
    return _authorize(call, user)


@handlers.answers(functions.account.GetPasswordRequest, open=True)
def get_password(call: Call, request: Any) -> Any:
    asked = call.services.accounts.password_challenge(call.session)
    verifier, challenge = asked if asked is not None else (None, None)
    return types.account.Password(
        new_algo=types.PasswordKdfAlgoUnknown(),
        new_secure_algo=types.SecurePasswordKdfAlgoUnknown(),
        secure_random=secrets.token_bytes(16),
        has_password=True if asked is not None else None,
        current_algo=verifier.algorithm if verifier is not None else None,
        srp_B=challenge.public if challenge is not None else None,
        srp_id=challenge.srp_id if challenge is not None else None,
    )


@handlers.answers(functions.auth.CheckPasswordRequest, open=True)
def check_password(call: Call, request: Any) -> Any:
    proof = request.password
    if not isinstance(proof, types.InputCheckPasswordSRP):
        raise RpcError(400, "PASSWORD_HASH_INVALID")
    user = call.services.accounts.check_password(call.session, proof.srp_id, proof.A, proof.M1)
    return _authorize(call, user)


@handlers.answers(functions.auth.ImportBotAuthorizationRequest, open=True)
def import_bot_authorization(call: Call, request: Any) -> Any:
    bot = call.world.user_by_bot_token(request.bot_auth_token)
    if bot is None:
        raise RpcError(400, "ACCESS_TOKEN_INVALID")
    return _authorize(call, bot)


@handlers.answers(functions.auth.ExportLoginTokenRequest, open=True)
def export_login_token(call: Call, request: Any) -> Any:
    token, login = call.services.accounts.new_token(call.session)
    if login.user is None:
        return types.auth.LoginToken(login.expires, token)
    return _redeem(call, token)


@handlers.answers(functions.auth.ImportLoginTokenRequest, open=True)
def import_login_token(call: Call, request: Any) -> Any:
    return _redeem(call, request.token)


def _redeem(call: Call, token: bytes) -> Any:
    user = call.services.accounts.redeem_token(call.session, token)
    if user is None:
        raise RpcError(400, "AUTH_TOKEN_INVALID")
    return types.auth.LoginTokenSuccess(_authorize(call, user))


@handlers.answers(functions.auth.AcceptLoginTokenRequest)
def accept_login_token(call: Call, request: Any) -> Any:
    call.services.accounts.accept_token(request.token, call.me)
    now = call.world.now()
    return types.Authorization(0, "Sandbox", "", "", 1, "sandbox", "", now, now, "127.0.0.1", "", "")


@handlers.answers(functions.auth.ExportAuthorizationRequest)
def export_authorization(call: Call, request: Any) -> Any:
    if request.dc_id != FILE_DC_ID:
        raise RpcError(400, "DC_ID_INVALID")
    return types.auth.ExportedAuthorization(call.me.id, call.services.accounts.export_login(call.me))


@handlers.answers(functions.auth.ImportAuthorizationRequest, open=True)
def import_authorization(call: Call, request: Any) -> Any:
    user = call.services.accounts.import_login(call.session, request.bytes)
    if user is None or user.id != request.id:
        raise RpcError(400, "AUTH_BYTES_INVALID")
    return types.auth.Authorization(call.services.delivery.view(user).user(user))


@handlers.answers(functions.auth.LogOutRequest)
def log_out(call: Call, request: Any) -> Any:
    call.services.accounts.log_out(call.session.auth_key_id)
    return types.auth.LoggedOut()
