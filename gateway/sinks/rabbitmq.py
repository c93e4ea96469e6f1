"""The RabbitMQ sink: every event as a persistent message on the topic exchange `telegram.messages`.

It stands behind the runner and in front of the consumers' queues. A batch is written in journal order on one
channel and is delivered when the broker has confirmed all of it. After a failure the connection is given up
and the whole batch is published again on a new one: a reader may see a repeat, never a swap. (One exception
is a queue that answers a single message with a reject, as `overflow=reject-publish` makes it: what followed
that message in the batch has then passed it.)
"""

import asyncio
import re
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, parse_qs, unquote

import pamqp.frame
import structlog
from pamqp import commands, encode

from gateway.errors import ConfigurationError, RecordsRefused, SinkUnavailable
from gateway.event import Event, utc_now
from gateway.event_message import EXCHANGE, chat_headers, happened_at, rfc3339, routing_key
from gateway.journal import Record
from gateway.metrics import RABBITMQ_BLOCKED, RABBITMQ_UNROUTED
from gateway.sinks.amqp import CHANNEL, AmqpError, Publisher
from gateway.sinks.base import ReplayedRecord
from gateway.urls import url_per_host

log = structlog.get_logger()

OPEN_TIMEOUT = 5.0  # seconds
CHECK_TIMEOUT = 5.0  # seconds
MAX_BODY_BYTES = 16 << 20  # what RabbitMQ 4 accepts by default; a broker that says less is believed

_TEMPLATES = 10_000  # chats and kinds whose constant parts are kept
_ACCESS_REFUSED, _NOT_ALLOWED, _PRECONDITION_FAILED = 403, 530, 406
_SIZE_LIMIT = re.compile(r"max size (\d+)")

# Content header: class 60, weight 0, body size; then the flags of content-type, headers, delivery-mode,
# message-id and timestamp, whose values follow in this order.
_HEADER_START = struct.Struct(">HHQH")
_FLAGS = 0x8000 | 0x2000 | 0x1000 | 0x0080 | 0x0040
_FRAME_START = struct.Struct(">BHI")
_FRAME_END = b"\xce"
_METHOD, _HEADER, _BODY = 1, 2, 3
_PERSISTENT = b"\x02"


