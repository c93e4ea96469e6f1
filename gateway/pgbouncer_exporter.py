"""PgBouncer's state for Prometheus, under the names of the exporter that runs beside the containers.

Debian's own exporter ends at once with PgBouncer 1.8 and later. The console answers the simple protocol only,
which asyncpg cannot read rows with, so psql asks.
"""

import asyncio
import csv
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import StringIO
from urllib.parse import unquote, urlsplit

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.errors import ConfigurationError, GatewayError
from gateway.listening import listening

log = structlog.get_logger()

ANSWER_SECONDS = 5.0
_MICROSECONDS = 1e-6


class PoolerSilent(GatewayError):
    """PgBouncer's console gave no answer."""


@dataclass(frozen=True)
class _Column:
    """One column of an answer: the metric that it becomes."""

    metric: str
    text: str
    counter: bool = False
    factor: float = 1.0


# The console's command -> its labels, and its columns. What a release does not have is left out.
_TABLES: Mapping[str, tuple[tuple[str, ...], Mapping[str, _Column]]] = {
    "POOLS": (
        ("database", "user"),
        {
            "cl_active": _Column("pools_client_active_connections", "Clients with a server connection."),
            "cl_waiting": _Column("pools_client_waiting_connections", "Clients that wait for one."),
            "sv_active": _Column("pools_server_active_connections", "Server connections in use."),
            "sv_idle": _Column("pools_server_idle_connections", "Server connections ready for a client."),
            "sv_used": _Column("pools_server_used_connections", "Idle ones to be checked before use."),
            "sv_login": _Column("pools_server_login_connections", "Server connections being made."),
            "maxwait": _Column("pools_client_maxwait_seconds", "How long the first client has waited."),
        },
    ),
    "DATABASES": (
        ("name", "host", "port", "database", "force_user", "pool_mode"),
        {
            "pool_size": _Column("databases_pool_size", "Server connections a pool may have."),
            "max_connections": _Column("databases_max_connections", "Server connections allowed in all."),
            "current_connections": _Column("databases_current_connections", "Server connections now."),
            "paused": _Column("databases_paused", "1 while paused."),
            "disabled": _Column("databases_disabled", "1 while disabled."),
        },
    ),
    "STATS_TOTALS": (
        ("database",),
        {
            "query_count": _Column("stats_queries_pooled_total", "Queries.", True),
            "xact_count": _Column("stats_sql_transactions_pooled_total", "Transactions.", True),
            "query_time": _Column(
                "stats_queries_duration_seconds_total", "Time in queries.", True, _MICROSECONDS
            ),
            "xact_time": _Column(
                "stats_server_in_transaction_seconds_total", "Time in transactions.", True, _MICROSECONDS
            ),
            "wait_time": _Column(
                "stats_client_wait_seconds_total", "Time clients waited for a server.", True, _MICROSECONDS
            ),
            "bytes_received": _Column("stats_received_bytes_total", "Bytes from clients.", True),
            "bytes_sent": _Column("stats_sent_bytes_total", "Bytes to clients.", True),
        },
    ),
}
_CONFIG = {"max_client_conn": _Column("config_max_client_connections", "Clients allowed.")}


class Console:
    """PgBouncer's console, by the gateway's own way to the database: its user may look (`stats_users`)."""

    def __init__(self, dsn: str, password: str | None) -> None:
        parts = urlsplit(dsn)
        if parts.hostname is None or parts.username is None:
            raise ConfigurationError("TELEGRAM_DB_DSN must name PgBouncer's host and a user")
        self._where = f"{parts.hostname}:{parts.port or 5432}"
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PGHOST": parts.hostname,
            "PGPORT": str(parts.port or 5432),
            "PGUSER": unquote(parts.username),
            "PGPASSWORD": password or unquote(parts.password or ""),
            "PGDATABASE": "pgbouncer",
            "PGCONNECT_TIMEOUT": str(int(ANSWER_SECONDS)),
        }

    async def show(self, *tables: str) -> list[list[dict[str, str]]]:
        """The rows of each table. Raises PoolerSilent, or ConfigurationError when there is no psql."""
        # An empty line between two answers, from the one psql that asks for all.
        commands = [f"--command={command}" for table in tables for command in (f"SHOW {table}", r"\echo")]
        try:
            process = await asyncio.create_subprocess_exec(
                *("psql", "--no-psqlrc", "--no-password", "--csv", "--set=ON_ERROR_STOP=1", *commands),
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError:
            raise ConfigurationError(
                "psql is not installed; run: apt-get install postgresql-client"
            ) from None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer, complaint = await process.communicate()
        except TimeoutError:
            raise PoolerSilent(f"PgBouncer at {self._where} gave no answer") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise PoolerSilent(f"PgBouncer at {self._where}: {complaint.decode(errors='replace').strip()}")
        return [list(csv.DictReader(StringIO(part))) for part in answer.decode().split("\n\n")[: len(tables)]]


async def collect(console: Console) -> list[Metric]:
    """All that PgBouncer says now; only `pgbouncer_up` 0 when it says nothing."""
    up = GaugeMetricFamily("pgbouncer_up", "1 while PgBouncer's console answers.", value=1)
    try:
        *answers, config_rows = await console.show(*_TABLES, "CONFIG")
    except PoolerSilent as error:
        log.warning("pgbouncer_silent", reason=str(error))
        return [GaugeMetricFamily("pgbouncer_up", up.documentation, value=0)]
    metrics: list[Metric] = [up]
    for (labels, columns), rows in zip(_TABLES.values(), answers, strict=True):
        metrics += _families(labels, columns, rows)
    config = {row["key"]: row["value"] for row in config_rows}
    for key, column in _CONFIG.items():
        if key in config:
            name = f"pgbouncer_{column.metric}"
            metrics.append(GaugeMetricFamily(name, column.text, value=float(config[key])))
    return metrics


def _families(
    labels: tuple[str, ...], columns: Mapping[str, _Column], rows: list[dict[str, str]]
) -> Iterable[Metric]:
    for name, column in columns.items():
        family = (CounterMetricFamily if column.counter else GaugeMetricFamily)(
            f"pgbouncer_{column.metric}", column.text, labels=labels
        )
        for row in rows:
            if row.get(name):
                family.add_metric([row.get(label, "") for label in labels], float(row[name]) * column.factor)
        yield family


@asynccontextmanager
async def serve(address: tuple[str, int], console: Console) -> AsyncIterator[None]:
    """Serves `/metrics` until the block ends. Raises ConfigurationError when the address cannot be bound."""

    async def metrics(_request: web.Request) -> web.Response:
        registry = CollectorRegistry()
        registry.register(_Collected(await collect(console)))
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with listening(app, address, "{reason}; choose another with --listen"):
        yield


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
