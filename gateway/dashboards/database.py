"""TimescaleDB and the pooler in front of it."""

from gateway.dashboards.parts import (
    GATEWAY,
    NONE_IS_GOOD,
    RATE,
    UP,
    UP_WORDS,
    Board,
    figure,
    graph,
    least,
    listing,
    percentiles,
    share,
)

_DB = 'datname="telegram_gateway"'
_POOL = 'database="telegram_gateway"'
_NAME = 'name="telegram_gateway"'


def board() -> Board:
    return (
        Board(
            "database",
            "Telegram gateway / Database",
            "How fast messages are stored, whether connections run out, and what the tables take.",
            variables=("instance",),
        )
        .row(
            "Now",
            figure(
                "PostgreSQL",
                "Whether it answers.",
                ("min(pg_up)", ""),
                steps=UP,
                words=UP_WORDS,
                none="no exporter",
            ),
            figure(
                "PgBouncer",
                "Whether its console answers.",
                ("min(pgbouncer_up)", ""),
                steps=UP,
                words=UP_WORDS,
                none="no exporter",
            ),
            figure(
                "Clients waiting",
                "Clients of the pooler that wait for a server connection.",
                (f"sum(pgbouncer_pools_client_waiting_connections{{{_POOL}}})", ""),
                steps=NONE_IS_GOOD,
            ),
            figure(
                "Longest transaction",
                "An old transaction keeps vacuum from its work.",
                (f"max(pg_stat_activity_max_tx_duration{{{_DB}}})", ""),
                unit="s",
                steps=share(60, 600),
            ),
            figure(
                "Cache hit ratio",
                "Blocks found in PostgreSQL's memory, in the time shown.",
                (
                    f"sum(increase(pg_stat_database_blks_hit{{{_DB}}}[$__range]))"
                    f" / (sum(increase(pg_stat_database_blks_hit{{{_DB}}}[$__range]))"
                    f" + sum(increase(pg_stat_database_blks_read{{{_DB}}}[$__range])))",
                    "",
                ),
                unit="percentunit",
                steps=least(0.9, 0.98),
            ),
            figure(
                "Size", "The database on disk.", (f"max(pg_database_size_bytes{{{_DB}}})", ""), unit="bytes"
            ),
        )
        .row(
            "Storing",
            graph(
                "Batches",
                "Time to store one batch of events, from the sink through the pooler.",
                *percentiles("telegram_gateway_sink_batch_seconds", f'{GATEWAY},sink="timescaledb"'),
                unit="s",
            ),
            graph(
                "Transactions",
                "Commits and rollbacks.",
                (f"sum(rate(pg_stat_database_xact_commit{{{_DB}}}{RATE}))", "commits"),
                (f"sum(rate(pg_stat_database_xact_rollback{{{_DB}}}{RATE}))", "rollbacks"),
                unit="cps",
            ),
            graph(
                "Rows written",
                "Inserted, updated and deleted. The hypertable is only ever inserted into.",
                (f"sum(rate(pg_stat_database_tup_inserted{{{_DB}}}{RATE}))", "inserted"),
                (f"sum(rate(pg_stat_database_tup_updated{{{_DB}}}{RATE}))", "updated"),
                (f"sum(rate(pg_stat_database_tup_deleted{{{_DB}}}{RATE}))", "deleted"),
                unit="cps",
            ),
        )
        .row(
            "Connections",
            graph(
                "Pool",
                "Server connections of the pooler; at the limit, clients wait.",
                (f"sum(pgbouncer_pools_server_active_connections{{{_POOL}}})", "active"),
                (
                    f"sum(pgbouncer_pools_server_idle_connections{{{_POOL}}})"
                    f" + sum(pgbouncer_pools_server_used_connections{{{_POOL}}})",
                    "idle",
                ),
                (f"max(pgbouncer_databases_max_connections{{{_NAME}}})", "limit"),
                unit="short",
                width=6,
            ),
            graph(
                "Pooler's clients",
                "With a server connection, and waiting for one.",
                (f"sum(pgbouncer_pools_client_active_connections{{{_POOL}}})", "active"),
                (f"sum(pgbouncer_pools_client_waiting_connections{{{_POOL}}})", "waiting"),
                unit="short",
                width=6,
            ),
            graph(
                "Time spent waiting",
                "Seconds per second that clients waited for a server connection, all clients together.",
                (f"sum(rate(pgbouncer_stats_client_wait_seconds_total{{{_POOL}}}{RATE}))", "waiting"),
                (f"max(pgbouncer_pools_client_maxwait_seconds{{{_POOL}}})", "longest wait now"),
                unit="s",
                width=6,
            ),
            graph(
                "Sessions",
                "Sessions of PostgreSQL by state, and how many it allows.",
                (f'sum by (state) (pg_stat_activity_count{{{_DB},state=~"active|idle.*"}})', "{{state}}"),
                ("max(pg_settings_max_connections)", "limit"),
                unit="short",
                width=6,
            ),
        )
        .row(
            "Storage",
            graph(
                "Tables",
                "Size on disk with indexes; all chunks of the hypertable together.",
                ("topk(8, max by (relation) (telegram_gateway_table_size_bytes))", "{{relation}}"),
                unit="bytes",
                width=6,
            ),
            graph(
                "Chunks",
                "Of the hypertable `messages`, one per day. None without the timescaledb extension.",
                ("max(telegram_gateway_messages_chunks)", "all"),
                ("max(telegram_gateway_messages_compressed_chunks)", "compressed"),
                unit="short",
                width=6,
            ),
            graph(
                "Compression",
                "What the compressed chunks took before, and take now.",
                ("max(telegram_gateway_messages_uncompressed_bytes)", "before"),
                ("max(telegram_gateway_messages_compressed_bytes)", "now"),
                unit="bytes",
                width=6,
            ),
            listing(
                "Dearest statements",
                "Share of one CPU that a statement took in the last ten minutes. Its constants are left out.",
                "topk(10, sum by (statement) (rate(telegram_gateway_statement_seconds_total[10m])))",
                "statement",
                "busy",
                unit="percentunit",
                width=6,
            ),
        )
    )
