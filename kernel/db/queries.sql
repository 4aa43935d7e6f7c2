-- name: detect_engine
SELECT current_setting('server_version'),
       current_setting('server_version_num'),
       current_database(),
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
       current_setting('timescaledb.license', true)

-- name: configure_session
SELECT set_config('TimeZone', 'UTC', false),
       -- The functions of the job queue do not say where their tables are.
       set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), 'procrastinate'), false),
       -- Time windows decide which partitions are read: plan with the values at hand unless a transaction says otherwise.
       set_config('plan_cache_mode', 'force_custom_plan', false),
       -- Ten times what PostgreSQL takes by default: to start workers takes milliseconds, of every core, while others
       -- wait for one.
       set_config('parallel_setup_cost', '10000', false),
       -- Beyond this many rows TimescaleDB refuses to change what lies in columns, however often one tries. Statements
       -- that take too long have a timeout. Versions before 2.11 have no such limit.
       CASE WHEN current_setting('timescaledb.max_tuples_decompressed_per_dml_transaction', true) IS NOT NULL
            THEN set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', false) END

-- name: configure_timeouts
SELECT set_config('statement_timeout', %(timeout_ms)s, false),
       set_config('idle_in_transaction_session_timeout', %(timeout_ms)s, false)

-- name: configure_transaction
SELECT set_config('statement_timeout', %(timeout_ms)s, true),
       set_config('idle_in_transaction_session_timeout', %(timeout_ms)s, true)

-- name: begin_at_one_moment
BEGIN ISOLATION LEVEL REPEATABLE READ

-- name: is_read_only
SHOW transaction_read_only

-- name: ping
SELECT 1

-- name: notice_dead_client
-- Otherwise a statement goes on for hours after its process was killed, and keeps the lock.
SELECT set_config('client_connection_check_interval', '1s', false)

-- name: try_migration_lock
SELECT pg_try_advisory_lock(%(key)s)

-- name: create_extension_timescaledb
-- Only where the server has loaded it; installing it elsewhere would fail.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
       AND current_setting('shared_preload_libraries') LIKE '%timescaledb%' THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'timescaledb is available, but this role may not create it';
END
$$

-- name: create_migration_table
CREATE TABLE IF NOT EXISTS tiercel.migration (
    id         text        PRIMARY KEY,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: create_kernel_schema
CREATE SCHEMA IF NOT EXISTS tiercel

-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema}

-- name: set_search_path
SELECT set_config('search_path', %(schema)s, true)

-- name: list_migrations
SELECT id, sha256 FROM tiercel.migration

-- name: insert_migration
INSERT INTO tiercel.migration (id, sha256) VALUES (%(id)s, %(sha256)s)

-- name: has_migration_table
SELECT to_regclass('tiercel.migration') IS NOT NULL

-- name: find_role
SELECT FROM pg_roles WHERE rolname = %(name)s

-- name: create_role
CREATE ROLE {name} LOGIN CREATEDB

-- name: find_database
SELECT FROM pg_database WHERE datname = %(name)s

-- name: create_database
CREATE DATABASE {name} OWNER {name}

-- name: create_database_from
CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY

-- name: drop_database
DROP DATABASE IF EXISTS {name} WITH (FORCE)
