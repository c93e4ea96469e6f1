"""Checks everything the daemon stands on, one finding a line, each bad one with what to do.

Used by `telegram-gateway doctor` and after an installation; changes nothing, and may run beside the daemon.
"""

import asyncio
import email.utils
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult

import aio_pika
import aiohttp
import aiormq.exceptions
import asyncpg
import msgspec
from redis import asyncio as aioredis
from redis.exceptions import RedisError

from gateway.database.leases import GRACE, lease_table
from gateway.errors import GatewayError
from gateway.journal import read_stats
from gateway.lease_record import holder_of, key_lease
from gateway.settings import Settings
from gateway.sinks.base import Sink
from gateway.sinks.enabled import enabled_sinks
from gateway.telegram.server import ServerAddress
from gateway.telegram.session import SessionDirectory
from gateway.urls import url_per_host

ANSWER_SECONDS = 5.0
CLOCK_SECONDS = 30.0  # Telegram refuses messages whose time is further off (bad_msg_notification 16 and 17)
LEAST_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One check's result; `advice` says what to do when it is not `ok`."""

    check: str
    ok: bool
    detail: str


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """All checks in turn: configuration, files, Telegram, each enabled sink's server, clocks, the API."""
    yield _api_credentials(settings)
    for account in settings.accounts:
        yield _session(settings, account)
    yield _state_directory(settings.state_dir)
    if settings.journal_path.exists():
        yield _journal(settings.journal_path)
    yield await _telegram(settings)
    for sink in enabled_sinks(settings):
        yield await _sink(sink)
    if settings.enable_db:
        yield await _database(settings)
    if settings.lease_enabled:
        for account in settings.accounts:
            yield await _lease(settings, account)
    if settings.enable_cache:
        yield await _redis(settings)
    if settings.enable_queue:
        yield await _rabbitmq(settings)
    yield await _api(settings)


def _api_credentials(settings: Settings) -> Finding:
    try:
        api_id, _ = settings.require_api_credentials()
    except GatewayError as error:
        return Finding("configuration", False, str(error))
    return Finding("configuration", True, f"application {api_id}, {len(settings.accounts)} account(s)")


def _session(settings: Settings, account: str) -> Finding:
    try:
        stored = SessionDirectory.from_settings(settings).load(account)
    except GatewayError as error:
        return Finding(f"session {account}", False, str(error))
    return Finding(f"session {account}", True, f"data centre {stored.dc_id}, whole, private to this user")


def _state_directory(path: Path) -> Finding:
    if not path.is_dir():
        return Finding("state directory", False, f"{path} is missing; create it, mode 0700, for the gateway")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return Finding("state directory", False, f"{path} is not writable; run as the gateway's user")
    free = shutil.disk_usage(path).free
    if free < LEAST_FREE_BYTES:
        return Finding("state directory", False, f"{path} has {free / 1e6:,.0f} MB left; free some disk")
    return Finding("state directory", True, f"{path}, {free / 1e9:,.1f} GB free")


def _journal(path: Path) -> Finding:
    try:
        stats = read_stats(path)
    except GatewayError as error:
        return Finding("journal", False, str(error))
    return Finding("journal", True, f"{stats.rows} events")


async def _telegram(settings: Settings) -> Finding:
    try:
        server = ServerAddress.from_settings(settings)
        if server is not None:
            host, port = server.host, server.port
        else:
            stored = SessionDirectory.from_settings(settings).load(settings.accounts[0])
            host, port = stored.server_address, stored.port
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except GatewayError as error:
        return Finding("telegram", False, str(error))
    except (OSError, TimeoutError) as error:
        reason = error or "timeout"
        return Finding("telegram", False, f"cannot reach {host}:{port} ({reason}); check the network")
    return Finding("telegram", True, f"{host}:{port} accepts connections")


async def _sink(sink: Sink) -> Finding:
    try:
        async with asyncio.timeout(ANSWER_SECONDS * 2):
            await sink.open()
    except GatewayError as error:
        return Finding(f"sink {sink.name}", False, str(error))
    except TimeoutError:
        return Finding(f"sink {sink.name}", False, "no answer; check the server and its address")
    finally:
        await sink.close()
    return Finding(f"sink {sink.name}", True, "the gateway's own connection works")


