"""Every metric the daemon exports, in one place; parts import the ones they move.

Base units throughout, no chat ids as labels. All start with `telegram_gateway_`.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"telegram_gateway_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"telegram_gateway_{name}", text, labels, registry=REGISTRY)


def _histogram(
    name: str, text: str, *labels: str, buckets: tuple[float, ...] = _LATENCY_BUCKETS
) -> Histogram:
    return Histogram(f"telegram_gateway_{name}", text, labels, registry=REGISTRY, buckets=buckets)


BUILD_INFO = _gauge("build_info", "Always 1; the version is in the label.", "version")

# Telegram side
UPDATES_RECEIVED = _counter(
    "updates_received_total", "Updates Telegram sent, by constructor.", "account", "update"
)
UPDATES_IGNORED = _counter(
    "updates_ignored_total", "Updates that make no event, by why.", "account", "reason"
)
UPDATES_OVERFLOWED = _counter(
    "updates_overflowed_total", "Pushed updates set aside to be fetched as a difference.", "account"
)
EVENTS_RECEIVED = _counter(
    "events_received_total", "Events made from updates, by kind.", "account", "kind", "source"
)
CONNECTION_UP = _gauge("connection_up", "1 while logged in and connected to Telegram.", "account")
RECONNECTS = _counter("reconnects_total", "Connections re-established after a loss.", "account")
RPC_ERRORS = _counter("rpc_errors_total", "Error answers from Telegram, by code.", "account", "code")
FLOOD_WAIT_SECONDS = _counter(
    "flood_wait_seconds_total", "Seconds Telegram told us to wait.", "account", "method"
)
LEASE_HELD = _gauge("lease_held", "1 while this host may run the account.", "account")
LEASE_EPOCH = _gauge(
    "lease_epoch", "The fencing epoch under which the account runs; 0 while it may not.", "account"
)
LEASE_POSITION = _gauge(
    "lease_position_timestamp_seconds",
    "When this host last left in the database where the account stands; another would start from there.",
    "account",
)
SESSION_DEAD = _gauge("session_dead", "1 once Telegram has refused the session for good.", "account")
SESSION_BACKUP = _gauge(
    "session_backup_timestamp_seconds", "When the newest good backup of the session was made.", "account"
)
DIFFERENCES = _counter("differences_total", "Differences fetched, by how they ended.", "account", "result")
CHANNELS_TRACKED = _gauge("channels_tracked", "Channels whose update state is known.", "account")

# Journal
EVENTS_JOURNALED = _counter("events_journaled_total", "New events committed to the journal, by kind.", "kind")
EVENTS_DEDUPLICATED = _counter("events_deduplicated_total", "Events the journal already held.")
JOURNAL_ROWS = _gauge("journal_rows", "Events held in the journal.")
JOURNAL_BYTES = _gauge("journal_bytes", "Size of the journal's files.")
JOURNAL_LIMIT_BYTES = _gauge("journal_limit_bytes", "Size at which intake pauses.")
JOURNAL_DISK_BYTES = _gauge("journal_disk_bytes", "Size of the file system that the journal is on.")
JOURNAL_DISK_FREE_BYTES = _gauge("journal_disk_free_bytes", "What is left of it for the gateway's user.")
JOURNAL_FULL = _gauge("journal_full", "1 while intake is paused because the journal is at its limit.")
JOURNAL_COMMIT_SECONDS = _histogram(
    "journal_commit_seconds",
    "Time from append to durable, per group commit.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1),
)
JOURNAL_PRUNED = _counter("journal_pruned_total", "Events removed from the journal after their retention.")

# Ledger
OPEN_GAPS = _gauge("open_gaps", "Ranges of messages that are still to fetch.", "account")
GAPS_OPENED = _counter("gaps_opened_total", "Gaps opened, by what showed them.", "account", "source")
BACKFILLED = _counter(
    "backfilled_total",
    "Missing message ids accounted for: captured, or absent.",
    "account",
    "result",
)

# What people ask for through the database
CHATS_SWITCHED_OFF = _gauge(
    "chats_switched_off", "Chats that are not captured because people switched them off."
)
CONTROL_READ = _gauge(
    "channel_control_read_timestamp_seconds",
    "When the database was last asked which chats are off; 0 before the first answer.",
)

# Sinks
SINK_UP = _gauge("sink_up", "1 while the sink's server accepts batches.", "sink")
SINK_DELIVERED = _counter("sink_delivered_total", "Events acknowledged by the sink's server.", "sink")
SINK_ERRORS = _counter("sink_errors_total", "Failed deliveries, by class of error.", "sink", "error")
SINK_BATCH_SECONDS = _histogram("sink_batch_seconds", "Time to deliver one batch.", "sink")
SINK_BATCH_EVENTS = _histogram(
    "sink_batch_events", "Events per batch.", "sink", buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
)
SINK_END_TO_END_SECONDS = _histogram(
    "sink_end_to_end_seconds", "Time from receipt from Telegram to the sink's acknowledgement.", "sink"
)
SINK_LAG_EVENTS = _gauge(
    "sink_lag_events", "Events in the journal that the sink has not acknowledged.", "sink"
)
SINK_OLDEST_UNDELIVERED = _gauge(
    "sink_oldest_undelivered_timestamp_seconds",
    "When the oldest event not yet acknowledged by the sink was received; 0 when there is none.",
    "sink",
)
SINK_QUARANTINED = _counter("sink_quarantined_total", "Records the sink can never accept.", "sink")
QUARANTINED = _gauge("quarantined", "Records in quarantine now, which the sink refused for good.", "sink")
RABBITMQ_BLOCKED = _gauge(
    "rabbitmq_connection_blocked", "1 while the broker blocks publishers (memory or disk alarm)."
)
RABBITMQ_UNROUTED = _counter("rabbitmq_unrouted_total", "Messages that no queue was bound for.")

# Media download
MEDIA_DOWNLOADED = _counter("media_downloaded_total", "Messages whose file is in the store.", "account")
MEDIA_BYTES = _counter("media_bytes_total", "Bytes of files received from Telegram.", "account")
MEDIA_SKIPPED = _counter("media_skipped_total", "Files left out by the settings, by which one.", "reason")
MEDIA_RETRIES = _counter("media_retries_total", "Downloads to be tried again, by why.", "reason")
MEDIA_FAILED = _counter(
    "media_failed_total", "Files that are gone, or were given up after the last attempt, by why.", "reason"
)
MEDIA_QUEUED = _gauge("media_queued_files", "Files that are still to be fetched.", "account")
MEDIA_OLDEST_QUEUED = _gauge(
    "media_oldest_queued_timestamp_seconds",
    "When the oldest file still to be fetched was asked for; 0 when there is none.",
    "account",
)
MEDIA_PAUSED = _gauge("media_paused", "1 while downloads wait because their directory cannot be written.")

# Backup; an alert needs a 0 to look at until there is one
BACKUP_LAST_SUCCESS = _gauge(
    "backup_last_success_timestamp_seconds",
    "When the newest backup that was restored on trial was finished; 0 before the first.",
)
BACKUP_SIZE = _gauge("backup_size_bytes", "Size of the newest good backup; 0 before the first.")

# Traces
TRACE_SPANS = _counter(
    "trace_spans_total", "Spans made, exported to the collector, or not taken by it (failed).", "result"
)

# Process
EVENT_LOOP_LAG_SECONDS = _histogram(
    "event_loop_lag_seconds",
    "How late a timer fires.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
