"""The statements that read messages. A page is first the keys of its messages, then their content.

Conditions whose parameter is null fall away when PostgreSQL plans, which it does anew for each execution.
"""

from gateway.read.statement import Statement, ordered

# The comparison of dates alone is what names the chunks to read.
_PARTS = {
    "in_range": """
        ($chat::text IS NULL OR (m.channel_id = $chat AND m.account_scope = $scope::bigint))
        AND ($message::bigint IS NULL OR m.message_id = $message)
        AND ($since::timestamptz IS NULL OR m.telegram_date >= $since)
        AND ($until::timestamptz IS NULL OR m.telegram_date < $until)
        AND ($at_date::timestamptz IS NULL OR m.telegram_date ⪯ $at_date
             AND (m.telegram_date, m.channel_id, m.account_scope, m.message_id)
               ≺ ($at_date, $at_chat::text, $at_scope::bigint, $at_message::bigint))
    """,
    "visible": """
        ($chats::text[] IS NULL OR (m.channel_id, m.account_scope)
            IN (SELECT * FROM unnest($chats, $scopes::bigint[])))
    """,
    "from_source": "($source::text IS NULL OR m.source = $source)",
    "key": "m.telegram_date, m.channel_id, m.account_scope, m.message_id",
    "in_order": "ORDER BY telegram_date ORDER, channel_id ORDER, account_scope ORDER, message_id ORDER",
    "first": "{in_order} LIMIT $limit::integer",
    "content": """
        SELECT k.telegram_date AS at_date, k.channel_id AS at_chat, k.account_scope AS at_scope,
            k.message_id AS at_message, p.status AS processing_status, p.attempts, p.error, p.at, m.*
    """,
    "of_keys": """
        FROM k
        LEFT JOIN LATERAL (
            SELECT * FROM telegram_gateway.messages_newest m
            WHERE (m.account_scope, m.channel_id, m.message_id, m.telegram_date)
                = (k.account_scope, k.channel_id, k.message_id, k.telegram_date)
            LIMIT 1
        ) m ON true
        LEFT JOIN telegram_gateway.message_processing p
            ON (p.consumer, p.account_scope, p.channel_id, p.message_id)
             = ($consumer::text, k.account_scope, k.channel_id, k.message_id)
    """,
    "sorted": "ORDER BY k.telegram_date ORDER, k.channel_id ORDER, k.account_scope ORDER, k.message_id ORDER",
    "walked": """
        SELECT {key}, m.source FROM telegram_gateway.messages m
        WHERE {in_range} AND {visible}
        {in_order}
    """,
    "found": """
        {content},
            ts_headline(
                'pg_catalog.portuguese',
                -- What the parser would take for markup or compounds, and our marks, each for a space.
                translate(
                    telegram_gateway.fold_accents(coalesce(m.text, m.caption)), E'<>-\\x02\\x03', '     '
                ),
                {query},
                E'HighlightAll=true, StartSel=\\x02, StopSel=\\x03'
            ) AS headline,
            {document} @@ {query} AND ($status::text IS NULL OR coalesce(p.status = $status, false)) AS wanted
        {of_keys} {sorted}
    """,
    "document": "telegram_gateway.search_document(m.text, m.caption)",
    "query": "telegram_gateway.search_query($words)",
    "named": "($scope::bigint, $chat::text, $message::bigint)",
}

MESSAGES = ordered(
    """
WITH k AS MATERIALIZED (
    SELECT {key} FROM telegram_gateway.messages m
    WHERE {in_range} AND {from_source}
    {first}
)
{content} {of_keys} {sorted}
""",
    _PARTS,
)

# A few chats, which whoever asks may see: the first of each, by its own index.
MESSAGES_OF_CHATS = ordered(
    """
WITH k AS MATERIALIZED (
    SELECT m.* FROM unnest($chats::text[], $scopes::bigint[]) c (channel_id, account_scope)
    CROSS JOIN LATERAL (
        SELECT {key} FROM telegram_gateway.messages m
        WHERE m.channel_id = c.channel_id AND m.account_scope = c.account_scope
          AND {in_range} AND {from_source}
        {first}
    ) m
    {first}
)
{content} {of_keys} {sorted}
""",
    _PARTS,
)

# Of what is rare: all that the consumer noted so, in order of its date.
MESSAGES_NOTED = ordered(
    """
WITH k AS MATERIALIZED (
    SELECT {key}
    FROM telegram_gateway.message_processing p
    JOIN telegram_gateway.message_arrivals m USING (account_scope, channel_id, message_id)
    WHERE p.consumer = $consumer AND p.status = $status AND {in_range} AND {visible}
    {first}
)
{content} {of_keys} {sorted}
""",
    _PARTS,
)

# Of what most messages are: those among the next ones of all.
MESSAGES_DONE = ordered(
    """
WITH k AS MATERIALIZED (
    SELECT {key}
    FROM ({walked} LIMIT $walk::integer) m
    CROSS JOIN LATERAL (
        SELECT * FROM telegram_gateway.message_processing p
        WHERE (p.consumer, p.account_scope, p.channel_id, p.message_id)
            = ($consumer, m.account_scope, m.channel_id, m.message_id)
        LIMIT 1
    ) p
    WHERE p.status = $status AND {from_source}
    {first}
)
{content} {of_keys} {sorted}
""",
    _PARTS,
)
LAST_WALKED = ordered(
    """
SELECT
    k.telegram_date AS at_date, k.channel_id AS at_chat, k.account_scope AS at_scope,
    k.message_id AS at_message
FROM ({walked} OFFSET $walk::integer - 1 LIMIT 1) k
""",
    _PARTS,
)

