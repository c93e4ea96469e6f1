"""What the messages of a session ask for: service messages are answered here, requests go to the Backend.

Each request runs once: the same message id again is answered from what was answered before.
"""

import asyncio
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from telethon.tl import functions, types

from gateway.sandbox.backend import RpcError
from gateway.sandbox.wire import tl

if TYPE_CHECKING:
    from gateway.sandbox.wire.server import WireServer
    from gateway.sandbox.wire.session import Session

log = structlog.get_logger()

# Answers kept for requests that come again; at least the newest is, whatever its size.
KEPT_ANSWERS = 1_000
KEPT_ANSWER_BYTES = 1 << 20

_RPC_RESULT = struct.Struct("<Iq")
_WRAPPERS = (
    functions.InvokeWithLayerRequest,
    functions.InitConnectionRequest,
    functions.InvokeWithoutUpdatesRequest,
    functions.InvokeAfterMsgRequest,
    functions.InvokeAfterMsgsRequest,
    functions.InvokeWithMessagesRangeRequest,
    functions.InvokeWithTakeoutRequest,
    functions.InvokeWithBusinessConnectionRequest,
    functions.InvokeWithGooglePlayIntegrityRequest,
    functions.InvokeWithApnsSecretRequest,
    functions.InvokeWithReCaptchaRequest,
)


