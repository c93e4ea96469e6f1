-- Where each consumer stands with each edit and deletion: effects of their own, that message_processing, with its one
-- row per message, cannot tell apart.

CREATE TABLE telegram_gateway.revision_processing (
    consumer      text NOT NULL,
    account_scope bigint NOT NULL DEFAULT 0,
    channel_id    text NOT NULL,
    message_id    bigint NOT NULL,
    event_id      text NOT NULL,
    status        text NOT NULL CHECK (status IN ('received', 'retrying', 'published', 'failed', 'ignored')),
    attempts      integer NOT NULL DEFAULT 0,
    error         text,
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, account_scope, channel_id, message_id, event_id)
);
CREATE INDEX revision_processing_by_time ON telegram_gateway.revision_processing (at);

COMMENT ON TABLE telegram_gateway.revision_processing IS
    'As message_processing, of edits and deletions: one row per consumer and event. No row: not processed.';

-- As record_processing.
CREATE FUNCTION telegram_gateway.record_revision_processing(
    consumer text, account_scope bigint, channel_id text, message_id bigint, event_id text, status text,
    error text DEFAULT NULL
) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO telegram_gateway.revision_processing AS p
        (consumer, account_scope, channel_id, message_id, event_id, status, attempts, error)
    VALUES ($1, $2, $3, $4, $5, $6, CASE $6 WHEN 'received' THEN 0 ELSE 1 END, $7)
    ON CONFLICT (consumer, account_scope, channel_id, message_id, event_id) DO UPDATE
    SET status = excluded.status,
        attempts = p.attempts + excluded.attempts,
        error = excluded.error,
        at = now()
    WHERE p.status NOT IN ('published', 'ignored')
$$;

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
    DELETE FROM telegram_gateway.revision_processing WHERE at < horizon;
    DELETE FROM telegram_gateway.consumer_marks WHERE moved_at < horizon;
    DELETE FROM telegram_gateway.hidden_messages WHERE hidden_at < horizon;
END
$$;
