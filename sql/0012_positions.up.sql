-- Where the gateway that runs an account stands with it, for the next host whose journal knows nothing of it.
-- Written by the holder of the user's lease only, for what every sink has already taken.

CREATE TABLE telegram_gateway.account_positions (
    lease   text PRIMARY KEY,
    epoch   bigint NOT NULL,
    pts     integer NOT NULL,
    date    timestamptz NOT NULL,
    left_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE telegram_gateway.chat_positions (
    lease    text NOT NULL,
    chat     bigint NOT NULL,
    position jsonb NOT NULL,
    PRIMARY KEY (lease, chat)
) WITH (fillfactor = 70);

COMMENT ON COLUMN telegram_gateway.account_positions.pts IS
    'Telegram''s count of what happened in private chats and basic groups, as far as it was captured.';
COMMENT ON COLUMN telegram_gateway.account_positions.left_at IS
    'When the holder last wrote this; another host would fetch again what came since.';
COMMENT ON COLUMN telegram_gateway.chat_positions.chat IS
    'The marked id; 0 stands for the message ids that private chats and basic groups share.';
COMMENT ON COLUMN telegram_gateway.chat_positions.position IS
    'The channel''s own pts, and from the ledger of the holder''s journal the known ids and the open gaps.';
