-- What readers stand on: the order in which messages came in, where each consumer has got to in it, what was
-- hidden, and the newest revision of each message.

-- One row per message of `messages`, in a plain table, because only there can an index name a message without
-- its date, and because chunks are by date while consumers follow what comes in.
CREATE TABLE telegram_gateway.message_arrivals (
    account_scope bigint NOT NULL,
    channel_id    text NOT NULL,
    message_id    bigint NOT NULL,
    telegram_date timestamptz NOT NULL,
    arrival       bigint GENERATED ALWAYS AS IDENTITY,
    stored_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_scope, channel_id, message_id)
);

INSERT INTO telegram_gateway.message_arrivals (account_scope, channel_id, message_id, telegram_date, stored_at)
SELECT account_scope, channel_id, message_id, telegram_date, stored_at
FROM telegram_gateway.messages
ORDER BY stored_at, telegram_date, account_scope, channel_id, message_id
ON CONFLICT DO NOTHING;

CREATE UNIQUE INDEX message_arrivals_by_arrival ON telegram_gateway.message_arrivals (arrival);
CREATE INDEX message_arrivals_by_chat ON telegram_gateway.message_arrivals (channel_id, account_scope, arrival);

COMMENT ON TABLE telegram_gateway.message_arrivals IS
    'The order in which messages were stored, whatever their dates, and the way to a message''s date by its id.';

-- For the rows of a statement that are really new, whoever inserts them. A message that came again with another
-- date (the old row was dropped, or the chat numbers anew) arrives again. Per statement, because a trigger for
-- each row costs the ingest twice as much.
CREATE FUNCTION telegram_gateway.note_arrivals() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    noted bigint;
BEGIN
    INSERT INTO telegram_gateway.message_arrivals (account_scope, channel_id, message_id, telegram_date)
    SELECT account_scope, channel_id, message_id, telegram_date FROM stored
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS noted = ROW_COUNT;
    IF noted < (SELECT count(*) FROM stored) THEN
        UPDATE telegram_gateway.message_arrivals a
        SET telegram_date = s.telegram_date, arrival = DEFAULT, stored_at = DEFAULT
        FROM stored s
        WHERE (a.account_scope, a.channel_id, a.message_id) = (s.account_scope, s.channel_id, s.message_id)
          AND a.telegram_date <> s.telegram_date;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER note_arrivals AFTER INSERT ON telegram_gateway.messages
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION telegram_gateway.note_arrivals();

