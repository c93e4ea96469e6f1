-- Who may use the REST API. A token itself is never stored: it is 256 random bits, so that its SHA-256 can be
-- neither guessed nor looked up, and a slow password hash would only cost every request its time.

CREATE TABLE telegram_gateway.api_tokens (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL,
    prefix       text NOT NULL,
    hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'process', 'admin']),
    chats        text[] CHECK (cardinality(chats) > 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);

CREATE UNIQUE INDEX api_tokens_name ON telegram_gateway.api_tokens (name) WHERE revoked_at IS NULL;

COMMENT ON COLUMN telegram_gateway.api_tokens.prefix IS 'The first characters of the token, to recognise it by.';
COMMENT ON COLUMN telegram_gateway.api_tokens.chats IS
    'The chats it may see, as channel_id or scope/channel_id; null for all.';
COMMENT ON COLUMN telegram_gateway.api_tokens.last_used_at IS 'To the minute: not every request is written down.';
