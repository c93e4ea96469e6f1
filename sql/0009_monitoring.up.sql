-- What dashboards and people look at.

CREATE VIEW telegram_gateway.message_processing_stats AS
SELECT
    consumer,
    status,
    count(*) AS messages,
    min(at) AS oldest_at,
    max(at) AS newest_at,
    max(attempts) AS most_attempts
FROM telegram_gateway.message_processing
GROUP BY consumer, status;

CREATE VIEW telegram_gateway.channel_health_summary AS
SELECT
    c.account_scope,
    c.id,
    c.title,
    c.type,
    c.is_active,
    c.last_message_id,
    c.last_message_date,
    extract(epoch FROM now() - c.last_message_date)::double precision AS silent_seconds,
    coalesce(h.messages, 0) AS messages_last_day,
    coalesce(h.not_live, 0) AS not_live_last_day,
    h.mean_delay_seconds,
    CASE
        WHEN NOT c.is_active THEN 'inactive'
        WHEN c.last_message_date > now() - interval '1 hour' THEN 'active'
        WHEN c.last_message_date > now() - interval '1 day' THEN 'quiet'
        ELSE 'silent'
    END AS health
FROM telegram_gateway.channels c
LEFT JOIN (
    SELECT
        account_scope,
        channel_id,
        sum(messages)::bigint AS messages,
        sum(not_live)::bigint AS not_live,
        (sum(mean_delay_seconds * (messages - not_live)) / nullif(sum(messages - not_live), 0))::double precision
            AS mean_delay_seconds
    FROM telegram_gateway.messages_hourly
    WHERE bucket > now() - interval '1 day'
    GROUP BY account_scope, channel_id
) h ON (h.account_scope, h.channel_id) = (c.account_scope, c.id);

-- One row about the last five minutes. Telegram's dates have whole seconds, so intake delays carry up to one of
-- rounding; storage delays do not.
CREATE VIEW telegram_gateway.performance_metrics_realtime AS
SELECT
    now() AS at,
    count(*) AS messages,
    count(*) / 300.0 AS messages_per_second,
    count(DISTINCT channel_id) AS chats,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM received_at - telegram_date)) AS intake_p50_seconds,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM received_at - telegram_date)) AS intake_p99_seconds,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM stored_at - received_at)) AS storage_p50_seconds,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM stored_at - received_at)) AS storage_p99_seconds,
    (SELECT count(*) FROM telegram_gateway.message_revisions WHERE received_at > now() - interval '5 minutes')
        AS revisions
FROM telegram_gateway.messages
WHERE telegram_date > now() - interval '5 minutes';