# What PostgreSQL expects of a search: of all messages, and of those with the words.
SEARCH_ESTIMATE = Statement(
    """
EXPLAIN (FORMAT JSON)
WITH every AS MATERIALIZED (SELECT FROM telegram_gateway.messages),
said AS MATERIALIZED (SELECT FROM telegram_gateway.messages m WHERE {document} @@ {query})
SELECT FROM every UNION ALL SELECT FROM said
""",
    _PARTS,
)
# A message counts with what it says now. Rare words: all that ever said them, by index, then looked at.
SEARCH_RARE = ordered(
    """
WITH said AS MATERIALIZED (
    SELECT {key} FROM telegram_gateway.messages m
    WHERE {document} @@ {query} AND {in_range} AND {visible} AND {from_source}
),
edited AS MATERIALIZED (
    SELECT {key} FROM telegram_gateway.message_revisions m
    WHERE m.kind = 'message.edited' AND m.telegram_date IS NOT NULL AND {document} @@ {query}
      AND {in_range} AND {visible}
),
k AS MATERIALIZED (SELECT * FROM said UNION SELECT * FROM edited {first})
{found}
""",
    _PARTS,
)
# Common words: those of the next messages that say them now.
SEARCH_COMMON = ordered(
    """
WITH k AS MATERIALIZED (
    SELECT {key}
    FROM ({walked} LIMIT $walk::integer) m
    CROSS JOIN LATERAL (
        SELECT n.text, n.caption FROM telegram_gateway.messages_newest n
        WHERE (n.account_scope, n.channel_id, n.message_id, n.telegram_date)
            = (m.account_scope, m.channel_id, m.message_id, m.telegram_date)
        LIMIT 1
    ) n
    WHERE telegram_gateway.search_document(n.text, n.caption) @@ {query} AND {from_source}
    {first}
)
{found}
""",
    _PARTS,
)

MESSAGE = Statement(
    """
WITH k AS (
    SELECT * FROM telegram_gateway.message_arrivals
    WHERE (account_scope, channel_id, message_id) = {named}
)
{content} {of_keys}
""",
    _PARTS,
)
# Of a message from before the gateway's time there may be an edit.
MESSAGE_FROM_EDITS = Statement(
    """
SELECT r.*, r.source AS first_source, p.status AS processing_status, p.attempts, p.error, p.at,
    (SELECT received_at FROM telegram_gateway.message_revisions
     WHERE (account_scope, channel_id, message_id, kind) = ($scope, $chat, $message, 'message.deleted')
     LIMIT 1) AS deleted_at
FROM telegram_gateway.message_revisions r
LEFT JOIN telegram_gateway.message_processing p
    ON (p.consumer, p.account_scope, p.channel_id, p.message_id)
     = ($consumer::text, r.account_scope, r.channel_id, r.message_id)
WHERE (r.account_scope, r.channel_id, r.message_id, r.kind)
    = ($scope::bigint, $chat::text, $message::bigint, 'message.edited')
  AND NOT EXISTS (SELECT FROM telegram_gateway.message_arrivals
                  WHERE (account_scope, channel_id, message_id) = {named})
  AND NOT EXISTS (SELECT FROM telegram_gateway.hidden_messages
                  WHERE (account_scope, channel_id, message_id) = {named})
ORDER BY r.edit_date DESC, r.revision DESC
LIMIT 1
""",
    _PARTS,
)
REVISIONS = Statement(
    """
SELECT l.*
FROM telegram_gateway.message_arrivals a
CROSS JOIN LATERAL (
    SELECT * FROM telegram_gateway.event_log l
    WHERE (l.account_scope, l.channel_id, l.message_id, l.telegram_date)
        = (a.account_scope, a.channel_id, a.message_id, a.telegram_date) AND l.kind = 'message.new'
    LIMIT 1
) l
WHERE (a.account_scope, a.channel_id, a.message_id) = {named}
UNION ALL
SELECT * FROM telegram_gateway.event_log l
WHERE (l.account_scope, l.channel_id, l.message_id) = {named} AND l.kind <> 'message.new'
ORDER BY stage, place
LIMIT $limit::integer
""",
    _PARTS,
)
HIDE = Statement(
    """
INSERT INTO telegram_gateway.hidden_messages (account_scope, channel_id, message_id, hidden_by)
SELECT $scope::bigint, $chat::text, $message::bigint, $by::text
WHERE EXISTS (SELECT FROM telegram_gateway.message_arrivals
              WHERE (account_scope, channel_id, message_id) = {named})
   OR EXISTS (SELECT FROM telegram_gateway.message_revisions
              WHERE (account_scope, channel_id, message_id) = {named} AND kind = 'message.edited')
ON CONFLICT DO NOTHING
RETURNING true
""",
    _PARTS,
)
RESTORE = Statement(
    """
DELETE FROM telegram_gateway.hidden_messages
WHERE (account_scope, channel_id, message_id) = {named}
RETURNING true
""",
    _PARTS,
)
HIDDEN = Statement("SELECT channel_id, message_id, account_scope FROM telegram_gateway.hidden_messages")
