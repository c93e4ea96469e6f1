DROP VIEW telegram_gateway.messages_current;
DROP TABLE telegram_gateway.message_revisions;