class Calls:
    """The requests of one session: those that run, and the answers of those that ran."""

    def __init__(self, server: "WireServer", session: "Session") -> None:
        self._server = server
        self._session = session
        self._running: dict[int, asyncio.Task[None]] = {}
        self._dropped: set[int] = set()
        self._answers: OrderedDict[int, bytes] = OrderedDict()
        self._answer_bytes = 0
        self._used_without_updates_only = True

    def receive(self, message_id: int, body: bytes) -> None:
        """Starts what the client asks for in `body`; answers come through the session."""
        if message_id in self._answers:
            self._session.send(self._answers[message_id], content=True, answers=message_id)
            return
        if message_id in self._running:
            return
        try:
            request = tl.read(body)
        except RpcError as error:
            self._answer(message_id, _error(error))
            return
        service = _SERVICE.get(type(request))
        if service is not None:
            service(self, message_id, request)
            return
        request, after = self._unwrap(request)
        task = asyncio.get_running_loop().create_task(self._run(message_id, request, after))
        self._running[message_id] = task
        self._server.watch(task)

    def _unwrap(self, request: Any) -> tuple[Any, list[int]]:
        after: list[int] = []
        without_updates = False
        while isinstance(request, _WRAPPERS):
            if isinstance(request, functions.InvokeWithLayerRequest):
                self._session.layer = request.layer
                self._server.remember_layer(self._session.auth_key_id, request.layer)
            elif isinstance(request, functions.InvokeAfterMsgRequest):
                after.append(request.msg_id)
            elif isinstance(request, functions.InvokeAfterMsgsRequest):
                after.extend(request.msg_ids)
            elif isinstance(request, functions.InvokeWithoutUpdatesRequest):
                without_updates = True
            request = request.query
        self._used_without_updates_only &= without_updates
        self._session.receives_updates = not self._used_without_updates_only
        return request, after

    async def _run(self, message_id: int, request: Any, after: list[int]) -> None:
        try:
            earlier = [self._running[key] for key in after if key in self._running and key != message_id]
            if earlier:
                await asyncio.wait(earlier)
            result = await self._result(request)
        finally:
            del self._running[message_id]
        if result is not None:
            self._answer(message_id, result)

    async def _result(self, request: Any) -> bytes | None:
        session = self._session
        rule = self._server.faults.on_call(session.auth_key_id, type(request).__name__)
        if rule is not None and rule.error is not None:
            return _error(rule.error)
        if rule is not None and rule.answer is not None:
            return rule.answer
        try:
            if isinstance(request, functions.auth.BindTempAuthKeyRequest):
                result = tl.serialise(self._server.bind(session, request.perm_auth_key_id))
            else:
                answer = tl.serialise(await self._server.backend.call(session, request))
                result = tl.compress(self._server.faults.disguise(answer))
        except RpcError as error:
            result = _error(error)
        except Exception:
            log.exception("sandbox_call_failed", method=type(request).__name__)
            result = _error(RpcError(500, "INTERNAL_SERVER_ERROR"))
        return None if rule is not None else result

    def _answer(self, message_id: int, result: bytes) -> None:
        message = _RPC_RESULT.pack(tl.RPC_RESULT, message_id) + result
        self._answers[message_id] = message
        self._answer_bytes += len(message)
        while len(self._answers) > KEPT_ANSWERS or (
            self._answer_bytes > KEPT_ANSWER_BYTES and len(self._answers) > 1
        ):
            _, forgotten = self._answers.popitem(last=False)
            self._answer_bytes -= len(forgotten)
        if message_id in self._dropped:
            self._dropped.remove(message_id)
            return
        self._session.send(message, content=True, answers=message_id)

    # Service messages

    def _ignore(self, message_id: int, request: Any) -> None:
        """Acknowledgements and the like need no answer."""

    def _ping(self, message_id: int, request: Any) -> None:
        connection = self._session.connection
        if connection is not None and isinstance(request, functions.PingDelayDisconnectRequest):
            connection.disconnect_after(request.disconnect_delay)
        self._session.send(types.Pong(message_id, request.ping_id), content=False, answers=message_id)

    def _future_salts(self, message_id: int, request: Any) -> None:
        salts = [types.FutureSalt(*salt) for salt in self._server.future_salts(self._session, request.num)]
        answer = types.FutureSalts(message_id, int(time.time()), salts)
        self._session.send(answer, content=False, answers=message_id)

    def _state(self, message_id: int, request: Any) -> None:
        # 4: received; 1: nothing is known about the message.
        known = (key in self._answers or key in self._running for key in request.msg_ids)
        info = bytes(4 if is_known else 1 for is_known in known)
        self._session.send(types.MsgsStateInfo(message_id, info), content=False, answers=message_id)

    def _drop_answer(self, message_id: int, request: Any) -> None:
        if request.req_msg_id in self._running:
            self._dropped.add(request.req_msg_id)
            self._answer(message_id, bytes(types.RpcAnswerDroppedRunning()))
        else:
            self._answer(message_id, bytes(types.RpcAnswerUnknown()))

    def _destroy_session(self, message_id: int, request: Any) -> None:
        destroyed = self._server.forget_session(self._session, request.session_id)
        answer = types.DestroySessionOk if destroyed else types.DestroySessionNone
        self._session.send(answer(request.session_id), content=False, answers=message_id)

    def _destroy_auth_key(self, message_id: int, request: Any) -> None:
        self._session.send(types.DestroyAuthKeyOk(), content=False, answers=message_id)
        self._session.flush()
        self._server.destroy_auth_key(self._session.auth_key_id)


def _error(error: RpcError) -> bytes:
    return bytes(types.RpcError(error.code, error.message))


_SERVICE: dict[type, Callable[[Calls, int, Any], None]] = {
    types.MsgsAck: Calls._ignore,
    types.HttpWait: Calls._ignore,
    types.MsgsStateInfo: Calls._ignore,
    types.MsgsAllInfo: Calls._ignore,
    functions.PingRequest: Calls._ping,
    functions.PingDelayDisconnectRequest: Calls._ping,
    functions.GetFutureSaltsRequest: Calls._future_salts,
    types.MsgsStateReq: Calls._state,
    types.MsgResendReq: Calls._state,
    functions.RpcDropAnswerRequest: Calls._drop_answer,
    functions.DestroySessionRequest: Calls._destroy_session,
    functions.DestroyAuthKeyRequest: Calls._destroy_auth_key,
}
