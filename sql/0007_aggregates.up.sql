-- Messages per chat and hour, and per chat and day (UTC). With timescaledb continuous aggregates, which also
-- read what is not materialised yet; without it views. They are refreshed a few days back: after a backfill of
-- older messages CALL refresh_continuous_aggregate('telegram_gateway.messages_daily', FROM, TO), and hourly too.

DO $$
DECLARE
    timescale boolean := telegram_gateway.has_timescaledb();
    name text;
    width interval;
BEGIN
    FOR name, width IN VALUES ('messages_hourly', interval '1 hour'), ('messages_daily', interval '1 day') LOOP
        EXECUTE format(
            $view$
                CREATE %1$s telegram_gateway.%2$I %3$s AS
                SELECT
                    account_scope,
                    channel_id,
                    %4$s AS bucket,
                    count(*) AS messages,
                    count(media_type) AS with_media,
                    count(*) FILTER (WHERE message_type = 'service') AS service,
                    count(*) FILTER (WHERE source <> 'mtproto') AS not_live,
                    min(message_id) AS first_message_id,
                    max(message_id) AS last_message_id,
                    avg(extract(epoch FROM received_at - telegram_date)) FILTER (WHERE source = 'mtproto')
                        AS mean_delay_seconds
                FROM telegram_gateway.messages
                GROUP BY account_scope, channel_id, %4$s
                %5$s
            $view$,
            CASE WHEN timescale THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END,
            name,
            CASE WHEN timescale
                 THEN 'WITH (timescaledb.continuous, timescaledb.materialized_only = false)' ELSE '' END,
            CASE WHEN timescale THEN format('time_bucket(interval %L, telegram_date)', width)
                 ELSE format('date_bin(interval %L, telegram_date, timestamptz %L)', width, '2000-01-03 00:00+00') END,
            CASE WHEN timescale THEN 'WITH NO DATA' ELSE '' END
        );
    END LOOP;
END
$$;
