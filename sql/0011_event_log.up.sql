-- Every event as the gateway delivered it, in the order of arrival: what `telegram-gateway replay` reads.

-- Also gives chunks that are compressed from now on the least and greatest received_at of each batch.
CREATE INDEX messages_by_receipt ON telegram_gateway.messages (received_at);

-- Events of one moment: first new messages by their number, then what happened to messages, as it came.
CREATE VIEW telegram_gateway.event_log AS
SELECT
    received_at, 0 AS stage, message_id AS place, event_id, 'message.new' AS kind,
    account_scope, channel_id, message_id, telegram_date, account, chat_type, chat_title, chat_username,
    thread_id, grouped_id, reply_to, forward, sender_id, sender_name, sender_username, text, caption, entities,
    media_type, media, edit_date, source, message_type, metadata
FROM telegram_gateway.messages
UNION ALL
SELECT
    received_at, 1 AS stage, revision AS place, event_id, kind,
    account_scope, channel_id, message_id, telegram_date, account, chat_type, chat_title, chat_username,
    thread_id, grouped_id, reply_to, forward, sender_id, sender_name, sender_username, text, caption, entities,
    media_type, media, edit_date, source, message_type, metadata
FROM telegram_gateway.message_revisions;

COMMENT ON VIEW telegram_gateway.event_log IS
    'New messages, edits and deletions as they were delivered. Give a range of received_at, and page by (received_at, stage, place, event_id).';
