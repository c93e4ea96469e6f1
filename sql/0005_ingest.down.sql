DROP FUNCTION telegram_gateway.ingest(json);
