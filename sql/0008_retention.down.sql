DO $$
BEGIN
    IF telegram_gateway.has_timescaledb() THEN
        PERFORM remove_retention_policy('telegram_gateway.messages', if_exists => true);
        PERFORM remove_continuous_aggregate_policy('telegram_gateway.messages_hourly', if_exists => true);
        PERFORM remove_continuous_aggregate_policy('telegram_gateway.messages_daily', if_exists => true);
        PERFORM delete_job(j.job_id) FROM timescaledb_information.jobs j
            WHERE j.proc_schema = 'telegram_gateway' AND j.proc_name = 'expire';
    END IF;
END
$$;
DROP FUNCTION telegram_gateway.set_retention(interval);
DROP PROCEDURE telegram_gateway.expire(integer, jsonb);
