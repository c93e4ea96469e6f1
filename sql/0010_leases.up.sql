-- Which gateway may run an account: one row for each authorisation key and for each Telegram user.
-- Every change raises the epoch, so that a former holder sees that its time is over. No row expires by itself.

CREATE TABLE telegram_gateway.account_leases (
    name        text PRIMARY KEY,
    account     text NOT NULL,
    holder      text NOT NULL,
    epoch       bigint NOT NULL,
    acquired_at timestamptz,
    renewed_at  timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,
    previous    text
) WITH (fillfactor = 50);

COMMENT ON COLUMN telegram_gateway.account_leases.acquired_at IS
    'Null after a take-over by hand, until the new holder has begun.';
COMMENT ON COLUMN telegram_gateway.account_leases.renewed_at IS
    'When a gateway last said that it runs under this lease; a take-over by hand leaves it as it was.';
COMMENT ON COLUMN telegram_gateway.account_leases.previous IS
    'Whom the lease was taken from and who has not yet said that it stopped; the new holder waits for that.';
