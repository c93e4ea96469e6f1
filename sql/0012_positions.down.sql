DROP TABLE telegram_gateway.chat_positions;
DROP TABLE telegram_gateway.account_positions;
