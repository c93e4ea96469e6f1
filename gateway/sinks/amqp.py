"""A publish-only AMQP 0-9-1 connection: one channel, publisher confirms, whole batches in one write.

It stands between the RabbitMQ sink and the socket. General clients cost 110–300 µs of CPU a message (a task,
a lock, two queues and a future each), which made RabbitMQ the dearest part of a message's way; a batch needs
one write and one future. The codec of everything but the publishes is pamqp's.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Self, cast

import pamqp.frame
from pamqp import commands
from pamqp.base import Frame
from pamqp.exceptions import PAMQPException
from pamqp.heartbeat import Heartbeat

CHANNEL = 1
HEARTBEAT = 10  # seconds; the broker's proposal is lowered to this
CONFIRM_TIMEOUT = 5.0  # seconds without any confirm while some are owed
CLOSE_TIMEOUT = 1.0  # seconds

_FRAME_OVERHEAD = 8  # type, channel, size and end octet
_METHOD, _HEARTBEAT = 1, 8
_ACK = b"\x00\x3c\x00\x50"
_NACK = b"\x00\x3c\x00\x78"
_RETURN = b"\x00\x3c\x00\x32"


class AmqpError(Exception):
    """The connection cannot be used any more. `code` is the broker's reply code, 0 when it gave none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Publisher(asyncio.Protocol):
    """One connection and its only channel, in confirm mode; after an error it is thrown away, not repaired.

    `on_blocked` is told the broker's reason when it stops reading what is published, and None when it reads
    again; `on_returned` is called for each mandatory message that no queue was bound for.
    """

    def __init__(self, on_blocked: Callable[[str | None], None], on_returned: Callable[[], None]) -> None:
        self.blocked: str | None = None
        self.max_body_frame = 0
        self._on_blocked = on_blocked
        self._on_returned = on_returned
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._error: AmqpError | None = None
        self._answer: asyncio.Future[Frame] | None = None
        self._confirmed: asyncio.Future[None] | None = None
        self._owed: set[int] = set()
        self._lowest_owed = 1
        self._last_tag = 0
        self._received_at = self._progress_at = self._loop.time()
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        user: str,
        password: str,
        virtual_host: str,
        tls: ssl.SSLContext | None = None,
        on_blocked: Callable[[str | None], None],
        on_returned: Callable[[], None],
    ) -> Self:
        """Connects, logs in and opens the channel.

        Raises OSError when nobody answers, AmqpError when the broker refuses. The caller bounds the time.
        """
        loop = asyncio.get_running_loop()
        _, publisher = await loop.create_connection(
            lambda: cls(on_blocked, on_returned),
            host,
            port,
            ssl=tls,
            server_hostname=host if tls is not None else None,
        )
        try:
            await publisher._handshake(user, password, virtual_host)
        except BaseException:
            publisher._abort()
            raise
        return publisher

    async def _handshake(self, user: str, password: str, virtual_host: str) -> None:
        await self._expect(b"AMQP\x00\x00\x09\x01", commands.Connection.Start)
        start_ok = commands.Connection.StartOk(
            client_properties={
                "product": "telegram-gateway",
                "connection_name": "telegram-gateway",
                "capabilities": {
                    "authentication_failure_close": True,
                    "basic.nack": True,
                    "connection.blocked": True,
                    "publisher_confirms": True,
                },
            },
            mechanism="PLAIN",
            response=f"\0{user}\0{password}",
        )
        tune = await self._expect(_marshal(start_ok, 0), commands.Connection.Tune)
        frame_max = min(tune.frame_max or 131072, 131072)
        heartbeat = min(tune.heartbeat or HEARTBEAT, HEARTBEAT)
        self.max_body_frame = frame_max - _FRAME_OVERHEAD
        self._write(_marshal(commands.Connection.TuneOk(tune.channel_max, frame_max, heartbeat), 0))
        await self._expect(_marshal(commands.Connection.Open(virtual_host), 0), commands.Connection.OpenOk)
        self._tick(heartbeat)
        await self.call(commands.Channel.Open(), commands.Channel.OpenOk)
        await self.call(commands.Confirm.Select(), commands.Confirm.SelectOk)

    async def call(self, request: Frame, answer: type[Frame]) -> Any:
        """Sends a method on the channel and returns the broker's answer."""
        return await self._expect(_marshal(request, CHANNEL), answer)

    async def publish(self, payload: bytes, count: int) -> None:
        """Writes the frames of `count` messages at once and returns when the broker has confirmed each.

        One call at a time. Raises AmqpError when one is refused, none is confirmed for CONFIRM_TIMEOUT, or
        the connection is lost; a blocked broker is waited for as long as its connection lives.
        """
        if self._error is not None:
            raise self._error
        self._owed = set(range(self._last_tag + 1, self._last_tag + count + 1))
        self._lowest_owed = self._last_tag + 1
        self._last_tag += count
        self._confirmed = self._loop.create_future()
        self._progress_at = self._loop.time()
        self._write(payload)
        try:
            await self._confirmed
        finally:
            self._confirmed = None

    async def check(self) -> None:
        """Returns once the broker has answered a round trip on the channel."""
        await self.call(commands.Confirm.Select(), commands.Confirm.SelectOk)

    async def close(self) -> None:
        """Says goodbye and waits shortly until the broker has read all that was written."""
        if self._error is None and self.blocked is None:
            goodbye = commands.Connection.Close(200, "closing", 0, 0)
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._expect(_marshal(goodbye, 0), commands.Connection.CloseOk)
            except (AmqpError, TimeoutError):
                pass
            finally:
                self._abort()
        self._abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(
            AmqpError(f"the connection was lost ({exc})" if exc else "the broker closed the connection")
        )

    def data_received(self, data: bytes) -> None:
        self._received_at = self._loop.time()
        if self._buffer:
            data = self._buffer + data
        start, size = 0, len(data)
        while size - start >= _FRAME_OVERHEAD:
            end = start + int.from_bytes(data[start + 3 : start + 7], "big") + _FRAME_OVERHEAD
            if end > size:
                break
            kind = data[start]
            if kind == _METHOD:
                method = data[start + 7 : start + 11]
                if method == _ACK:
                    tag = int.from_bytes(data[start + 11 : start + 19], "big")
                    self._acknowledged(tag, multiple=bool(data[start + 19] & 1))
                elif method == _NACK:
                    self._fail(AmqpError("the broker refused a message (a queue rejects or has failed)"))
                elif method == _RETURN:
                    self._on_returned()
                else:
                    self._method(data[start:end])
            elif kind == ord("A"):
                self._fail(AmqpError("the broker speaks another version of AMQP; RabbitMQ is needed"))
            start = end
        self._buffer = data[start:]

    def _acknowledged(self, tag: int, *, multiple: bool) -> None:
        owed = self._owed
        if multiple:
            owed.difference_update(range(self._lowest_owed, tag + 1))
            self._lowest_owed = max(self._lowest_owed, tag + 1)
        else:
            owed.discard(tag)
        self._progress_at = self._received_at
        if not owed and self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

    def _method(self, data: bytes) -> None:
        try:
            _, _, frame = pamqp.frame.unmarshal(data)
        except PAMQPException as error:
            self._fail(AmqpError(f"the broker sent a frame that cannot be read ({error})"))
            return
        match frame:
            case commands.Connection.Blocked():
                self._set_blocked(str(frame.reason))
            case commands.Connection.Unblocked():
                self._progress_at = self._received_at
                self._set_blocked(None)
            case commands.Connection.Close():
                self._write(_marshal(commands.Connection.CloseOk(), 0))
                self._fail(AmqpError(str(frame.reply_text), frame.reply_code or 0))
            case commands.Channel.Close():
                self._write(_marshal(commands.Channel.CloseOk(), CHANNEL))
                self._fail(AmqpError(str(frame.reply_text), frame.reply_code or 0))
            case Frame() if self._answer is not None and not self._answer.done():
                self._answer.set_result(frame)

    def _set_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        self._on_blocked(reason)

    async def _expect(self, payload: bytes, answer: type[Frame]) -> Any:
        if self._error is not None:
            raise self._error
        self._answer = self._loop.create_future()
        self._write(payload)
        try:
            frame = await self._answer
        finally:
            self._answer = None
        if not isinstance(frame, answer):
            raise AmqpError(f"the broker answered {frame.name} where {answer.name} was expected")
        return frame

    def _tick(self, heartbeat: int) -> None:
        now = self._loop.time()
        if now - self._received_at > 2 * heartbeat:
            self._fail(AmqpError(f"the broker has been silent for {2 * heartbeat} s"))
        elif self._owed and self.blocked is None and now - self._progress_at > CONFIRM_TIMEOUT:
            self._fail(
                AmqpError(
                    f"the broker has confirmed nothing for {CONFIRM_TIMEOUT:g} s; it is frozen, overloaded, "
                    "or a bound quorum queue has no leader"
                )
            )
        if self._error is not None:
            return
        if now - self._sent_at >= heartbeat / 2 - 1:
            self._write(pamqp.frame.marshal(Heartbeat(), 0))
        self._timer = self._loop.call_later(1, self._tick, heartbeat)

    def _write(self, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._sent_at = self._loop.time()
            self._transport.write(payload)

    def _fail(self, error: AmqpError) -> None:
        if self._error is None:
            self._error = error
        for waiting in (self._answer, self._confirmed):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._error)
        if self._timer is not None:
            self._timer.cancel()
        if self.blocked is not None:
            self._set_blocked(None)

    def _abort(self) -> None:
        self._fail(AmqpError("the connection is closed"))
        if self._transport is not None:
            self._transport.abort()


def _marshal(frame: Frame, channel: int) -> bytes:
    return pamqp.frame.marshal(frame, channel)
