-- Where each consumer stands with each message: one row per consumer and message, so that consumers never collide.

CREATE TABLE telegram_gateway.message_processing (
    consumer      text NOT NULL,
    account_scope bigint NOT NULL DEFAULT 0,
    channel_id    text NOT NULL,
    message_id    bigint NOT NULL,
    status        text NOT NULL CHECK (status IN ('received', 'retrying', 'published', 'failed', 'ignored')),
    attempts      integer NOT NULL DEFAULT 0,
    error         text,
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, account_scope, channel_id, message_id)
);

CREATE INDEX message_processing_unprocessed ON telegram_gateway.message_processing (consumer, at)
    WHERE status IN ('received', 'retrying');
CREATE INDEX message_processing_failed ON telegram_gateway.message_processing (consumer, at)
    WHERE status = 'failed';

-- Counts an attempt unless the consumer only took note of the message. A message that is done (published or
-- ignored) stays done when a late retry reports in; reopening one is a row deleted.
CREATE FUNCTION telegram_gateway.record_processing(
    consumer text, account_scope bigint, channel_id text, message_id bigint, status text, error text DEFAULT NULL
) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO telegram_gateway.message_processing AS p
        (consumer, account_scope, channel_id, message_id, status, attempts, error)
    VALUES ($1, $2, $3, $4, $5, CASE $5 WHEN 'received' THEN 0 ELSE 1 END, $6)
    ON CONFLICT (consumer, account_scope, channel_id, message_id) DO UPDATE
    SET status = excluded.status,
        attempts = p.attempts + excluded.attempts,
        error = excluded.error,
        at = now()
    WHERE p.status NOT IN ('published', 'ignored')
$$;
