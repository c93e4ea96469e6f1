DROP FUNCTION telegram_gateway.record_processing(text, bigint, text, bigint, text, text);
DROP TABLE telegram_gateway.message_processing;
