DROP TABLE telegram_gateway.sync_requests;
DROP INDEX telegram_gateway.channels_switched_off;
ALTER TABLE telegram_gateway.channels DROP COLUMN hidden_at, DROP COLUMN switched_at, DROP COLUMN version;
COMMENT ON COLUMN telegram_gateway.channels.is_active IS 'Set by people; the gateway never changes it.';
