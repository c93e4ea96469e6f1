DO $$
BEGIN
    IF telegram_gateway.has_timescaledb() THEN
        DROP MATERIALIZED VIEW telegram_gateway.messages_daily;
        DROP MATERIALIZED VIEW telegram_gateway.messages_hourly;
    ELSE
        DROP VIEW telegram_gateway.messages_daily;
        DROP VIEW telegram_gateway.messages_hourly;
    END IF;
END
$$;
