"""PostgreSQL, PgBouncer, Redis and RabbitMQ from Debian's packages, in one throw-away directory."""
