"""The first look: is all well, and if not, which part to look at next."""

from gateway.dashboards.parts import (
    ACCOUNT,
    DOWN_WORDS,
    GATEWAY,
    NONE_IS_GOOD,
    RATE,
    SINK,
    UP,
    UP_WORDS,
    Board,
    figure,
    graph,
    percentiles,
    share,
)

FRESHNESS = f"max by (sink) (telegram_gateway:sink_undelivered_age:seconds{{{SINK}}})"
DEAD_LETTERS = 'sum(rabbitmq_detailed_queue_messages{queue="telegram.messages.dlq"})'


def board() -> Board:
    return (
        Board(
            "overview",
            "Telegram gateway / Overview",
            "Whether messages flow from Telegram to every sink, and which part to look at when they do not.",
            variables=("instance", "account", "sink"),
        )
        .row(
            "Now",
            figure(
                "Telegram",
                "Whether each account is logged in and connected. Down: the runbook of TelegramDisconnected.",
                (f"telegram_gateway_connection_up{{{ACCOUNT}}}", "{{account}}"),
                steps=UP,
                words=UP_WORDS,
                none="no gateway",
            ),
            figure(
                "Sinks",
                "Whether each sink's server accepts batches. What it does not take waits in the journal.",
                (f"min by (sink) (telegram_gateway_sink_up{{{SINK}}})", "{{sink}}"),
                width=5,
                steps=UP,
                words=UP_WORDS,
                none="no gateway",
            ),
            figure(
                "Alerts firing",
                "Without the dead man's switch, which always fires.",
                ('count(ALERTS{alertstate="firing",severity!="none"}) or vector(0)', ""),
                width=3,
                steps=NONE_IS_GOOD,
            ),
            figure(
                "Open gaps",
                "Ranges of messages that are known to be missing and still to be fetched.",
                (f"sum(telegram_gateway_open_gaps{{{ACCOUNT}}})", ""),
                width=3,
                steps=((None, "green"), (1, "orange"), (20, "red")),
            ),
            figure(
                "Oldest undelivered",
                "How long the oldest event has waited for its slowest sink.",
                (f"max({FRESHNESS})", ""),
                unit="s",
                width=3,
                steps=share(60, 300),
            ),
            figure(
                "Quarantined",
                "Records that a sink refused for good: `telegram-gateway quarantine list`.",
                (f"sum(telegram_gateway_quarantined{{{SINK}}})", ""),
                width=3,
                steps=NONE_IS_GOOD,
            ),
            figure(
                "Dead letters",
                "Messages that consumers gave up on: `telegram-gateway dlq list`.",
                (DEAD_LETTERS, ""),
                width=3,
                steps=((None, "green"), (1, "orange"), (100, "red")),
            ),
        )
        .row(
            "Golden signals",
            graph(
                "Traffic",
                "New events committed to the journal, by kind. Nothing in trading hours is a reason to look.",
                (
                    f"sum by (kind) (rate(telegram_gateway_events_journaled_total{{{GATEWAY}}}{RATE}))",
                    "{{kind}}",
                ),
                unit="cps",
                width=6,
                stacked=True,
            ),
            graph(
                "Latency",
                "From the receipt from Telegram to the sink's acknowledgement.",
                *percentiles("telegram_gateway_sink_end_to_end_seconds", SINK, "sink"),
                unit="s",
                width=6,
            ),
            graph(
                "Errors",
                "Failed deliveries (each is tried again), error answers from Telegram, and the API's 5xx.",
                (
                    f"sum by (sink) (rate(telegram_gateway_sink_errors_total{{{SINK}}}{RATE}))",
                    "sink {{sink}}",
                ),
                (
                    f"sum by (code) (rate(telegram_gateway_rpc_errors_total{{{ACCOUNT}}}{RATE}))",
                    "rpc {{code}}",
                ),
                (
                    f'sum(rate(telegram_gateway_api_requests_total{{code=~"5.."}}{RATE})) or vector(0)',
                    "api 5xx",
                ),
                unit="cps",
                width=6,
            ),
            graph(
                "Saturation",
                "How full what can fill up is. The journal at 100 % pauses the intake; nothing is dropped.",
                (
                    f"max(telegram_gateway_journal_bytes{{{GATEWAY}}}"
                    f" / telegram_gateway_journal_limit_bytes{{{GATEWAY}}})",
                    "journal",
                ),
                (f"max(1 - telegram_gateway:journal_disk_free:ratio{{{GATEWAY}}})", "journal's disk"),
                (
                    'max(pgbouncer_databases_current_connections{name="telegram_gateway"}'
                    ' / pgbouncer_databases_max_connections{name="telegram_gateway"})',
                    "connection pool",
                ),
                ("max(redis_memory_used_bytes / redis_memory_max_bytes)", "redis memory"),
                (
                    "max(rabbitmq_process_resident_memory_bytes / rabbitmq_resident_memory_limit_bytes)",
                    "rabbitmq memory",
                ),
                unit="percentunit",
                width=6,
                steps=share(0.7, 0.9),
                top=1,
            ),
        )
        .row(
            "Delivery",
            graph(
                "Freshness",
                "How long the oldest event that a sink has not acknowledged has waited. The SLO's measure.",
                (FRESHNESS, "{{sink}}"),
                unit="s",
                steps=share(60, 300),
            ),
            graph(
                "Backlog",
                "Events in the journal that a sink has not acknowledged.",
                (f"sum by (sink) (telegram_gateway_sink_lag_events{{{SINK}}})", "{{sink}}"),
                unit="short",
            ),
            graph(
                "Delivered",
                "Events that a sink's server acknowledged. Where they part, one catches up.",
                (f"sum by (sink) (rate(telegram_gateway_sink_delivered_total{{{SINK}}}{RATE}))", "{{sink}}"),
                unit="cps",
            ),
        )
        .row(
            "Who reads",
            graph(
                "API requests",
                "Answered requests, by status.",
                (f"sum by (code) (rate(telegram_gateway_api_requests_total{RATE}))", "{{code}}"),
                unit="reqps",
                width=6,
                stacked=True,
            ),
            graph(
                "API latency",
                "From a request's arrival to the first byte of its answer.",
                *percentiles("telegram_gateway_api_request_seconds", "", legend="all routes "),
                unit="s",
                width=6,
            ),
            graph(
                "Consumer lag",
                "From the gateway's receipt of an event to the end of a consumer's work on it.",
                *percentiles("telegram_consumer_lag_seconds", "", "consumer"),
                unit="s",
                width=6,
            ),
            graph(
                "TP Capital",
                "What became of the messages that its worker read.",
                (f"sum by (outcome) (rate(tp_capital_signals_total{RATE}))", "{{outcome}}"),
                unit="cps",
                width=6,
                stacked=True,
            ),
        )
        .row(
            "What is scraped",
            figure(
                "Answering",
                "Whether each part answers Prometheus. A part that you do not run is no fault.",
                ("min by (job) (up)", "{{job}}"),
                width=15,
                steps=UP,
                words=UP_WORDS,
                none="nothing",
            ),
            figure(
                "Intake paused",
                "Whether a full journal holds back the intake.",
                (f"max(telegram_gateway_journal_full{{{GATEWAY}}})", ""),
                width=3,
                steps=NONE_IS_GOOD,
                words=DOWN_WORDS,
            ),
            figure(
                "Last backup",
                "Age of the newest backup that was restored and counted before it was called good.",
                ("time() - max(telegram_gateway_backup_last_success_timestamp_seconds > 0)", ""),
                unit="s",
                width=3,
                steps=share(26 * 3600, 50 * 3600),
                none="none yet",
            ),
            figure(
                "Version",
                "Which version runs where.",
                (f"telegram_gateway_build_info{{{GATEWAY}}}", "{{version}}"),
                width=3,
                none="none",
                names=True,
            ),
        )
    )
