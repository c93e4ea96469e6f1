-- The chats that messages come from. Upserted with every batch, so it has room in its pages for that.

CREATE TABLE telegram_gateway.channels (
    account_scope      bigint NOT NULL,
    id                 text NOT NULL,
    title              text,
    username           text,
    type               text NOT NULL,
    is_active          boolean NOT NULL DEFAULT true,
    first_message_id   bigint,
    first_message_date timestamptz,
    last_message_id    bigint,
    last_message_date  timestamptz,
    seen_at            timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_scope, id)
) WITH (fillfactor = 50);

COMMENT ON COLUMN telegram_gateway.channels.is_active IS 'Set by people; the gateway never changes it.';
COMMENT ON COLUMN telegram_gateway.channels.seen_at IS
    'received_at of the event that this row was last updated from: a replayed older event does not bring an old title back.';
