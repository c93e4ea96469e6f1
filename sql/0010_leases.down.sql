DROP TABLE telegram_gateway.account_leases;