-- Up to which arrival every transaction that could have one has ended. Arrivals are numbered before they are
-- committed, so a small one may appear after a greater one. One row.
CREATE TABLE telegram_gateway.arrival_horizon (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    settled   bigint NOT NULL DEFAULT 0,
    candidate bigint NOT NULL DEFAULT 0,
    -- A transaction id above those of all who may hold an arrival up to the candidate.
    above     bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO telegram_gateway.arrival_horizon DEFAULT VALUES;

-- Settles the candidate once all transactions below its id have ended, and takes the newest arrival as the next
-- one. A transaction has its id before its first arrival, for it writes the message first; the candidate is read
-- before this transaction has its own id. So every holder's id is below this one's. No clock is involved.
CREATE FUNCTION telegram_gateway.settled_arrival() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    known telegram_gateway.arrival_horizon;
    mine bigint;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO head
        FROM telegram_gateway.message_arrivals_arrival_seq;
    END IF;
    SELECT * INTO known FROM telegram_gateway.arrival_horizon FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN (SELECT settled FROM telegram_gateway.arrival_horizon);
    END IF;
    mine := pg_current_xact_id()::text::bigint;
    IF known.above > mine THEN
        -- Restored from a dump into a younger server: whatever held an arrival then has ended.
        known.above := 0;
    END IF;
    IF pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= known.above AND known.settled < known.candidate THEN
        known.settled := known.candidate;
    END IF;
    IF known.settled = known.candidate AND head > known.candidate THEN
        known.candidate := head;
        known.above := mine;
    END IF;
    UPDATE telegram_gateway.arrival_horizon AS h
    SET settled = known.settled, candidate = known.candidate, above = known.above
    WHERE (h.settled, h.candidate, h.above) IS DISTINCT FROM (known.settled, known.candidate, known.above);
    RETURN known.settled;
END
$$;

-- An arrival before the first of what was stored since that moment, found by halving: the numbers grow with
-- time, but for what overlapping transactions and a clock that was set exchange, which an hour covers.
CREATE FUNCTION telegram_gateway.arrival_since(moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint;
    high bigint;
    middle bigint;
    at timestamptz;
BEGIN
    SELECT coalesce(min(arrival), 1) - 1, coalesce(max(arrival), 0) INTO low, high
    FROM telegram_gateway.message_arrivals;
    IF moment IS NULL THEN
        RETURN low;
    END IF;
    WHILE high - low > 100 LOOP
        middle := low + (high - low) / 2;
        SELECT stored_at INTO at FROM telegram_gateway.message_arrivals
        WHERE arrival >= middle ORDER BY arrival LIMIT 1;
        IF at < moment - interval '1 hour' THEN
            low := middle;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN low;
END
$$;

-- Where a message that a consumer has begun and not finished stands in the order of arrival.
ALTER TABLE telegram_gateway.message_processing ADD COLUMN arrival bigint;
UPDATE telegram_gateway.message_processing p SET arrival = a.arrival
FROM telegram_gateway.message_arrivals a
WHERE p.status IN ('received', 'retrying')
  AND (a.account_scope, a.channel_id, a.message_id) = (p.account_scope, p.channel_id, p.message_id);
CREATE INDEX message_processing_open ON telegram_gateway.message_processing (consumer, arrival)
    WHERE status IN ('received', 'retrying') AND arrival IS NOT NULL;
COMMENT ON COLUMN telegram_gateway.message_processing.arrival IS
    'Its place in message_arrivals while it is received or retrying; null when the message was not stored yet.';

-- Up to where every message of a chat (or of all: an empty channel_id) has a row in message_processing for that
-- consumer, as far as it is of `since` or later. What is unprocessed is therefore what comes behind the mark,
-- and what is received or retrying before it: looking for it costs the same however much was processed.
CREATE TABLE telegram_gateway.consumer_marks (
    consumer      text NOT NULL,
    account_scope bigint NOT NULL,
    channel_id    text NOT NULL,
    since         timestamptz NOT NULL,
    arrival       bigint NOT NULL,
    moved_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, account_scope, channel_id)
) WITH (fillfactor = 50);

-- Moves a mark on by up to `steps` messages, over those that were processed or are older than `since`. Messages
-- passed over, since later ones were processed, are noted as received: they stay unprocessed. Returns whether
-- there may be more to do. A mark made for less than is asked for now is replaced once nobody moves it.
CREATE FUNCTION telegram_gateway.advance_mark(
    consumer text, account_scope bigint, channel_id text, since timestamptz, steps integer
) RETURNS boolean
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    settled bigint := telegram_gateway.settled_arrival();
    -- Callers' clocks differ, and what they ask for moves with the time.
    wanted timestamptz := coalesce($4 - interval '1 hour', '-infinity');
    mark telegram_gateway.consumer_marks;
    start bigint;
    reach bigint;
    walked integer;
    last_known bigint;
BEGIN
    SELECT * INTO mark FROM telegram_gateway.consumer_marks m
    WHERE (m.consumer, m.account_scope, m.channel_id) = ($1, $2, $3)
    FOR UPDATE;
    IF mark.since > coalesce($4, '-infinity') AND mark.moved_at > now() - interval '1 hour' THEN
        RETURN false;
    ELSIF mark.since <= coalesce($4, '-infinity') THEN
        start := mark.arrival;
        wanted := greatest(wanted, mark.since);
    ELSE
        start := telegram_gateway.arrival_since($4);
    END IF;
    WITH walk AS MATERIALIZED (
        SELECT a.*, p.status, p.arrival AS noted
        FROM (
            (SELECT * FROM telegram_gateway.message_arrivals
             WHERE $3 = '' AND arrival > start AND arrival <= settled ORDER BY arrival LIMIT $5)
            UNION ALL
            (SELECT * FROM telegram_gateway.message_arrivals
             WHERE $3 <> '' AND channel_id = $3 AND account_scope = $2 AND arrival > start AND arrival <= settled
             ORDER BY arrival LIMIT $5)
        ) a
        LEFT JOIN LATERAL (
            SELECT p.status, p.arrival FROM telegram_gateway.message_processing p
            WHERE (p.consumer, p.account_scope, p.channel_id, p.message_id)
                = ($1, a.account_scope, a.channel_id, a.message_id)
            LIMIT 1
        ) p ON true
    ),
    known AS (
        SELECT coalesce(max(arrival) FILTER (WHERE status IS NOT NULL), start) AS arrival, max(arrival) AS last_walked,
            count(*) AS walked
        FROM walk
    ),
    noted AS (
        INSERT INTO telegram_gateway.message_processing AS p
            (consumer, account_scope, channel_id, message_id, status, arrival)
        SELECT $1, w.account_scope, w.channel_id, w.message_id, 'received', w.arrival
        FROM walk w, known
        WHERE w.arrival <= known.arrival
          AND (w.status IS NULL AND w.telegram_date >= wanted
               OR w.status IN ('received', 'retrying') AND w.noted IS DISTINCT FROM w.arrival)
        ORDER BY w.account_scope, w.channel_id, w.message_id
        ON CONFLICT (consumer, account_scope, channel_id, message_id) DO UPDATE SET arrival = excluded.arrival
        WHERE p.status IN ('received', 'retrying')
    )
    SELECT
        known.walked,
        nullif(known.arrival, start),
        coalesce(
            (SELECT min(w.arrival) - 1 FROM walk w
             WHERE w.arrival > known.arrival AND w.status IS NULL AND w.telegram_date >= wanted),
            CASE WHEN known.walked = $5 THEN known.last_walked ELSE greatest(start, settled) END
        )
    INTO walked, last_known, reach
    FROM known;
    -- Not for whoever only asks, under a name that never processed anything.
    IF reach > start AND (last_known IS NOT NULL OR mark.consumer IS NOT NULL) THEN
        INSERT INTO telegram_gateway.consumer_marks AS m (consumer, account_scope, channel_id, since, arrival)
        VALUES ($1, $2, $3, wanted, reach)
        ON CONFLICT (consumer, account_scope, channel_id) DO UPDATE
        SET since = excluded.since, arrival = excluded.arrival, moved_at = now()
        WHERE mark.consumer IS NOT NULL;
        RETURN walked = $5;
    END IF;
    RETURN false;
END
$$;

-- Whoever notes that a message was begun need not know its place.
CREATE FUNCTION telegram_gateway.place_open_message() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    SELECT a.arrival INTO NEW.arrival FROM telegram_gateway.message_arrivals a
    WHERE (a.account_scope, a.channel_id, a.message_id) = (NEW.account_scope, NEW.channel_id, NEW.message_id);
    RETURN NEW;
END
$$;
CREATE TRIGGER place_open_message BEFORE INSERT OR UPDATE ON telegram_gateway.message_processing
    FOR EACH ROW WHEN (NEW.status IN ('received', 'retrying') AND NEW.arrival IS NULL)
    EXECUTE FUNCTION telegram_gateway.place_open_message();

-- A row that is deleted makes its message unprocessed again, so the marks go back to before it.
CREATE FUNCTION telegram_gateway.reopen_deleted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE telegram_gateway.consumer_marks m SET arrival = reopened.arrival - 1
    FROM (
        SELECT d.consumer, l.account_scope, l.channel_id, min(a.arrival) AS arrival
        FROM deleted d
        JOIN telegram_gateway.message_arrivals a USING (account_scope, channel_id, message_id)
        CROSS JOIN LATERAL (VALUES (0, ''), (d.account_scope, d.channel_id)) l (account_scope, channel_id)
        GROUP BY d.consumer, l.account_scope, l.channel_id
    ) reopened
    WHERE (m.consumer, m.account_scope, m.channel_id)
        = (reopened.consumer, reopened.account_scope, reopened.channel_id) AND m.arrival >= reopened.arrival;
    RETURN NULL;
END
$$;
CREATE TRIGGER reopen_deleted AFTER DELETE ON telegram_gateway.message_processing
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION telegram_gateway.reopen_deleted();

-- Notes what became of many messages; the last one counts where a message is named twice. What is published or
-- ignored stays so, and what has failed fails once: saying it again changes nothing. The messages need not be
-- stored yet, for a consumer of the queue may be faster than the database. Returns a row for each, in order.
CREATE FUNCTION telegram_gateway.mark_processed(
    consumer text, account_scopes bigint[], channel_ids text[], message_ids bigint[], statuses text[], errors text[]
) RETURNS TABLE (status text, attempts integer, changed boolean, known boolean)
LANGUAGE plpgsql AS $$
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
        JOIN telegram_gateway.message_processing p ON (p.consumer, p.account_scope, p.channel_id, p.message_id)
            = ($1, i.account_scope, i.channel_id, i.message_id)
        LEFT JOIN telegram_gateway.message_arrivals a ON (a.account_scope, a.channel_id, a.message_id)
            = (i.account_scope, i.channel_id, i.message_id)
        ORDER BY i.place;
END
$$;

-- What people took out of sight. The messages themselves stay as they are.
CREATE TABLE telegram_gateway.hidden_messages (
    account_scope bigint NOT NULL,
    channel_id    text NOT NULL,
    message_id    bigint NOT NULL,
    hidden_by     text NOT NULL,
    hidden_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_scope, channel_id, message_id)
);

