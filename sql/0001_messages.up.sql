-- Every message as it was first seen: a hypertable where the timescaledb extension is in the database, else a
-- plain table. Creating the extension takes a superuser (deploy/timescaledb/bootstrap.sql does it).

CREATE FUNCTION telegram_gateway.has_timescaledb() RETURNS boolean
LANGUAGE sql STABLE
RETURN EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb');

CREATE TABLE telegram_gateway.messages (
    account_scope   bigint NOT NULL,
    channel_id      text NOT NULL,
    message_id      bigint NOT NULL,
    telegram_date   timestamptz NOT NULL,
    event_id        text NOT NULL,
    account         text NOT NULL,
    chat_type       text NOT NULL,
    chat_title      text,
    chat_username   text,
    thread_id       bigint,
    grouped_id      bigint,
    reply_to        jsonb,
    forward         jsonb,
    sender_id       bigint,
    sender_name     text,
    sender_username text,
    text            text,
    caption         text,
    entities        jsonb,
    media_type      text,
    media           jsonb,
    edit_date       timestamptz,
    received_at     timestamptz NOT NULL,
    source          text NOT NULL,
    message_type    text,
    metadata        jsonb NOT NULL DEFAULT '{}',
    stored_at       timestamptz NOT NULL DEFAULT now(),
    -- Holds the partition column, as a hypertable's unique keys must. Telegram never changes a message's
    -- date, so with it the key is still one row per message.
    PRIMARY KEY (account_scope, channel_id, message_id, telegram_date)
);

COMMENT ON TABLE telegram_gateway.messages IS
    'Messages as first seen, append-only. What happened to them later is in message_revisions; messages_current has both.';
COMMENT ON COLUMN telegram_gateway.messages.account_scope IS
    '0 in channels and supergroups; in private chats and basic groups the user id of the account, whose own numbering message_id is.';
COMMENT ON COLUMN telegram_gateway.messages.stored_at IS 'When this row was written; received_at is when Telegram handed the message over.';

DO $$
BEGIN
    IF telegram_gateway.has_timescaledb() THEN
        PERFORM create_hypertable(
            'telegram_gateway.messages', 'telegram_date',
            chunk_time_interval => interval '1 day', create_default_indexes => false
        );
        ALTER TABLE telegram_gateway.messages SET (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'channel_id, account_scope',
            timescaledb.compress_orderby = 'telegram_date DESC, message_id DESC'
        );
        -- Later than any backfill is expected to reach: a row for a compressed chunk costs a decompression.
        PERFORM add_compression_policy('telegram_gateway.messages', interval '14 days');
    END IF;
END
$$;

CREATE INDEX messages_by_date ON telegram_gateway.messages (telegram_date DESC);
CREATE INDEX messages_by_channel ON telegram_gateway.messages (channel_id, telegram_date DESC);
CREATE INDEX messages_metadata ON telegram_gateway.messages USING gin (metadata jsonb_path_ops);

CREATE FUNCTION telegram_gateway.refuse_update() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'telegram_gateway.messages is append-only'
        USING ERRCODE = 'restrict_violation', HINT = 'Append a row to telegram_gateway.message_revisions instead.';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE ON telegram_gateway.messages
    FOR EACH STATEMENT EXECUTE FUNCTION telegram_gateway.refuse_update();
