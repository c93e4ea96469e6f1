"""Stops one part after the other and prints how long its alert took: `python -m tests.monitoring.outages`.

The rules are the shipped ones and nothing is scaled, unless `--hurry` says so; it takes about twenty minutes.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from gateway.sandbox.scene import phone
from tests.monitoring.watched import Watched, watched

LOOK_SECONDS = 0.25
PATIENCE_SECONDS = 600.0
MENDED_SECONDS = 240.0
FOREVER_SECONDS = 86_400.0

Deed = Callable[[Watched], Awaitable[None]]


@dataclass(frozen=True)
class Outage:
    """A part that goes, the alerts that must tell of it (name and severity, sink), and how it comes back."""

    part: str
    alerts: tuple[tuple[str, str, str | None], ...]
    begin: Deed
    end: Deed


@dataclass(frozen=True)
class Timing:
    """Seconds from the beginning of an outage."""

    alert: str
    pending: float
    firing: float


async def _kill_gateway(it: Watched) -> None:
    await it.gateway.kill()


async def _start_gateway(it: Watched) -> None:
    await it.gateway.start()


async def _cut_telegram(it: Watched) -> None:
    it.sandbox.faults.refuse_connections(FOREVER_SECONDS)
    it.sandbox.drop_connections()


async def _give_telegram_back(it: Watched) -> None:
    it.sandbox.faults.refuse_connections(0)


async def _end_session(it: Watched) -> None:
    """The daemon exits with 78, as for good; no systemd would restart it."""
    it.sandbox.faults.auth_key_unregistered(it.scene.accounts[0])
    it.sandbox.drop_connections()
    assert await it.gateway.wait_exit(PATIENCE_SECONDS) == 78


async def _log_in_again(it: Watched) -> None:
    (it.gateway.session_dir / "main.session").unlink()
    await it.gateway.login(phone(0))
    await it.gateway.start()


async def _kill_redis(it: Watched) -> None:
    await it.stack.redis.kill()
    await it.stack.redis_replica.kill()


async def _start_redis(it: Watched) -> None:
    await it.stack.redis.start()
    await it.stack.redis_replica.start()


async def _starve_rabbitmq(it: Watched) -> None:
    await it.stack.rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1MB")


async def _feed_rabbitmq(it: Watched) -> None:
    await it.stack.rabbitmq.control("set_vm_memory_high_watermark", "absolute", "768MB")


async def _stop_api(it: Watched) -> None:
    await it.api.stop()


async def _start_api(it: Watched) -> None:
    await it.api.start()


GATEWAY = Outage(
    "the daemon, killed", (("TelegramGatewayDown", "page", None),), _kill_gateway, _start_gateway
)
TELEGRAM = Outage(
    "Telegram, unreachable", (("TelegramDisconnected", "page", None),), _cut_telegram, _give_telegram_back
)
SESSION = Outage(
    "the session, ended elsewhere",
    (("TelegramSessionInvalid", "page", None), ("TelegramGatewayDown", "page", None)),
    _end_session,
    _log_in_again,
)
POSTGRES = Outage(
    "PostgreSQL, killed",
    (("DatabaseDown", "page", None), ("SinkUndelivered", "warning", "timescaledb")),
    lambda it: it.stack.postgres.kill(),
    lambda it: it.stack.postgres.start(),
)
PGBOUNCER = Outage(
    "PgBouncer, killed",
    (("DatabaseDown", "page", None),),
    lambda it: it.stack.pgbouncer.kill(),
    lambda it: it.stack.pgbouncer.start(),
)
REDIS = Outage(
    "Redis, master and replica killed",
    (("RedisClusterDown", "warning", None), ("SinkUndelivered", "warning", "redis")),
    _kill_redis,
    _start_redis,
)
RABBITMQ = Outage(
    "RabbitMQ, killed",
    (("RabbitMQDown", "page", None), ("SinkUndelivered", "warning", "rabbitmq")),
    lambda it: it.stack.rabbitmq.kill(),
    lambda it: it.stack.rabbitmq.start(),
)
# Without the wait for a minute's delay, which no hurry shortens.
REDIS_ALONE = replace(REDIS, alerts=REDIS.alerts[:1])
RABBITMQ_ALONE = replace(RABBITMQ, alerts=RABBITMQ.alerts[:1])
STARVED = Outage(
    "RabbitMQ, short of memory", (("RabbitMQBlocked", "page", None),), _starve_rabbitmq, _feed_rabbitmq
)
API = Outage("the API, stopped", (("TelegramApiDown", "page", None),), _stop_api, _start_api)
WORKER = Outage(
    "TP Capital's worker, killed",
    (("ConsumerDown", "page", None),),
    lambda it: it.worker.kill(),
    lambda it: it.worker.start(),
)
ALL = (GATEWAY, TELEGRAM, POSTGRES, PGBOUNCER, REDIS, RABBITMQ, STARVED, API, WORKER, SESSION)


async def suffer(it: Watched, outage: Outage, within: float = PATIENCE_SECONDS) -> list[Timing]:
    """Begins it, waits until every alert fires, ends it, and waits until they have gone.

    AssertionError when an alert does not come or go in time.
    """
    wanted = {
        (name, severity, sink): f"{name}{f' {sink}' if sink else ''} ({severity})"
        for name, severity, sink in outage.alerts
    }
    await _calm(it, wanted, f"before {outage.part}")
    begun = time.monotonic()
    await outage.begin(it)
    pending: dict[tuple[str, str, str | None], float] = {}
    firing: dict[tuple[str, str, str | None], float] = {}
    try:
        async with asyncio.timeout(within):
            while firing.keys() != wanted.keys():
                now = time.monotonic() - begun
                for key in (await _active(it)) & wanted.keys():
                    pending.setdefault(key, now)
                for key in (await _active(it, "firing")) & wanted.keys():
                    firing.setdefault(key, now)
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise AssertionError(
            f"{outage.part}: {[wanted[key] for key in wanted.keys() - firing.keys()]} do not fire "
            f"after {within:.0f} s; pending were {pending}"
        ) from None
    finally:
        await outage.end(it)
    await _calm(it, wanted, f"after {outage.part}")
    return [Timing(text, pending.get(key, firing[key]), firing[key]) for key, text in wanted.items()]


async def _calm(it: Watched, alerts: Collection[tuple[str, str, str | None]], when: str) -> None:
    """Returns once none of `alerts` is pending or firing."""
    try:
        async with asyncio.timeout(MENDED_SECONDS):
            while await _active(it) & set(alerts):
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise AssertionError(f"{await _active(it)} have not gone {when}") from None


async def _active(it: Watched, *states: str) -> set[tuple[str, str, str | None]]:
    return {
        (alert.name, alert.labels["severity"], alert.labels.get("sink"))
        for alert in await it.prometheus.alerts()
        if not states or alert.state in states
    }


async def main(outages: Sequence[Outage], interval: str, hurry: float) -> None:
    # Of the sandbox, which runs in this process, only what is wrong.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print("| stopped | alert | pending after | firing after |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="telegram-outages-") as directory:
        async with watched(Path(directory), interval=interval, hurry=hurry) as it:
            for outage in outages:
                for timing in await suffer(it, outage):
                    seconds = f"{timing.pending:.0f} s | {timing.firing:.0f} s"
                    print(f"| {outage.part} | {timing.alert} | {seconds} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval", default="15s", help="between scrapes and evaluations; shipped: 15s")
    parser.add_argument("--hurry", type=float, default=1.0, help="divides every `for:`; 1 is as shipped")
    parser.add_argument("--only", nargs="*", default=[""], help="those whose name has one of these in it")
    given = parser.parse_args()
    chosen = [outage for outage in ALL if any(word in outage.part for word in given.only)]
    asyncio.run(main(chosen, given.interval, given.hurry))
