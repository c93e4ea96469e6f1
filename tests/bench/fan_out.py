"""The live stream: from the publishing of an event to every client, with one client and with many.

Beside it a bare stream of the same server, which hands on what is posted to it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from gateway.event import Event, encode, new_id, utc_now
from gateway.journal import Record
from gateway.sinks.rabbitmq import RabbitMQSink
from tests.bench import stamp
from tests.bench.api import Api, running_api
from tests.bench.filling import chat_of
from tests.bench.http_load import Connection
from tests.bench.options import Options
from tests.bench.report import Report, Value
from tests.bench.stores import Stores

MOST_LATE_P99_MS = 250.0  # for the last of many clients to have an event
WARM_UP_EVENTS = 5

Publish = Callable[[bytes, Event], Awaitable[Any]]


@dataclass(frozen=True)
class Heard:
    """One stretch: milliseconds from the stamp to a client, and CPU µs for each event at each client."""

    p50_ms: float
    p99_ms: float
    last_p50_ms: float
    server_us: float
    client_us: float
    missing: int


async def run_fan_out(report: Report, options: Options, stores: Stores, directory: Path) -> None:
    """The same events for one client, then for many."""
    await stores.empty()
    numbers = count()
    sink = RabbitMQSink(stores.environment["TELEGRAM_RABBITMQ_URL"])
    await sink.open()
    heard: dict[str, Heard] = {}
    try:
        async with running_api(stores.stack, directory) as api:
            connection = await Connection.open(api.port)

            async def through_broker(body: bytes, event: Event) -> None:
                await sink.deliver([Record(event.message_id, body)])

            async def directly(body: bytes, event: Event) -> None:
                await connection.ask(api.post("/bare/publish", msgspec.json.decode(body)).encode())

            for clients in (1, options.stream_clients):
                for name, path, publish in (
                    ("", "/api/stream", through_broker),
                    ("bare, ", "/bare/stream", directly),
                ):
                    label = f"{name}{clients} client{'s' if clients > 1 else ''}"
                    heard[label] = await _stretch(options, api, path, clients, publish, numbers)
            connection.close()
    finally:
        await sink.close()
    _report(report, options, heard)


async def _stretch(
    options: Options, api: Api, path: str, clients: int, publish: Publish, numbers: "count[int]"
) -> Heard:
    events = round(options.stream_rate * options.stream_seconds)
    # The API's first listener has it connect to the broker; what is measured comes after that.
    await api.listen(api.get(path), clients)
    await _post(WARM_UP_EVENTS, options.stream_rate, publish, numbers)
    await api.heard(WARM_UP_EVENTS)
    before = await api.listen(api.get(path), clients)
    await _post(events, options.stream_rate, publish, numbers)
    after = await api.heard(events)
    delivered = events * clients - after["missing"]
    return Heard(
        after["p50"],
        after["p99"],
        after["last_p50"],
        (after["server_cpu"] - before["server_cpu"]) / delivered * 1e6,
        (after["cpu"] - before["cpu"]) / delivered * 1e6,
        after["missing"],
    )


async def _post(events: int, rate: int, publish: Publish, numbers: "count[int]") -> None:
    began = time.monotonic()
    for done in range(events):
        await asyncio.sleep(began + done / rate - time.monotonic())
        number = next(numbers)
        now = utc_now()
        event = Event(
            id=new_id(0, chat_of(0), number + 1),
            kind="message.new",
            account="main",
            account_scope=0,
            channel_id=chat_of(0),
            chat_type="channel",
            chat_title="Sinais",
            message_id=number + 1,
            text=stamp.write(number),
            telegram_date=now,
            received_at=now,
            source="mtproto",
            message_type="channel_post",
        )
        await publish(encode(event), event)


def _report(report: Report, options: Options, heard: dict[str, Heard]) -> None:
    scenario = f"stream of {options.stream_rate} events/s"
    many = f"{options.stream_clients} clients"
    figures: dict[str, dict[str, Value]] = {
        "published to client, p50 ms": {name: one.p50_ms for name, one in heard.items()},
        "published to client, p99 ms": {name: one.p99_ms for name, one in heard.items()},
        "published to the last client, p50 ms": {name: one.last_p50_ms for name, one in heard.items()},
        "CPU µs of an event at a client": {name: one.server_us for name, one in heard.items()},
        "the clients' own CPU µs": {name: one.client_us for name, one in heard.items()},
    }
    for figure, cells in figures.items():
        limited = "p99" in figure
        report.add(
            scenario,
            figure,
            cells,
            f"{many} ≤ {MOST_LATE_P99_MS:g}" if limited else None,
            heard[many].p99_ms <= MOST_LATE_P99_MS if limited else None,
        )
    missing: dict[str, Value] = {name: one.missing for name, one in heard.items()}
    report.add(scenario, "events that did not come", missing, "0", not any(missing.values()))
