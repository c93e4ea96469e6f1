"""What goes wrong on purpose: the faults that tests and the control interface inject into the wire.

The server and its sessions ask here before they accept, write, push or answer. All chance comes from one
seed, so a run can be repeated.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway.sandbox.backend import RpcError

PushFault = Literal["swallow", "duplicate", "delay", "reorder"]

REORDER_HOLD_SECONDS = 0.5  # a held push goes out alone after this: a network reorders, it does not lose


_UNKNOWN_OBJECT = bytes.fromhex("efbeadde") + bytes(16)


@dataclass(slots=True)
class _Rule:
    auth_key_id: int | None
    remaining: int | None  # None: until cleared
    probability: float

    def strikes(self, auth_key_id: int, chance: random.Random) -> bool:
        if self.auth_key_id not in (None, auth_key_id) or self.remaining == 0:
            return False
        if self.probability < 1.0 and chance.random() >= self.probability:
            return False
        if self.remaining is not None:
            self.remaining -= 1
        return True


@dataclass(slots=True)
class _PushRule(_Rule):
    kind: PushFault
    delay: float


@dataclass(slots=True)
class _CallRule(_Rule):
    method: str
    error: RpcError | None = None  # without error and answer: carried out, and its answer is lost
    answer: bytes | None = None


@dataclass(slots=True)
class _PacketRule(_Rule):
    code: int


class Faults:
    """The faults in force now. `auth_key_id=None` always means every client."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._pushes: list[_PushRule] = []
        self._calls: list[_CallRule] = []
        self._stalls: dict[int | None, object] = {}  # by key; the object tells one stall from the next
        self._packets: list[_PacketRule] = []
        self._unknown: set[bytes] = set()
        self._refusing_until = 0.0
        self._observers: list[Callable[[], None]] = []
        self.injected: Counter[str] = Counter()  # how often each kind struck
        self.asked: Counter[tuple[int, str]] = Counter()  # how often each client called each method

    def observe_stalls(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever a stall begins or ends."""
        self._observers.append(changed)

    def forget_observer(self, changed: Callable[[], None]) -> None:
        """Calls `changed` no more."""
        self._observers.remove(changed)

    def reseed(self, seed: int) -> None:
        self._chance.seed(seed)

    def clear(self) -> None:
        """Ends every fault."""
        self._pushes.clear()
        self._calls.clear()
        self._packets.clear()
        self._unknown.clear()
        self._refusing_until = 0.0
        if self._stalls:
            self._stalls.clear()
            self._stalls_changed()

    def refuse_connections(self, seconds: float) -> None:
        """Resets every new connection for `seconds` from now."""
        self._refusing_until = time.monotonic() + seconds

    def refuses_connection(self) -> bool:
        return self._struck("refuse") if time.monotonic() < self._refusing_until else False

    def stall(self, seconds: float | None = None, auth_key_id: int | None = None) -> None:
        """Stops reading and writing without closing, for `seconds` or until `release`."""
        this_stall = self._stalls[auth_key_id] = object()
        self.injected["stall"] += 1
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._end_stall, auth_key_id, this_stall)
        self._stalls_changed()

    def release(self, auth_key_id: int | None = None) -> None:
        """Ends the stall that was started with the same `auth_key_id`."""
        if self._stalls.pop(auth_key_id, None) is not None:
            self._stalls_changed()

    def stalls(self, auth_key_id: int | None) -> bool:
        """Whether a connection of this client (None: not known yet) is stalled now."""
        return None in self._stalls or auth_key_id in self._stalls

    def fault_pushes(
        self,
        kind: PushFault,
        *,
        times: int | None = None,
        probability: float = 1.0,
        delay: float = 0.0,
        auth_key_id: int | None = None,
    ) -> None:
        """Lets `kind` strike the next `times` pushes (None: all until cleared), each with `probability`.

        swallow loses the push, duplicate sends it twice, delay sends it `delay` seconds later, reorder
        sends it after the client's next push.
        """
        self._pushes.append(_PushRule(auth_key_id, times, probability, kind, delay))

    def on_push(self, auth_key_id: int) -> tuple[PushFault, float] | None:
        """The fault, with its delay, that strikes a push to this client now."""
        if not self._pushes:
            return None
        for rule in self._pushes:
            if rule.strikes(auth_key_id, self._chance):
                self._struck(rule.kind)
                return rule.kind, rule.delay
        return None

    def fail_calls(
        self,
        method: str,
        code: int,
        message: str,
        *,
        times: int | None = None,
        probability: float = 1.0,
        auth_key_id: int | None = None,
    ) -> None:
        """Answers `method` (a request's class name such as GetDifferenceRequest, or *) with an error."""
        error = RpcError(code, message)
        self._calls.append(_CallRule(auth_key_id, times, probability, method, error))

    def lose_answers(
        self,
        method: str,
        *,
        times: int | None = None,
        probability: float = 1.0,
        auth_key_id: int | None = None,
    ) -> None:
        """Carries `method` out but never sends its answer."""
        self._calls.append(_CallRule(auth_key_id, times, probability, method))

    def garble_answers(
        self,
        method: str,
        *,
        times: int | None = None,
        probability: float = 1.0,
        auth_key_id: int | None = None,
    ) -> None:
        """Answers `method` with an object of a constructor that no layer has."""
        self._calls.append(_CallRule(auth_key_id, times, probability, method, answer=_UNKNOWN_OBJECT))

    def on_call(self, auth_key_id: int, method: str) -> "_CallRule | None":
        """The rule that strikes this call now."""
        self.asked[auth_key_id, method] += 1
        for rule in self._calls:
            if rule.method in ("*", method) and rule.strikes(auth_key_id, self._chance):
                kind = "rpc_error" if rule.error else "garbled_answer" if rule.answer else "lose_answer"
                self._struck(kind)
                return rule
        return None

    def refuse_packets(self, code: int, *, times: int | None = None, auth_key_id: int | None = None) -> None:
        """Answers packets with a transport error, such as -429, and closes their connections."""
        self._packets.append(_PacketRule(auth_key_id, times, 1.0, code))

    def on_packet(self, auth_key_id: int) -> int | None:
        """The transport error that strikes this packet now."""
        for rule in self._packets:
            if rule.strikes(auth_key_id, self._chance):
                self._struck("transport_error")
                return rule.code
        return None

    def make_unknown(self, constructor: int) -> None:
        """From now on objects of this constructor go out under one that no layer has, until `clear`."""
        self._unknown.add(constructor.to_bytes(4, "little"))

    def disguise(self, serialised: bytes) -> bytes:
        """What is to be sent, with the constructors replaced that clients are not to know."""
        for constructor in self._unknown:
            if constructor in serialised:
                self._struck("unknown_object")
                serialised = serialised.replace(constructor, _UNKNOWN_OBJECT[:4])
        return serialised

    def _struck(self, kind: str) -> bool:
        self.injected[kind] += 1
        return True

    def _end_stall(self, auth_key_id: int | None, stall: object) -> None:
        if self._stalls.get(auth_key_id) is stall:
            self.release(auth_key_id)

    def _stalls_changed(self) -> None:
        for changed in self._observers:
            changed()
