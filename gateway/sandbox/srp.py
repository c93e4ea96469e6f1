"""The server's half of Telegram's two-step password check (SRP 6a over a fixed 2048-bit group)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from telethon.tl import types

_G = 3
# The group every Telegram client accepts without testing it for primality first.
_P = int(
    "c71caeb9c6b1c9048e6c522f70f13f73980d40238e3e21c14934d037563d930f48198a0aa7c14058229493d22530f4db"
    "fa336f6e0ac925139543aed44cce7c3720fd51f69458705ac68cd4fe6b6b13abdc9746512969328454f18faf8c595f64"
    "2477fe96bb2a941d5bcd1d4ac8cc49880708fa9b378e3c4f3a9060bee67cf9a4a4a695811051907e162753b56b0f6b41"
    "0dba74d8a84b2a14b3144e0ef1284754fd17ed950d5965b4b9dd46582db1178d169c6bc465b0d6ff9ca3928fef5b9ae4"
    "e418fc15e83ebea0f87fa9ff5eed70050ded2849f47bf959d956850ce929851f0d8115f635b105ee2e4e15d04b2454bf"
    "6f4fadf034b10403119cd8e3b92fcc5b",
    16,
)
_PBKDF2_ROUNDS = 100_000
_BYTES = 256


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _number(value: int) -> bytes:
    return value.to_bytes(_BYTES, "big")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What was asked of a client: it is answered with `srp_id`."""

    srp_id: int
    secret: int
    public: bytes


class Verifier:
    """Knows a password well enough to check it, and not more."""

    def __init__(self, password: str) -> None:
        self.salt1 = secrets.token_bytes(8)
        self.salt2 = secrets.token_bytes(16)
        inner = _sha256(self.salt2, _sha256(self.salt1, password.encode(), self.salt1), self.salt2)
        stretched = hashlib.pbkdf2_hmac("sha512", inner, self.salt1, _PBKDF2_ROUNDS)
        x = int.from_bytes(_sha256(self.salt2, stretched, self.salt2), "big")
        self._v = pow(_G, x, _P)

    @property
    def algorithm(self) -> Any:
        """The parameters a client needs, in Telegram's object."""
        return types.PasswordKdfAlgoSHA256SHA256PBKDF2HMACSHA512iter100000SHA256ModPow(
            self.salt1, self.salt2, _G, _number(_P)
        )

    def challenge(self) -> Challenge:
        secret = int.from_bytes(secrets.token_bytes(_BYTES), "big")
        k = int.from_bytes(_sha256(_number(_P), _number(_G)), "big")
        public = (k * self._v + pow(_G, secret, _P)) % _P
        return Challenge(secrets.randbits(62), secret, _number(public))

    def accepts(self, challenge: Challenge, client_public: bytes, proof: bytes) -> bool:
        """Whether the client's A and M1 prove that it knows the password."""
        a = int.from_bytes(client_public, "big")
        if a % _P == 0 or len(client_public) > _BYTES:
            return False
        u = int.from_bytes(_sha256(_number(a), challenge.public), "big")
        shared = _sha256(_number(pow(a * pow(self._v, u, _P) % _P, challenge.secret, _P)))
        group = bytes(p ^ g for p, g in zip(_sha256(_number(_P)), _sha256(_number(_G)), strict=True))
        expected = _sha256(
            group, _sha256(self.salt1), _sha256(self.salt2), _number(a), challenge.public, shared
        )
        return hmac.compare_digest(expected, proof)
