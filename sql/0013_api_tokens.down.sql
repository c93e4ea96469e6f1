DROP TABLE telegram_gateway.api_tokens;
