-- Edits and deletions, and the view that shows each message as it is now.

CREATE TABLE telegram_gateway.message_revisions (
    event_id        text PRIMARY KEY,
    -- The order of arrival: two edits may share a second.
    revision        bigint GENERATED ALWAYS AS IDENTITY,
    kind            text NOT NULL CHECK (kind IN ('message.edited', 'message.deleted')),
    account_scope   bigint NOT NULL,
    channel_id      text NOT NULL,
    message_id      bigint NOT NULL,
    telegram_date   timestamptz,
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
    stored_at       timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE telegram_gateway.message_revisions IS 'Every edit and deletion of a message, append-only, one row per event id.';

CREATE INDEX message_revisions_by_message
    ON telegram_gateway.message_revisions (account_scope, channel_id, message_id, kind, edit_date DESC, revision DESC);
CREATE INDEX message_revisions_by_date ON telegram_gateway.message_revisions (telegram_date DESC)
    WHERE kind = 'message.edited';
CREATE INDEX message_revisions_by_receipt ON telegram_gateway.message_revisions (received_at);

-- The second half shows messages of which only edits were seen, such as those written before the account joined.
CREATE VIEW telegram_gateway.messages_current AS
SELECT
    m.account_scope,
    m.channel_id,
    m.message_id,
    m.telegram_date,
    CASE WHEN e.event_id IS NULL THEN m.event_id ELSE e.event_id END AS event_id,
    m.account,
    m.chat_type,
    CASE WHEN e.event_id IS NULL THEN m.chat_title ELSE e.chat_title END AS chat_title,
    CASE WHEN e.event_id IS NULL THEN m.chat_username ELSE e.chat_username END AS chat_username,
    m.thread_id,
    m.grouped_id,
    m.reply_to,
    m.forward,
    m.sender_id,
    m.sender_name,
    m.sender_username,
    CASE WHEN e.event_id IS NULL THEN m.text ELSE e.text END AS text,
    CASE WHEN e.event_id IS NULL THEN m.caption ELSE e.caption END AS caption,
    CASE WHEN e.event_id IS NULL THEN m.entities ELSE e.entities END AS entities,
    CASE WHEN e.event_id IS NULL THEN m.media_type ELSE e.media_type END AS media_type,
    CASE WHEN e.event_id IS NULL THEN m.media ELSE e.media END AS media,
    CASE WHEN e.event_id IS NULL THEN m.edit_date ELSE e.edit_date END AS edit_date,
    m.received_at,
    m.source,
    m.message_type,
    CASE WHEN e.event_id IS NULL THEN m.metadata ELSE e.metadata END AS metadata,
    m.stored_at,
    d.received_at IS NOT NULL AS is_deleted,
    d.received_at AS deleted_at
FROM telegram_gateway.messages m
LEFT JOIN LATERAL (
    SELECT r.*
    FROM telegram_gateway.message_revisions r
    WHERE (r.account_scope, r.channel_id, r.message_id, r.kind)
        = (m.account_scope, m.channel_id, m.message_id, 'message.edited')
      -- A backfilled message already has the content of the edits before it.
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
UNION ALL
SELECT
    e.account_scope,
    e.channel_id,
    e.message_id,
    e.telegram_date,
    e.event_id,
    e.account,
    e.chat_type,
    e.chat_title,
    e.chat_username,
    e.thread_id,
    e.grouped_id,
    e.reply_to,
    e.forward,
    e.sender_id,
    e.sender_name,
    e.sender_username,
    e.text,
    e.caption,
    e.entities,
    e.media_type,
    e.media,
    e.edit_date,
    e.received_at,
    e.source,
    e.message_type,
    e.metadata,
    e.stored_at,
    d.received_at IS NOT NULL,
    d.received_at
FROM telegram_gateway.message_revisions e
LEFT JOIN LATERAL (
    SELECT r.received_at
    FROM telegram_gateway.message_revisions r
    WHERE (r.account_scope, r.channel_id, r.message_id, r.kind)
        = (e.account_scope, e.channel_id, e.message_id, 'message.deleted')
    LIMIT 1
) d ON true
WHERE e.kind = 'message.edited'
  AND NOT EXISTS (
    SELECT FROM telegram_gateway.messages m
    WHERE (m.account_scope, m.channel_id, m.message_id, m.telegram_date)
        = (e.account_scope, e.channel_id, e.message_id, e.telegram_date)
  )
  AND NOT EXISTS (
    SELECT FROM telegram_gateway.message_revisions r
    WHERE (r.account_scope, r.channel_id, r.message_id, r.kind)
        = (e.account_scope, e.channel_id, e.message_id, 'message.edited')
      AND (r.edit_date, r.revision) > (e.edit_date, e.revision)
  );

COMMENT ON VIEW telegram_gateway.messages_current IS
    'Each message with its latest content and whether it was deleted. Give a range of telegram_date: it names the chunks to read, and LIMIT alone does not keep the view from looking up every message of a chat.';
