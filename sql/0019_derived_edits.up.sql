-- A message that comes edited brings its edit beside it, marked as derived: where the message is here already in
-- other words, from a gateway that was gone when it was edited, nothing else may ever tell of the edit.

-- What Event.content_digest in gateway/event.py takes for the content of a message.
CREATE FUNCTION telegram_gateway.content(text text, caption text, entities jsonb, media_type text, media jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_array(
    text, caption, nullif(entities, '[]'), media_type,
    coalesce(media -> 'id', nullif(media, '{}') - 'results' - 'completions')
);

-- Those of `edits` that change what is known of their messages.
CREATE FUNCTION telegram_gateway.missed_edits(edits json) RETURNS json
LANGUAGE plpgsql
-- The plan for one date names one chunk; a plan kept for any date names, and locks, all of them.
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    body json;
    edit telegram_gateway.messages;
    known record;
    latest jsonb;
    missed jsonb[] := '{}';
BEGIN
    FOR body IN SELECT value FROM json_array_elements(edits) LOOP
        edit := json_populate_record(NULL::telegram_gateway.messages, body);
        SELECT m.edit_date, telegram_gateway.content(m.text, m.caption, m.entities, m.media_type, m.media) AS content
        INTO known
        FROM telegram_gateway.messages m
        WHERE (m.account_scope, m.channel_id, m.message_id, m.telegram_date)
            = (edit.account_scope, edit.channel_id, edit.message_id, edit.telegram_date);
        CONTINUE WHEN NOT FOUND OR known.edit_date >= edit.edit_date;
        -- By the rule of the journal's skip_unchanged: after an edit that is known, a reaction is none.
        SELECT telegram_gateway.content(r.text, r.caption, r.entities, r.media_type, r.media)
        INTO latest
        FROM telegram_gateway.message_revisions r
        WHERE (r.account_scope, r.channel_id, r.message_id, r.kind)
            = (edit.account_scope, edit.channel_id, edit.message_id, 'message.edited')
          AND r.edit_date BETWEEN coalesce(known.edit_date, '-infinity') AND edit.edit_date
        ORDER BY r.edit_date DESC, r.revision DESC
        LIMIT 1;
        IF coalesce(latest, known.content)
            <> telegram_gateway.content(edit.text, edit.caption, edit.entities, edit.media_type, edit.media)
        THEN
            missed := array_append(missed, body::jsonb - 'derived');
        END IF;
    END LOOP;
    RETURN array_to_json(missed);
END
$$;

CREATE OR REPLACE FUNCTION telegram_gateway.ingest(events json) RETURNS bigint
-- In PL/pgSQL because that keeps the plan: a batch of one costs a third of what it does in plain SQL.
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    new_rows bigint;
    again json;
BEGIN
    WITH event AS MATERIALIZED (
        SELECT *
        FROM ROWS FROM (json_to_recordset(events) AS (
            id text, kind text, account text, account_scope bigint, channel_id text, chat_type text,
            chat_title text, chat_username text, message_id bigint, thread_id bigint, grouped_id bigint,
            reply_to jsonb, forward jsonb, sender json, text text, caption text, entities jsonb,
            media_type text, media jsonb, telegram_date timestamptz, edit_date timestamptz,
            received_at timestamptz, source text, message_type text, metadata jsonb, derived boolean
        )) WITH ORDINALITY AS e (
            id, kind, account, account_scope, channel_id, chat_type,
            chat_title, chat_username, message_id, thread_id, grouped_id,
            reply_to, forward, sender, text, caption, entities,
            media_type, media, telegram_date, edit_date,
            received_at, source, message_type, metadata, derived, position
        )
    ),
    stored AS (
        INSERT INTO telegram_gateway.messages (
            account_scope, channel_id, message_id, telegram_date, event_id, account, chat_type, chat_title,
            chat_username, thread_id, grouped_id, reply_to, forward, sender_id, sender_name, sender_username,
            text, caption, entities, media_type, media, edit_date, received_at, source, message_type, metadata
        )
        SELECT
            account_scope, channel_id, message_id, telegram_date, id, account, chat_type, chat_title,
            chat_username, thread_id, grouped_id, reply_to, forward,
            (sender ->> 'id')::bigint, sender ->> 'name', sender ->> 'username',
            text, caption, entities, media_type, media, edit_date, received_at, source, message_type,
            coalesce(metadata, '{}')
        FROM event
        WHERE kind = 'message.new'
        ON CONFLICT DO NOTHING
        RETURNING account_scope, channel_id, message_id, telegram_date, edit_date
    ),
    revised AS (
        INSERT INTO telegram_gateway.message_revisions (
            event_id, kind, account_scope, channel_id, message_id, telegram_date, account, chat_type, chat_title,
            chat_username, thread_id, grouped_id, reply_to, forward, sender_id, sender_name, sender_username,
            text, caption, entities, media_type, media, edit_date, received_at, source, message_type, metadata
        )
        SELECT
            id, kind, account_scope, channel_id, message_id, telegram_date, account, chat_type, chat_title,
            chat_username, thread_id, grouped_id, reply_to, forward,
            (sender ->> 'id')::bigint, sender ->> 'name', sender ->> 'username',
            text, caption, entities, media_type, media, edit_date, received_at, source, message_type,
            coalesce(metadata, '{}')
        FROM event
        -- Also a kind that no one knows: the table's check then refuses it, rather than this filter losing it.
        WHERE kind IS DISTINCT FROM 'message.new' AND derived IS NOT TRUE
        ORDER BY position
        ON CONFLICT DO NOTHING
        RETURNING 1
    ),
    chat AS (
        SELECT
            account_scope, channel_id,
            -- Deletions carry no title.
            coalesce(max(position) FILTER (WHERE chat_title IS NOT NULL), max(position)) AS position,
            min(message_id) FILTER (WHERE kind = 'message.new') AS first_id,
            max(message_id) FILTER (WHERE kind = 'message.new') AS last_id,
            min(telegram_date) FILTER (WHERE kind = 'message.new') AS first_date,
            max(telegram_date) FILTER (WHERE kind = 'message.new') AS last_date
        FROM event
        WHERE derived IS NOT TRUE
        GROUP BY account_scope, channel_id
    ),
    seen AS (
        INSERT INTO telegram_gateway.channels AS c (
            account_scope, id, title, username, type,
            first_message_id, first_message_date, last_message_id, last_message_date, seen_at
        )
        SELECT
            event.account_scope, event.channel_id, chat_title, chat_username, chat_type,
            first_id, first_date, last_id, last_date, received_at
        FROM chat
        JOIN event USING (position)
        -- One order for all writers, so that two gateways cannot lock each other's chats crosswise.
        ORDER BY event.account_scope, event.channel_id
        ON CONFLICT (account_scope, id) DO UPDATE
        SET title = CASE WHEN excluded.seen_at >= c.seen_at THEN coalesce(excluded.title, c.title) ELSE c.title END,
            username = CASE WHEN excluded.seen_at >= c.seen_at AND excluded.title IS NOT NULL
                            THEN excluded.username ELSE c.username END,
            type = CASE WHEN excluded.seen_at >= c.seen_at THEN excluded.type ELSE c.type END,
            first_message_id = least(c.first_message_id, excluded.first_message_id),
            first_message_date = least(c.first_message_date, excluded.first_message_date),
            last_message_id = greatest(c.last_message_id, excluded.last_message_id),
            last_message_date = greatest(c.last_message_date, excluded.last_message_date),
            seen_at = greatest(c.seen_at, excluded.seen_at),
            updated_at = now()
        WHERE excluded.last_message_id > coalesce(c.last_message_id, 0)
           OR excluded.first_message_id < c.first_message_id
           OR (excluded.seen_at >= c.seen_at AND excluded.title IS NOT NULL
               AND (excluded.title, excluded.username, excluded.type) IS DISTINCT FROM (c.title, c.username, c.type))
    )
    SELECT
        (SELECT count(*) FROM stored) + (SELECT count(*) FROM revised),
        (
            SELECT json_agg(event ORDER BY position) FROM event
            WHERE derived AND NOT EXISTS (
                SELECT FROM stored s
                WHERE (s.account_scope, s.channel_id, s.message_id, s.telegram_date, s.edit_date)
                    = (event.account_scope, event.channel_id, event.message_id, event.telegram_date, event.edit_date)
            )
        )
    INTO new_rows, again;
    -- In statements of their own, which see a message that another gateway stored while the one above waited for it.
    -- Where a message is new, as nearly always, there is nothing to look up.
    IF again IS NOT NULL THEN
        new_rows := new_rows + telegram_gateway.ingest(telegram_gateway.missed_edits(again));
    END IF;
    RETURN new_rows;
END
$$;
