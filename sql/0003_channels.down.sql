DROP TABLE telegram_gateway.channels;
