"""The side of Telegram: accounts, updates, errors and waits, the ledger, the journal."""

from gateway.dashboards.parts import (
    ACCOUNT,
    DOWN_WORDS,
    GATEWAY,
    NONE_IS_GOOD,
    RATE,
    UP,
    UP_WORDS,
    Board,
    figure,
    graph,
    percentiles,
    share,
)


def board() -> Board:
    return (
        Board(
            "mtproto",
            "Telegram gateway / MTProto",
            "What Telegram sends and refuses, what is missing and being fetched, and the journal behind it.",
            variables=("instance", "account"),
        )
        .row(
            "Accounts",
            figure(
                "Connected",
                "Logged in and connected.",
                (f"telegram_gateway_connection_up{{{ACCOUNT}}}", "{{account}}"),
                steps=UP,
                words=UP_WORDS,
                none="no gateway",
            ),
            figure(
                "Lease held",
                "Whether this host may run the account: of several hosts, exactly one.",
                (f"telegram_gateway_lease_held{{{ACCOUNT}}}", "{{account}}"),
                steps=UP,
                words={"0": ("no", "red"), "1": ("yes", "green")},
                none="no gateway",
            ),
            figure(
                "Session dead",
                "Telegram has refused the session for good: log in again.",
                (f"telegram_gateway_session_dead{{{ACCOUNT}}}", "{{account}}"),
                steps=NONE_IS_GOOD,
                words=DOWN_WORDS,
            ),
            figure(
                "Session backup",
                "Age of the newest good backup of the session file.",
                (
                    f"time() - (telegram_gateway_session_backup_timestamp_seconds{{{ACCOUNT}}} > 0)",
                    "{{account}}",
                ),
                unit="s",
                steps=share(2 * 86400, 7 * 86400),
                none="none yet",
            ),
            figure(
                "Chats tracked",
                "Channels whose update state is known: those cannot lose an update unseen.",
                (f"telegram_gateway_channels_tracked{{{ACCOUNT}}}", "{{account}}"),
            ),
            figure(
                "Reconnects",
                "Connections re-established after a loss, in the time shown.",
                (
                    "round(sum by (account)"
                    f" (increase(telegram_gateway_reconnects_total{{{ACCOUNT}}}[$__range])))",
                    "{{account}}",
                ),
                steps=((None, "green"), (10, "orange")),
            ),
        )
        .row(
            "Updates",
            graph(
                "Updates received",
                "What Telegram sends, pushed or fetched; the ten most frequent kinds.",
                (
                    "topk(10, sum by (update)"
                    f" (rate(telegram_gateway_updates_received_total{{{ACCOUNT}}}{RATE})))",
                    "{{update}}",
                ),
                unit="cps",
            ),
            graph(
                "Events by source",
                "mtproto is live; backfill closes gaps and fetches history.",
                (
                    f"sum by (source) (rate(telegram_gateway_events_received_total{{{ACCOUNT}}}{RATE}))",
                    "{{source}}",
                ),
                unit="cps",
                stacked=True,
            ),
            graph(
                "Differences",
                "Differences fetched, by how they ended. Many `too_long` mean long absences.",
                (
                    f"sum by (result) (rate(telegram_gateway_differences_total{{{ACCOUNT}}}{RATE}))",
                    "{{result}}",
                ),
                unit="cps",
            ),
        )
        .row(
            "What Telegram refuses",
            graph(
                "RPC errors",
                "Error answers, by code. 420 is a flood wait, 401 a session that is no longer good.",
                (f"sum by (code) (rate(telegram_gateway_rpc_errors_total{{{ACCOUNT}}}{RATE}))", "{{code}}"),
                unit="cps",
            ),
            graph(
                "Flood waits",
                "Share of the time that Telegram made the account wait, by method. 1 is: all of it.",
                (
                    "sum by (account, method)"
                    f" (rate(telegram_gateway_flood_wait_seconds_total{{{ACCOUNT}}}{RATE}))",
                    "{{account}} {{method}}",
                ),
                unit="percentunit",
                steps=share(0.1, 0.5),
            ),
            graph(
                "Updates set aside",
                "Pushes that came faster than they could be taken, and are fetched as a difference instead.",
                (
                    f"sum by (account) (rate(telegram_gateway_updates_overflowed_total{{{ACCOUNT}}}{RATE}))",
                    "{{account}}",
                ),
                unit="cps",
            ),
        )
        .row(
            "Ledger",
            graph(
                "Open gaps",
                "Ranges of messages that are known to be missing. Falls back to nothing within minutes.",
                (f"sum by (account) (telegram_gateway_open_gaps{{{ACCOUNT}}})", "{{account}}"),
                unit="short",
            ),
            graph(
                "Gaps opened",
                "By what showed them: a hole in the ids, a difference too long, a reconciliation, a person.",
                (
                    f"sum by (source) (increase(telegram_gateway_gaps_opened_total{{{ACCOUNT}}}{RATE}))",
                    "{{source}}",
                ),
                unit="short",
            ),
            graph(
                "Backfilled",
                "Missing ids accounted for: captured, or proven absent.",
                (
                    f"sum by (result) (rate(telegram_gateway_backfilled_total{{{ACCOUNT}}}{RATE}))",
                    "{{result}}",
                ),
                unit="cps",
            ),
        )
        .row(
            "Journal and process",
            graph(
                "Commit",
                "From an event's append to its being durable. Slow commits are a slow disk.",
                *percentiles("telegram_gateway_journal_commit_seconds", GATEWAY),
                unit="s",
                steps=share(0.1, 0.5),
            ),
            graph(
                "Size",
                "The journal's files, and where the intake pauses.",
                (f"telegram_gateway_journal_bytes{{{GATEWAY}}}", "{{instance}}"),
                (f"telegram_gateway_journal_limit_bytes{{{GATEWAY}}}", "limit {{instance}}"),
                unit="bytes",
            ),
            graph(
                "Event loop lag",
                "How late a timer fires: over a tenth of a second, the process has too much to do.",
                *percentiles("telegram_gateway_event_loop_lag_seconds", GATEWAY),
                unit="s",
                steps=share(0.1, 0.5),
            ),
        )
    )
