CREATE OR REPLACE PROCEDURE telegram_gateway.expire(job_id integer, config jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    horizon timestamptz := now() - (config ->> 'keep')::interval;
BEGIN
    IF NOT telegram_gateway.has_timescaledb() THEN
        DELETE FROM telegram_gateway.messages WHERE telegram_date < horizon;
    END IF;
    DELETE FROM telegram_gateway.message_revisions WHERE received_at < horizon;
    -- Before what was processed: a row of that, deleted while its message is there, makes it unprocessed again.
    DELETE FROM telegram_gateway.message_arrivals WHERE telegram_date < horizon;
    DELETE FROM telegram_gateway.message_processing WHERE at < horizon;
    DELETE FROM telegram_gateway.consumer_marks WHERE moved_at < horizon;
    DELETE FROM telegram_gateway.hidden_messages WHERE hidden_at < horizon;
END
$$;
DROP FUNCTION telegram_gateway.record_revision_processing;
DROP TABLE telegram_gateway.revision_processing;