class RabbitMQSink:
    """Publishes to the broker and virtual host of `url` (amqp or amqps); `password` wins over the URL's.

    The URL may name several hosts with commas between them, the nodes of one cluster: one of them is used
    until it fails, and then the next. An amqps URL may name files in its query: `cacertfile`, `certfile`,
    `keyfile`.
    """

    name = "rabbitmq"

    def __init__(
        self, url: str, *, password: str | None = None, traceparent: Callable[[str], str] | None = None
    ) -> None:
        self._urls = deque(url_per_host(url))  # the first one is in use, or tried next
        self._password = password
        self._traceparent = traceparent  # of an event by its id, so that its readers go on with its trace
        self._publisher: Publisher | None = None
        self._templates: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}
        self._max_body = MAX_BODY_BYTES

    @property
    def obstacle(self) -> str | None:
        """Why the broker does not read what is published, while it blocks this connection."""
        publisher = self._publisher
        if publisher is None or publisher.blocked is None:
            return None
        return f"the broker blocks publishers ({publisher.blocked}); free its memory or disk"

    async def open(self) -> None:
        """Connects to the first node that lets it in, and declares the exchange."""
        failures: list[SinkUnavailable | ConfigurationError] = []
        while len(failures) < len(self._urls):
            await self.close()
            try:
                await self._connect(self._urls[0])
            except (SinkUnavailable, ConfigurationError) as failure:
                failures.append(failure)
                self._urls.rotate(-1)
            else:
                return
        if len(failures) == 1:
            raise failures[0]
        # What only a person can mend is worth reporting as such where no node is simply away.
        refused = all(isinstance(failure, ConfigurationError) for failure in failures)
        raise (ConfigurationError if refused else SinkUnavailable)("; ".join(map(str, failures)))

    async def _connect(self, url: SplitResult) -> None:
        host = url.hostname or "localhost"
        port = url.port or (5671 if url.scheme == "amqps" else 5672)
        place = f"{host}:{port}"
        virtual_host = unquote(url.path[1:]) or "/"
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                self._publisher = await Publisher.connect(
                    host,
                    port,
                    user=unquote(url.username or "guest"),
                    password=self._login_password(url),
                    virtual_host=virtual_host,
                    tls=_tls(url) if url.scheme == "amqps" else None,
                    on_blocked=self._on_blocked,
                    on_returned=RABBITMQ_UNROUTED.inc,
                )
                await self._publisher.call(
                    commands.Exchange.Declare(exchange=EXCHANGE, exchange_type="topic", durable=True),
                    commands.Exchange.DeclareOk,
                )
        except AmqpError as error:
            if error.code in (_ACCESS_REFUSED, _NOT_ALLOWED, _PRECONDITION_FAILED):
                raise ConfigurationError(
                    f"RabbitMQ at {place} refuses ({error}); check TELEGRAM_RABBITMQ_PASSWORD, that virtual "
                    f"host {virtual_host!r} exists, that the user may configure and write {EXCHANGE!r} in "
                    "it, and that nobody declared that exchange otherwise than durable and topic"
                ) from None
            raise SinkUnavailable(f"RabbitMQ at {place}: {error}") from error
        except TimeoutError as error:
            raise SinkUnavailable(f"RabbitMQ at {place} did not answer in {OPEN_TIMEOUT:g} s") from error
        except OSError as error:
            raise SinkUnavailable(f"RabbitMQ at {place}: {error}") from error

    async def deliver(self, records: Sequence[Record]) -> None:
        """Publishes the records and returns when all are confirmed; routed or not, which is only counted."""
        publisher = self._publisher
        if publisher is None:
            raise SinkUnavailable("not connected to RabbitMQ")
        refused: dict[int, str] = {}
        frames: list[bytes] = []
        count = 0
        for record in records:
            size = len(record.body)
            if size > self._max_body:
                refused[record.seq] = f"a body of {size} bytes is more than the broker's {self._max_body}"
                continue
            marks = _replay_headers() if isinstance(record, ReplayedRecord) else b""
            if self._traceparent is not None:
                marks += _text_header(b"traceparent", self._traceparent(record.event.id).encode())
            self._append_frames(frames, record.event, record.body, marks, publisher.max_body_frame)
            count += 1
        try:
            if count:
                await publisher.publish(b"".join(frames), count)
            elif not records and publisher.blocked is None:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await publisher.check()
        except AmqpError as error:
            limit = _SIZE_LIMIT.search(str(error))
            if error.code == _PRECONDITION_FAILED and limit is not None:
                self._max_body = min(self._max_body, int(limit[1]))
            self._urls.rotate(-1)
            raise SinkUnavailable(f"RabbitMQ: {error}") from error
        except TimeoutError as error:
            self._urls.rotate(-1)
            raise SinkUnavailable(f"RabbitMQ did not answer in {CHECK_TIMEOUT:g} s") from error
        if refused:
            raise RecordsRefused(refused)

    async def close(self) -> None:
        """Disconnects; waits shortly for the broker to have read all that was written."""
        if self._publisher is not None:
            publisher, self._publisher = self._publisher, None
            await publisher.close()

    def _login_password(self, url: SplitResult) -> str:
        if self._password is not None:
            return self._password
        if url.password is not None:
            return unquote(url.password)
        return "" if url.username else "guest"

    def _on_blocked(self, reason: str | None) -> None:
        RABBITMQ_BLOCKED.set(0 if reason is None else 1)
        if reason is None:
            log.info("rabbitmq_unblocked")
        else:
            log.warning("rabbitmq_blocked", reason=reason)

    def _append_frames(
        self, frames: list[bytes], event: Event, body: bytes, marks: bytes, max_body_frame: int
    ) -> None:
        key = (event.account, event.chat_key, event.kind)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = _constant_parts(event)
        publish, constant_headers = template
        happened = happened_at(event)
        identity = event.id.encode()
        headers = b"".join(
            (
                constant_headers,
                _text_header(b"cloudEvents_id", identity),
                _text_header(b"cloudEvents_subject", str(event.message_id).encode()),
                _text_header(b"cloudEvents_time", rfc3339(happened).encode()),
                marks,
            )
        )
        size = len(body)
        header = b"".join(
            (
                _HEADER_START.pack(60, 0, size, _FLAGS),
                b"\x10application/json",
                len(headers).to_bytes(4, "big"),
                headers,
                _PERSISTENT,
                len(identity).to_bytes(1, "big"),
                identity,
                int(happened.timestamp()).to_bytes(8, "big"),
            )
        )
        frames += (publish, _FRAME_START.pack(_HEADER, CHANNEL, len(header)), header, _FRAME_END)
        for start in range(0, size, max_body_frame):
            part = body if size <= max_body_frame else body[start : start + max_body_frame]
            frames += (_FRAME_START.pack(_BODY, CHANNEL, len(part)), part, _FRAME_END)


def _tls(url: SplitResult) -> ssl.SSLContext:
    query = parse_qs(url.query)
    try:
        context = ssl.create_default_context(cafile=query.get("cacertfile", [None])[0])
        if "certfile" in query:
            context.load_cert_chain(query["certfile"][0], query.get("keyfile", [None])[0])
    except OSError as error:
        raise ConfigurationError(
            f"TELEGRAM_RABBITMQ_URL names certificate files that cannot be used: {error}"
        ) from error
    return context


def _constant_parts(event: Event) -> tuple[bytes, bytes]:
    """The publish method's frame and the headers that are the same for all events of a chat and kind."""
    publish = commands.Basic.Publish(
        exchange=EXCHANGE,
        routing_key=routing_key(event.channel_id, event.kind),
        mandatory=True,
    )
    headers = encode.field_table(chat_headers(event))
    return pamqp.frame.marshal(publish, CHANNEL), headers[4:]


def _replay_headers() -> bytes:
    return b"\x08x-replayt\x01" + _text_header(b"x-replayed-at", rfc3339(utc_now()).encode())


def _text_header(name: bytes, value: bytes) -> bytes:
    return b"%c%bS%b%b" % (len(name), name, len(value).to_bytes(4, "big"), value)
