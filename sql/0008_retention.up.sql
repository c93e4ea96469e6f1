-- How long things are kept. `telegram-gateway db migrate` calls set_retention with TELEGRAM_DB_RETENTION.

-- What no retention policy of timescaledb drops: the plain tables and, without the extension, messages.
-- Signature of a timescaledb job; by hand: CALL telegram_gateway.expire(0, '{"keep": "90 days"}').
CREATE PROCEDURE telegram_gateway.expire(job_id integer, config jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    horizon timestamptz := now() - (config ->> 'keep')::interval;
BEGIN
    IF NOT telegram_gateway.has_timescaledb() THEN
        DELETE FROM telegram_gateway.messages WHERE telegram_date < horizon;
    END IF;
    DELETE FROM telegram_gateway.message_revisions WHERE received_at < horizon;
    DELETE FROM telegram_gateway.message_processing WHERE at < horizon;
END
$$;

-- Sets the policies so that messages are kept for `keep`, or for ever when it is null. An aggregate is never
-- refreshed beyond what is kept, which would empty it there: hence start_offset, and the shortest `keep`.
CREATE FUNCTION telegram_gateway.set_retention(keep interval) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    reach interval := least(interval '8 days', keep - interval '1 day');
BEGIN
    IF keep < interval '4 days' THEN
        RAISE EXCEPTION 'messages cannot be kept for less than 4 days' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT telegram_gateway.has_timescaledb() THEN
        RETURN;
    END IF;
    PERFORM remove_retention_policy('telegram_gateway.messages', if_exists => true);
    PERFORM remove_continuous_aggregate_policy('telegram_gateway.messages_hourly', if_exists => true);
    PERFORM remove_continuous_aggregate_policy('telegram_gateway.messages_daily', if_exists => true);
    PERFORM delete_job(j.job_id) FROM timescaledb_information.jobs j
        WHERE j.proc_schema = 'telegram_gateway' AND j.proc_name = 'expire';
    PERFORM add_continuous_aggregate_policy(
        'telegram_gateway.messages_hourly',
        start_offset => reach, end_offset => interval '1 hour', schedule_interval => interval '30 minutes'
    );
    PERFORM add_continuous_aggregate_policy(
        'telegram_gateway.messages_daily',
        start_offset => reach, end_offset => interval '1 day', schedule_interval => interval '6 hours'
    );
    IF keep IS NOT NULL THEN
        PERFORM add_retention_policy('telegram_gateway.messages', keep);
        PERFORM add_job('telegram_gateway.expire', interval '1 day', config => jsonb_build_object('keep', keep::text));
    END IF;
END
$$;
