-- What people ask of running gateways: which chats are captured, and to compare with Telegram now.

-- Hidden chats are left out of lists; their messages stay. The version counts what people changed.
ALTER TABLE telegram_gateway.channels
    ADD COLUMN hidden_at timestamptz,
    ADD COLUMN switched_at timestamptz,
    ADD COLUMN version integer NOT NULL DEFAULT 0;

-- Asked for by every gateway every two seconds.
CREATE INDEX channels_switched_off ON telegram_gateway.channels (account_scope, id) WHERE NOT is_active;

COMMENT ON COLUMN telegram_gateway.channels.is_active IS
    'Whether the chat is captured. Set by people; gateways obey it within seconds and never change it.';
COMMENT ON COLUMN telegram_gateway.channels.hidden_at IS 'When the chat was taken off the list.';
COMMENT ON COLUMN telegram_gateway.channels.version IS 'How often people changed the row; gateways do not count.';

CREATE TABLE telegram_gateway.sync_requests (
    id            uuid NOT NULL,
    -- Whose gateway takes it: the name of a user's lease, or empty for whichever can.
    lease         text NOT NULL,
    account_scope bigint NOT NULL DEFAULT 0,
    channel_id    text,
    since         timestamptz,
    state         text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed')),
    requested_by  text NOT NULL,
    requested_at  timestamptz NOT NULL DEFAULT now(),
    taken_by      text,
    renewed_at    timestamptz,
    started_at    timestamptz,
    finished_at   timestamptz,
    attempts      integer NOT NULL DEFAULT 0,
    result        jsonb NOT NULL DEFAULT '{}',
    error         text,
    PRIMARY KEY (id, lease)
) WITH (fillfactor = 50);

CREATE INDEX sync_requests_open ON telegram_gateway.sync_requests (requested_at) WHERE state IN ('pending', 'running');

COMMENT ON COLUMN telegram_gateway.sync_requests.renewed_at IS
    'When the gateway that took it last said that it works on it; another takes it when that is long ago.';
