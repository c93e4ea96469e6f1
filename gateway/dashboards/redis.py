"""The hot cache: what it holds, whether readers find it there, and its replica."""

from gateway.dashboards.parts import (
    GATEWAY,
    RATE,
    UP,
    UP_WORDS,
    Board,
    figure,
    graph,
    least,
    percentiles,
    share,
)

_HITS = "redis_keyspace_hits_total"
_MISSES = "redis_keyspace_misses_total"


def board() -> Board:
    return (
        Board(
            "redis",
            "Telegram gateway / Redis",
            "What the cache holds, whether readers find it there, and how its replica follows.",
            variables=("instance",),
        )
        .row(
            "Now",
            figure(
                "Servers",
                "Whether master and replica answer.",
                ("redis_up", "{{instance}}"),
                width=6,
                steps=UP,
                words=UP_WORDS,
                none="no exporter",
            ),
            figure(
                "Replicas",
                "Replicas that follow the master. With none, nothing takes over.",
                ("max(redis_connected_slaves)", ""),
                steps=((None, "red"), (1, "green")),
            ),
            figure(
                "Hit rate",
                "Look-ups that found their key, in the time shown, of all who read.",
                (
                    f"sum(increase({_HITS}[$__range]))"
                    f" / (sum(increase({_HITS}[$__range])) + sum(increase({_MISSES}[$__range])))",
                    "",
                ),
                unit="percentunit",
                steps=least(0.5, 0.8),
                none="no look-ups",
            ),
            figure(
                "Memory used",
                "Of the limit, at which the least recently used keys go.",
                ("max(redis_memory_used_bytes / redis_memory_max_bytes)", ""),
                unit="percentunit",
                steps=share(0.8, 0.95),
            ),
            figure("Keys", "Held by the master.", ("max(sum by (instance) (redis_db_keys))", ""), width=3),
            figure(
                "Refused clients",
                "Connections refused for want of room, in the time shown.",
                ("round(sum(increase(redis_rejected_connections_total[$__range])))", ""),
                width=3,
                steps=((None, "green"), (1, "red")),
            ),
        )
        .row(
            "Readers",
            graph(
                "Look-ups",
                "Found and not found. Pollers that only miss read the database instead.",
                (f"sum(rate({_HITS}{RATE}))", "hits"),
                (f"sum(rate({_MISSES}{RATE}))", "misses"),
                unit="cps",
                stacked=True,
            ),
            graph(
                "API's answers",
                "Answers looked up in the API's response cache; off means Redis could not be asked.",
                (f"sum by (result) (rate(telegram_gateway_api_cache_total{RATE}))", "{{result}}"),
                unit="cps",
                stacked=True,
            ),
            graph(
                "Consumers' polls",
                "Polled events that Redis had, that only the database had, and polls without Redis.",
                (f"sum(rate(telegram_consumer_cache_hits_total{RATE}))", "hits"),
                (f"sum(rate(telegram_consumer_cache_misses_total{RATE}))", "misses"),
                (f"sum(rate(telegram_consumer_fallbacks_total{RATE}))", "database instead"),
                unit="cps",
            ),
        )
        .row(
            "Server",
            graph(
                "Batches",
                "Time to put one batch of events into Redis.",
                *percentiles("telegram_gateway_sink_batch_seconds", f'{GATEWAY},sink="redis"'),
                unit="s",
                width=6,
            ),
            graph(
                "Commands",
                "Commands processed by each server.",
                (f"sum by (instance) (rate(redis_commands_processed_total{RATE}))", "{{instance}}"),
                unit="cps",
                width=6,
            ),
            graph(
                "Time per command",
                "The server's own time, mean of all commands.",
                (
                    f"sum by (instance) (rate(redis_commands_duration_seconds_total{RATE}))"
                    f" / sum by (instance) (rate(redis_commands_total{RATE}))",
                    "{{instance}}",
                ),
                unit="s",
                width=6,
            ),
            graph(
                "Clients",
                "Connected to each server.",
                ("redis_connected_clients", "{{instance}}"),
                unit="short",
                width=6,
            ),
        )
        .row(
            "Memory and replication",
            graph(
                "Memory",
                "Used, and the limit.",
                ("redis_memory_used_bytes", "{{instance}}"),
                ("max(redis_memory_max_bytes)", "limit"),
                unit="bytes",
            ),
            graph(
                "Keys that go",
                "Expired is normal: messages stay an hour. Evicted means that the memory is too small.",
                (f"sum by (instance) (rate(redis_expired_keys_total{RATE}))", "expired {{instance}}"),
                (f"sum by (instance) (rate(redis_evicted_keys_total{RATE}))", "evicted {{instance}}"),
                unit="cps",
            ),
            graph(
                "Replication lag",
                "Since the replica last answered the master. What is not copied is lost in a failover.",
                ("redis_connected_slave_lag_seconds", "{{slave_ip}}:{{slave_port}}"),
                unit="s",
                steps=share(5, 10),
            ),
        )
    )
