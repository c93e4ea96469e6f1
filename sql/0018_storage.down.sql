DROP FUNCTION telegram_gateway.storage();
