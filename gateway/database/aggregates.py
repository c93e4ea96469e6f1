"""Brings the continuous aggregates up to date where messages came in late, as a backfill's do."""

from datetime import UTC, datetime, timedelta

import asyncpg

from gateway.database.connection import CONNECTION_LOST, connect_direct
from gateway.database.migrations import Migrator, load_migrations
from gateway.errors import GatewayError

# The view, the width of its buckets, and how far from now its policy stays: what is younger it reads live.
_AGGREGATES = (
    ("telegram_gateway.messages_hourly", timedelta(hours=1), timedelta(hours=1)),
    ("telegram_gateway.messages_daily", timedelta(days=1), timedelta(days=1)),
)
_KEEP = """
SELECT (config ->> 'drop_after')::interval FROM timescaledb_information.jobs
WHERE proc_name = 'policy_retention' AND hypertable_schema = 'telegram_gateway'
"""
_EPOCH = datetime(2000, 1, 3, tzinfo=UTC)  # where buckets of hours and days begin


async def refresh_aggregates(
    dsn: str, since: datetime, until: datetime, *, password: str | None = None
) -> None:
    """Recounts messages dated from `since` to `until`; `dsn` is the direct one.

    Nothing to do without TimescaleDB, whose place plain views take. Never beyond what retention keeps: that
    would empty the aggregate there. Raises SinkUnavailable, ConfigurationError or GatewayError.
    """
    connection = await connect_direct(dsn, password)
    try:
        if not await Migrator(connection, load_migrations()).is_hypertable():
            return
        await connection.execute("SET statement_timeout = 0")
        now = datetime.now(UTC)
        keep = await connection.fetchval(_KEEP)
        for view, width, lag in _AGGREGATES:
            begin = _down(since if keep is None else max(since, now - keep + width), width)
            end = min(_down(until, width) + width, _down(now - lag, width))
            if begin < end:
                # Not in a transaction, which the server would refuse.
                await connection.execute(
                    f"CALL refresh_continuous_aggregate('{view}', '{begin.isoformat()}', '{end.isoformat()}')"
                )
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        raise GatewayError(
            f"the hourly and daily counts could not be brought up to date ({error}); run it again later"
        ) from error
    finally:
        connection.terminate()


def _down(moment: datetime, width: timedelta) -> datetime:
    return moment - (moment - _EPOCH) % width
