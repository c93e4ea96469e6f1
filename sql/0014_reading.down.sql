CREATE OR REPLACE PROCEDURE telegram_gateway.expire(job_id integer, config jsonb)
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
DROP VIEW telegram_gateway.messages_newest;
DROP INDEX telegram_gateway.message_revisions_search;
DROP INDEX telegram_gateway.messages_by_source;
DROP INDEX telegram_gateway.messages_by_channel;
CREATE INDEX messages_by_channel ON telegram_gateway.messages (channel_id, telegram_date DESC);
DROP TABLE telegram_gateway.hidden_messages;
DROP FUNCTION telegram_gateway.mark_processed(text, bigint[], text[], bigint[], text[], text[]);
DROP TRIGGER reopen_deleted ON telegram_gateway.message_processing;
DROP FUNCTION telegram_gateway.reopen_deleted();
DROP TRIGGER place_open_message ON telegram_gateway.message_processing;
DROP FUNCTION telegram_gateway.place_open_message();
DROP FUNCTION telegram_gateway.advance_mark(text, bigint, text, timestamptz, integer);
DROP TABLE telegram_gateway.consumer_marks;
DROP INDEX telegram_gateway.message_processing_open;
ALTER TABLE telegram_gateway.message_processing DROP COLUMN arrival;
DROP FUNCTION telegram_gateway.arrival_since(timestamptz);
DROP FUNCTION telegram_gateway.settled_arrival();
DROP TABLE telegram_gateway.arrival_horizon;
DROP TRIGGER note_arrivals ON telegram_gateway.messages;
DROP FUNCTION telegram_gateway.note_arrivals();
DROP TABLE telegram_gateway.message_arrivals;
