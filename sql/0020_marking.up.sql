-- mark_processed as in 0014, but what it reads back it looks up one by one: it read all of the consumer's rows, tens
-- of thousands for one message, where statistics were older than they.

CREATE OR REPLACE FUNCTION telegram_gateway.mark_processed(
    consumer text, account_scopes bigint[], channel_ids text[], message_ids bigint[], statuses text[], errors text[]
) RETURNS TABLE (status text, attempts integer, changed boolean, known boolean)
LANGUAGE plpgsql
-- Plans are kept, and a table that was small when they were made is read whole until somebody analyses it.
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    written bigint[];
BEGIN
    WITH item AS (
        SELECT DISTINCT ON (i.account_scope, i.channel_id, i.message_id) i.*
        FROM unnest($2, $3, $4, $5, $6) WITH ORDINALITY
            i (account_scope, channel_id, message_id, status, error, place)
        ORDER BY i.account_scope, i.channel_id, i.message_id, i.place DESC
    ),
    noted AS (
        INSERT INTO telegram_gateway.message_processing AS p
            (consumer, account_scope, channel_id, message_id, status, attempts, error)
        SELECT $1, i.account_scope, i.channel_id, i.message_id, i.status,
            CASE i.status WHEN 'received' THEN 0 ELSE 1 END, i.error
        FROM item i
        -- One order for all writers, so that two batches cannot lock each other's rows crosswise.
        ORDER BY i.account_scope, i.channel_id, i.message_id
        ON CONFLICT (consumer, account_scope, channel_id, message_id) DO UPDATE
        SET status = excluded.status,
            attempts = p.attempts + excluded.attempts,
            error = excluded.error,
            at = now()
        WHERE p.status IN ('received', 'retrying') AND excluded.status <> 'received'
           OR p.status = 'failed' AND excluded.status <> 'failed'
        RETURNING p.account_scope, p.channel_id, p.message_id
    )
    SELECT array_agg(i.place) INTO written FROM item i JOIN noted USING (account_scope, channel_id, message_id);
    RETURN QUERY
        SELECT p.status, p.attempts, i.place = ANY (coalesce(written, '{}')), a.arrival IS NOT NULL
        FROM unnest($2, $3, $4) WITH ORDINALITY i (account_scope, channel_id, message_id, place)
        CROSS JOIN LATERAL (
            SELECT p.status, p.attempts
            FROM telegram_gateway.message_processing p
            WHERE (p.consumer, p.account_scope, p.channel_id, p.message_id)
                = ($1, i.account_scope, i.channel_id, i.message_id)
            LIMIT 1
        ) p
        LEFT JOIN LATERAL (
            SELECT a.arrival
            FROM telegram_gateway.message_arrivals a
            WHERE (a.account_scope, a.channel_id, a.message_id) = (i.account_scope, i.channel_id, i.message_id)
            LIMIT 1
        ) a ON true
        ORDER BY i.place;
END
$$;
