-- TP Capital's own table: what its worker read out of messages. In a schema of its own, as any consumer's should
-- be; the gateway itself knows nothing of it.

CREATE SCHEMA tp_capital;

CREATE TABLE tp_capital.signals (
    account_scope bigint NOT NULL,
    channel_id    text NOT NULL,
    message_id    bigint NOT NULL,
    event_id      text NOT NULL,
    ticker        text,
    buy_min       numeric CHECK (buy_min > 0),
    buy_max       numeric CHECK (buy_max >= buy_min),
    targets       numeric[] NOT NULL DEFAULT '{}',
    stop          numeric CHECK (stop > 0),
    withdrawn     text,
    signal_date   timestamptz,
    revised_at    timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    source        text NOT NULL,
    mode          text NOT NULL,
    stored_at     timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_scope, channel_id, message_id),
    CHECK ((buy_min IS NULL) = (buy_max IS NULL)),
    CHECK (ticker IS NOT NULL OR withdrawn = 'deleted'),
    CHECK (ticker IS NULL OR buy_min IS NOT NULL OR (cardinality(targets) > 0 AND stop IS NOT NULL))
);

CREATE INDEX signals_by_date ON tp_capital.signals (signal_date DESC) WHERE withdrawn IS NULL;
CREATE INDEX signals_by_ticker ON tp_capital.signals (ticker, signal_date DESC) WHERE withdrawn IS NULL;

COMMENT ON TABLE tp_capital.signals IS 'One row per message, as its newest revision says.';
COMMENT ON COLUMN tp_capital.signals.event_id IS 'The revision of the message that the row was last written from.';
COMMENT ON COLUMN tp_capital.signals.ticker IS
    'Null where a message was deleted before its signal was read: should it still come, it stays withdrawn.';
COMMENT ON COLUMN tp_capital.signals.targets IS 'In their order, the final one last.';
COMMENT ON COLUMN tp_capital.signals.withdrawn IS
    'Why the signal no longer counts: deleted, or why the message''s newest revision is no signal. Null while it does.';
COMMENT ON COLUMN tp_capital.signals.signal_date IS 'When the message was posted.';
COMMENT ON COLUMN tp_capital.signals.revised_at IS
    'With received_at, the order of revisions: when the message was last edited, or posted.';
COMMENT ON COLUMN tp_capital.signals.source IS 'How the gateway came by the message: mtproto, backfill, …';
COMMENT ON COLUMN tp_capital.signals.mode IS 'How the worker that wrote the row ran: polling, queue or hybrid.';

CREATE VIEW tp_capital.active_signals AS
SELECT account_scope, channel_id, message_id, ticker, buy_min, buy_max, targets, stop, signal_date, revised_at
FROM tp_capital.signals
WHERE withdrawn IS NULL;
