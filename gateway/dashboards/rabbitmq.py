"""The broker: what is published, what waits in whose queue, and what was given up."""

from gateway.dashboards.overview import DEAD_LETTERS
from gateway.dashboards.parts import (
    DOWN_WORDS,
    GATEWAY,
    NONE_IS_GOOD,
    RATE,
    Board,
    figure,
    graph,
    percentiles,
    share,
)


def board() -> Board:
    return (
        Board(
            "rabbitmq",
            "Telegram gateway / RabbitMQ",
            "What is published and consumed, what waits in whose queue, and what was given up.",
            variables=("instance",),
        )
        .row(
            "Now",
            figure(
                "Alarms",
                "While one is raised the broker takes no messages; they wait in the journal.",
                ("max(rabbitmq_alarms_memory_used_watermark)", "memory"),
                ("max(rabbitmq_alarms_free_disk_space_watermark)", "disk"),
                width=6,
                steps=NONE_IS_GOOD,
                words=DOWN_WORDS,
                none="no broker",
            ),
            figure(
                "Publisher blocked",
                "Whether the broker holds back the gateway's connection.",
                (f"max(telegram_gateway_rabbitmq_connection_blocked{{{GATEWAY}}})", ""),
                steps=NONE_IS_GOOD,
                words=DOWN_WORDS,
                none="no gateway",
            ),
            figure(
                "Dead letters",
                "Messages that consumers gave up on, for at most a day: `telegram-gateway dlq list`.",
                (DEAD_LETTERS, ""),
                steps=((None, "green"), (1, "orange"), (100, "red")),
            ),
            figure(
                "Waiting",
                "Messages in consumers' queues that are ready for delivery.",
                ('sum(rabbitmq_detailed_queue_messages_ready{queue=~"telegram.consumer.+"})', ""),
                steps=share(1000, 10000),
            ),
            figure(
                "Consumers",
                "Connected to all queues.",
                ("sum(rabbitmq_detailed_queue_consumers)", ""),
                width=3,
            ),
            figure("Connections", "To the broker.", ("sum(rabbitmq_connections)", ""), width=3),
        )
        .row(
            "Queues",
            graph(
                "Ready, by queue",
                "What waits for a consumer. A queue that grows has lost its consumer, or has a slow one.",
                ("sum by (queue) (rabbitmq_detailed_queue_messages_ready)", "{{queue}}"),
                unit="short",
            ),
            graph(
                "Unacknowledged, by queue",
                "Delivered, and not done with. At the prefetch for long, a consumer hangs.",
                ("sum by (queue) (rabbitmq_detailed_queue_messages_unacked)", "{{queue}}"),
                unit="short",
            ),
            graph(
                "Consumers, by queue",
                "The dead letters have none; every other queue should.",
                ("sum by (queue) (rabbitmq_detailed_queue_consumers)", "{{queue}}"),
                unit="short",
            ),
        )
        .row(
            "Flow",
            graph(
                "Publishing",
                "Received from publishers, confirmed to them, and routed to queues.",
                (f"sum(rate(rabbitmq_global_messages_received_total{RATE}))", "received"),
                (f"sum(rate(rabbitmq_global_messages_confirmed_total{RATE}))", "confirmed"),
                (f"sum(rate(rabbitmq_global_messages_routed_total{RATE}))", "routed"),
                unit="cps",
                width=6,
            ),
            graph(
                "Consuming",
                "Delivered, acknowledged, and delivered once more. Redeliveries are failures of consumers.",
                (f"sum(rate(rabbitmq_global_messages_delivered_total{RATE}))", "delivered"),
                (f"sum(rate(rabbitmq_global_messages_acknowledged_total{RATE}))", "acknowledged"),
                (f"sum(rate(rabbitmq_global_messages_redelivered_total{RATE}))", "redelivered"),
                unit="cps",
                width=6,
            ),
            graph(
                "Batches",
                "Time to publish one batch of events and have it confirmed.",
                *percentiles("telegram_gateway_sink_batch_seconds", f'{GATEWAY},sink="rabbitmq"'),
                unit="s",
                width=6,
            ),
            graph(
                "Going nowhere",
                "Messages no queue was bound for (the database has them), and dead-lettered ones, by why.",
                (f"sum(rate(telegram_gateway_rabbitmq_unrouted_total{{{GATEWAY}}}{RATE}))", "no queue"),
                (f"sum(rate(rabbitmq_global_messages_dead_lettered_rejected_total{RATE}))", "rejected"),
                (f"sum(rate(rabbitmq_global_messages_dead_lettered_expired_total{RATE}))", "expired"),
                (
                    f"sum(rate(rabbitmq_global_messages_dead_lettered_delivery_limit_total{RATE}))",
                    "delivery limit",
                ),
                unit="cps",
                width=6,
            ),
        )
        .row(
            "Server",
            graph(
                "Memory",
                "Of the broker, and where it blocks publishers.",
                ("rabbitmq_process_resident_memory_bytes", "{{instance}}"),
                ("max(rabbitmq_resident_memory_limit_bytes)", "limit"),
                unit="bytes",
            ),
            graph(
                "Disk",
                "Free, and where it blocks publishers.",
                ("rabbitmq_disk_space_available_bytes", "{{instance}}"),
                ("max(rabbitmq_disk_space_available_limit_bytes)", "limit"),
                unit="bytes",
            ),
            graph(
                "File descriptors",
                "Used, of those the broker may have.",
                ("rabbitmq_process_open_fds / rabbitmq_process_max_fds", "{{instance}}"),
                unit="percentunit",
                steps=share(0.7, 0.9),
                top=1,
            ),
        )
    )