-- A page of a chat in its order, from the index alone.
DROP INDEX telegram_gateway.messages_by_channel;
CREATE INDEX messages_by_channel
    ON telegram_gateway.messages (channel_id, telegram_date DESC, message_id DESC, account_scope);
CREATE INDEX messages_by_source ON telegram_gateway.messages (source, telegram_date DESC) WHERE source <> 'mtproto';
CREATE INDEX message_revisions_search ON telegram_gateway.message_revisions
    USING gin (telegram_gateway.search_document(text, caption)) WITH (gin_pending_list_limit = 512)
    WHERE kind = 'message.edited';

-- Read through the index of the date or the chat with a LIMIT: the rest is looked up for the rows that are given.
CREATE VIEW telegram_gateway.messages_newest AS
SELECT
    m.account_scope,
    m.channel_id,
    m.message_id,
    m.telegram_date,
    m.source AS first_source,
    CASE WHEN e.event_id IS NULL THEN m.event_id ELSE e.event_id END AS event_id,
    CASE WHEN e.event_id IS NULL THEN 'message.new' ELSE e.kind END AS kind,
    CASE WHEN e.event_id IS NULL THEN m.account ELSE e.account END AS account,
    CASE WHEN e.event_id IS NULL THEN m.chat_type ELSE e.chat_type END AS chat_type,
    CASE WHEN e.event_id IS NULL THEN m.chat_title ELSE e.chat_title END AS chat_title,
    CASE WHEN e.event_id IS NULL THEN m.chat_username ELSE e.chat_username END AS chat_username,
    CASE WHEN e.event_id IS NULL THEN m.thread_id ELSE e.thread_id END AS thread_id,
    CASE WHEN e.event_id IS NULL THEN m.grouped_id ELSE e.grouped_id END AS grouped_id,
    CASE WHEN e.event_id IS NULL THEN m.reply_to ELSE e.reply_to END AS reply_to,
    CASE WHEN e.event_id IS NULL THEN m.forward ELSE e.forward END AS forward,
    CASE WHEN e.event_id IS NULL THEN m.sender_id ELSE e.sender_id END AS sender_id,
    CASE WHEN e.event_id IS NULL THEN m.sender_name ELSE e.sender_name END AS sender_name,
    CASE WHEN e.event_id IS NULL THEN m.sender_username ELSE e.sender_username END AS sender_username,
    CASE WHEN e.event_id IS NULL THEN m.text ELSE e.text END AS text,
    CASE WHEN e.event_id IS NULL THEN m.caption ELSE e.caption END AS caption,
    CASE WHEN e.event_id IS NULL THEN m.entities ELSE e.entities END AS entities,
    CASE WHEN e.event_id IS NULL THEN m.media_type ELSE e.media_type END AS media_type,
    CASE WHEN e.event_id IS NULL THEN m.media ELSE e.media END AS media,
    CASE WHEN e.event_id IS NULL THEN m.edit_date ELSE e.edit_date END AS edit_date,
    CASE WHEN e.event_id IS NULL THEN m.received_at ELSE e.received_at END AS received_at,
    CASE WHEN e.event_id IS NULL THEN m.source ELSE e.source END AS source,
    CASE WHEN e.event_id IS NULL THEN m.message_type ELSE e.message_type END AS message_type,
    CASE WHEN e.event_id IS NULL THEN m.metadata ELSE e.metadata END AS metadata,
    d.received_at AS deleted_at
FROM telegram_gateway.messages m
LEFT JOIN LATERAL (
    SELECT r.*
    FROM telegram_gateway.message_revisions r
    WHERE (r.account_scope, r.channel_id, r.message_id, r.kind)
        = (m.account_scope, m.channel_id, m.message_id, 'message.edited')
      AND (m.edit_date IS NULL OR r.edit_date >= m.edit_date)
    ORDER BY r.edit_date DESC, r.revision DESC
    LIMIT 1
) e ON true
LEFT JOIN LATERAL (
    SELECT r.received_at
    FROM telegram_gateway.message_revisions r
    WHERE (r.account_scope, r.channel_id, r.message_id, r.kind)
        = (m.account_scope, m.channel_id, m.message_id, 'message.deleted')
    LIMIT 1
) d ON true
WHERE NOT EXISTS (
    SELECT FROM telegram_gateway.hidden_messages h
    WHERE (h.account_scope, h.channel_id, h.message_id) = (m.account_scope, m.channel_id, m.message_id)
);

COMMENT ON VIEW telegram_gateway.messages_newest IS
    'Each stored message as its newest revision was delivered, and when it was deleted on Telegram; without hidden ones.';

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