async def _database(settings: Settings) -> Finding:
    password = settings.db_password.get_secret_value() if settings.db_password else None
    try:
        connection = await asyncpg.connect(
            settings.db_direct_dsn.get_secret_value(), password=password, timeout=ANSWER_SECONDS
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        advice = "check TELEGRAM_DB_DIRECT_DSN and the server"
        return Finding("database", False, f"direct connection failed ({error}); {advice}")
    try:
        version = await connection.fetchval("SHOW server_version")
        extension = await connection.fetchval(
            "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
        )
        clock = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    finally:
        await connection.close()
    behind = _clock("database", clock)
    if behind is not None:
        return behind
    flavour = f"TimescaleDB {extension}" if extension else "no TimescaleDB: plain tables, no compression"
    return Finding("database", True, f"PostgreSQL {version}, {flavour}")


async def _lease(settings: Settings, account: str) -> Finding:
    check = f"lease {account}"
    try:
        stored = SessionDirectory.from_settings(settings).load(account)
        async with lease_table(settings) as table:
            lease = await table.get(key_lease(stored.auth_key))
    except GatewayError as error:
        return Finding(check, False, str(error))
    if lease is None or lease.free:
        return Finding(check, True, "free: the next gateway that starts has it")
    if lease.holder == holder_of(account, settings.state_dir):
        return Finding(check, True, f"this host's, epoch {lease.epoch}")
    detail = f"held by {lease.holder}, {lease.state}; a gateway here stands by"
    if lease.silence > GRACE:
        advice = f"if it is gone for good: telegram-gateway lease take --account {account}"
        return Finding(check, False, f"{detail}; {advice}")
    return Finding(check, True, detail)


async def _redis(settings: Settings) -> Finding:
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    if settings.redis_sentinels:
        host, port = settings.redis_sentinels[0].rsplit(":", 1)
        secret = settings.redis_sentinel_password
        client = aioredis.Redis(
            host=host,
            port=int(port),
            password=secret.get_secret_value() if secret else None,
            socket_timeout=ANSWER_SECONDS,
        )
    else:
        options = {"password": password} if password else {}
        client = aioredis.from_url(
            settings.redis_url.get_secret_value(), socket_timeout=ANSWER_SECONDS, **options
        )
    try:
        information = await client.info("server")
        seconds, _ = await client.time()
    except (RedisError, OSError) as error:
        return Finding("redis", False, f"{error}; check TELEGRAM_REDIS_URL or TELEGRAM_REDIS_SENTINELS")
    finally:
        await client.aclose()
    return _clock("redis", float(seconds)) or Finding("redis", True, f"Redis {information['redis_version']}")


async def _rabbitmq(settings: Settings) -> Finding:
    urls = url_per_host(settings.rabbitmq_url.get_secret_value())
    answers = await asyncio.gather(*(_broker(settings, parts) for parts in urls))
    # One node that answers is enough for the gateway, and too few for the next failure.
    return next((answer for answer in answers if not answer.ok), answers[0])


async def _broker(settings: Settings, parts: SplitResult) -> Finding:
    password = settings.rabbitmq_password.get_secret_value() if settings.rabbitmq_password else parts.password
    try:
        connection = await aio_pika.connect(
            host=parts.hostname or "localhost",
            port=parts.port or 5672,
            login=parts.username or "guest",
            password=password or "guest",
            virtualhost=parts.path.lstrip("/") or "/",
            ssl=parts.scheme == "amqps",
            timeout=ANSWER_SECONDS,
        )
    except (OSError, TimeoutError, aiormq.exceptions.AMQPError) as error:
        reason = f"{parts.hostname}: {str(error) or 'timeout'}"
        return Finding("rabbitmq", False, f"{reason}; check TELEGRAM_RABBITMQ_URL and the broker")
    try:
        transport = connection.transport
        properties = transport.connection.server_properties if transport else {}
        version = properties.get("version", "unknown")
    finally:
        await connection.close()
    return Finding("rabbitmq", True, f"RabbitMQ {_text(version)}")


async def _api(settings: Settings) -> Finding:
    host, port = settings.api_addr
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"http://{host}:{port}/ready") as answer,
        ):
            ready = msgspec.json.decode(await answer.read(), type=dict[str, bool]).get("ready")
    except aiohttp.ClientConnectorError:
        return Finding("api", True, f"does not run; {host}:{port} is free for it")
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
        ready = None
    if ready is None:
        return Finding(
            "api", False, f"something else answers at {host}:{port}; stop it, or change TELEGRAM_API_ADDR"
        )
    return Finding(
        "api", ready, f"runs at {host}:{port}" if ready else "reaches neither PostgreSQL nor Redis"
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _clock(check: str, server_time: float) -> Finding | None:
    off = server_time - time.time()
    if abs(off) <= CLOCK_SECONDS:
        return None
    now = email.utils.formatdate(server_time, usegmt=True)
    return Finding(check, False, f"its clock says {now}, {off:+.0f} s from here; set both clocks with NTP")
