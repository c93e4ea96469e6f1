DROP VIEW telegram_gateway.event_log;
DROP INDEX telegram_gateway.messages_by_receipt;
