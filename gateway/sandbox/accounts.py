"""Who is logged in with which key: login codes, two-step passwords, QR tokens, and the live sessions."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from telethon.tl import types

from gateway.sandbox.backend import ClientSession, RpcError
from gateway.sandbox.delivery import Delivery
from gateway.sandbox.srp import Challenge, Verifier
from gateway.sandbox.users import User
from gateway.sandbox.world import World

TOKEN_SECONDS = 30


@dataclass(slots=True)
class LoginToken:
    """A QR code that waits to be accepted by somebody who is logged in."""

    auth_key_id: int
    expires: int
    user: User | None = None


class Accounts:
    """Authorisations outlive the process: they are kept in the state directory by key id."""

    def __init__(self, world: World, delivery: Delivery, state_dir: Path) -> None:
        self._world = world
        self._delivery = delivery
        self._file = state_dir / "authorizations.json"
        self._authorized: dict[int, int] = {}
        self._sessions: dict[int, dict[ClientSession, None]] = {}
        self._duplicated: set[int] = set()
        self._code_hashes: dict[str, str] = {}
        self._awaiting_password: dict[int, User] = {}
        self._verifiers: dict[tuple[int, str], Verifier] = {}
        self._challenges: dict[int, Challenge] = {}
        self._tokens: dict[bytes, LoginToken] = {}
        self._exported: dict[bytes, User] = {}
        self.visitors: dict[int, User] = {}  # by key: logins of the other data centre
        if self._file.exists():
            stored = json.loads(self._file.read_text())
            self._authorized = {int(key): user_id for key, user_id in stored.items()}

    def opened(self, session: ClientSession) -> None:
        self._sessions.setdefault(session.auth_key_id, {})[session] = None
        user = self._user(session.auth_key_id)
        if user is not None:
            self._delivery.attach(user, session)

    def closed(self, session: ClientSession) -> None:
        self._delivery.detach(session)
        sessions = self._sessions.get(session.auth_key_id, {})
        sessions.pop(session, None)
        if not sessions:
            self._sessions.pop(session.auth_key_id, None)

    def disconnect_all(self) -> None:
        """Every session is gone: the server went down."""
        for sessions in list(self._sessions.values()):
            for session in list(sessions):
                self.closed(session)

    def user_of(self, session: ClientSession) -> User | None:
        """Who is logged in. Raises RpcError for a key that was used from two places."""
        if session.auth_key_id in self._duplicated:
            raise RpcError(406, "AUTH_KEY_DUPLICATED")
        return self._user(session.auth_key_id) or self.visitors.get(session.auth_key_id)

    def export_login(self, user: User) -> bytes:
        """What lets one more key act for the user at another data centre, where no updates come."""
        token = secrets.token_bytes(24)
        self._exported[token] = user
        return token

    def import_login(self, session: ClientSession, token: bytes) -> User | None:
        """The user whom the key acts for from now on; None for a token that is unknown or used."""
        user = self._exported.pop(token, None)
        if user is not None:
            self.visitors[session.auth_key_id] = user
        return user

    def keys_of(self, user: User) -> list[int]:
        return [key for key, user_id in self._authorized.items() if user_id == user.id]

    def log_in(self, session: ClientSession, user: User) -> None:
        self._awaiting_password.pop(session.auth_key_id, None)
        self._authorized[session.auth_key_id] = user.id
        self._save()
        for live in self._sessions.get(session.auth_key_id, {session: None}):
            self._delivery.attach(user, live)

    def log_out(self, auth_key_id: int) -> None:
        """Forgets the login; the connection stays up and is silent from now on."""
        if self._authorized.pop(auth_key_id, None) is not None:
            self._save()
        for session in self._sessions.get(auth_key_id, ()):
            self._delivery.detach(session)

    def mark_duplicated(self, auth_key_id: int) -> None:
        """From now on the key is refused for good."""
        self.log_out(auth_key_id)
        self._duplicated.add(auth_key_id)

    def send_code(self, phone: str) -> str:
        """The hash that the code must be sent back with."""
        if self._world.user_by_phone(phone) is None:
            raise RpcError(400, "PHONE_NUMBER_INVALID")
        code_hash = secrets.token_hex(8)
        self._code_hashes[code_hash] = phone
        return code_hash

    def check_code(self, session: ClientSession, phone: str, code_hash: str, code: str) -> User:
        """The user who may log in now. Raises RpcError when the code is wrong or a password is needed."""
        user = self._world.user_by_phone(phone)
        if not code:
            raise RpcError(400, "PHONE_CODE_EMPTY")
        if user is None or self._code_hashes.get(code_hash) != phone:
            raise RpcError(400, "PHONE_CODE_EXPIRED")
        if code != (user.code or self._world.default_code):
            raise RpcError(400, "PHONE_CODE_INVALID")
        del self._code_hashes[code_hash]
        self.require_password(session, user)
        return user

    def require_password(self, session: ClientSession, user: User) -> None:
        """Raises the RpcError that asks for the two-step password, where the user has one."""
        if user.password is not None:
            self._awaiting_password[session.auth_key_id] = user
            raise RpcError(401, "SESSION_PASSWORD_NEEDED")

    def password_challenge(self, session: ClientSession) -> tuple[Verifier, Challenge] | None:
        """What a client must answer to show that it knows the password; None where there is none."""
        user = self._awaiting_password.get(session.auth_key_id) or self._user(session.auth_key_id)
        if user is None or user.password is None:
            return None
        verifier = self._verifiers.setdefault((user.id, user.password), Verifier(user.password))
        challenge = self._challenges[session.auth_key_id] = verifier.challenge()
        return verifier, challenge

    def check_password(self, session: ClientSession, srp_id: int, public: bytes, proof: bytes) -> User:
        user = self._awaiting_password.get(session.auth_key_id)
        challenge = self._challenges.pop(session.auth_key_id, None)
        if user is None or user.password is None:
            raise RpcError(401, "AUTH_KEY_UNREGISTERED")
        if challenge is None or challenge.srp_id != srp_id:
            raise RpcError(400, "SRP_ID_INVALID")
        if not self._verifiers[user.id, user.password].accepts(challenge, public, proof):
            raise RpcError(400, "PASSWORD_HASH_INVALID")
        return user

    def new_token(self, session: ClientSession) -> tuple[bytes, LoginToken]:
        """A fresh QR token, or the one of this key that somebody has accepted meanwhile."""
        for token, login in self._tokens.items():
            if login.auth_key_id == session.auth_key_id and login.user is not None:
                return token, login
        token = secrets.token_bytes(24)
        login = self._tokens[token] = LoginToken(session.auth_key_id, self._world.now() + TOKEN_SECONDS)
        return token, login

    def accept_token(self, token: bytes, user: User) -> None:
        """Lets `user` log in where the token was shown, and tells that client to come for it."""
        login = self._tokens.get(token)
        if login is None:
            raise RpcError(400, "AUTH_TOKEN_INVALIDX")
        if login.expires < self._world.now():
            raise RpcError(400, "AUTH_TOKEN_EXPIRED")
        if login.user is not None:
            raise RpcError(400, "AUTH_TOKEN_ALREADY_ACCEPTED")
        login.user = user
        hint = bytes(types.UpdateShort(types.UpdateLoginToken(), self._world.now()))
        for session in self._sessions.get(login.auth_key_id, ()):
            session.push(hint)

    def redeem_token(self, session: ClientSession, token: bytes) -> User | None:
        """The user that an accepted token logs in; None while nobody has accepted it."""
        login = self._tokens.get(token)
        if login is None or login.auth_key_id != session.auth_key_id:
            raise RpcError(400, "AUTH_TOKEN_INVALID")
        if login.user is not None:
            del self._tokens[token]
            self.require_password(session, login.user)
        return login.user

    def _user(self, auth_key_id: int) -> User | None:
        return self._world.users.get(self._authorized.get(auth_key_id, 0))

    def _save(self) -> None:
        replacement = self._file.with_suffix(".new")
        replacement.write_text(json.dumps(self._authorized))
        os.replace(replacement, self._file)
