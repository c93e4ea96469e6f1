-- The role and the database, once per cluster, as superuser; running it again sets the password anew.
--   TELEGRAM_DB_PASSWORD_FILE=/path psql -v ON_ERROR_STOP=1 -d postgres -f bootstrap.sql
-- The password is read from the file by psql, so that it is in no command line; tables are `db migrate`'s.
\set password `cat "$TELEGRAM_DB_PASSWORD_FILE"`

SELECT 'CREATE ROLE telegram LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'telegram') \gexec

-- Nothing between these two lines may show the password in the server's log.
SET log_min_duration_statement = -1;
ALTER ROLE telegram PASSWORD :'password';
RESET log_min_duration_statement;

-- Role settings, because a transaction pooler passes neither startup parameters nor SET through.
ALTER ROLE telegram SET jit = off;
ALTER ROLE telegram SET statement_timeout = '30s';
ALTER ROLE telegram SET lock_timeout = '10s';
ALTER ROLE telegram SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE telegram SET timezone = 'UTC';

SELECT 'CREATE DATABASE telegram_gateway OWNER telegram TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C.UTF-8'''
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'telegram_gateway') \gexec

-- The exporter looks with this role at what other sessions do.
GRANT pg_monitor TO telegram;

REVOKE CONNECT ON DATABASE telegram_gateway FROM PUBLIC;
GRANT CONNECT ON DATABASE telegram_gateway TO telegram;

\connect telegram_gateway
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
SELECT 'CREATE EXTENSION IF NOT EXISTS timescaledb'
WHERE EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
  AND current_setting('shared_preload_libraries') LIKE '%timescaledb%' \gexec
