DROP TABLE telegram_gateway.messages;
DROP FUNCTION telegram_gateway.refuse_update();
DROP FUNCTION telegram_gateway.has_timescaledb();
