-- name: detect_engine
SELECT current_setting('server_version'),
       current_setting('server_version_num'),
       current_database(),
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
       current_setting('timescaledb.license', true)

-- name: configure_session
SELECT set_config('TimeZone', 'UTC', false),
       -- Partitions are pruned by the time range of a query, so plan each with its values.
       set_config('plan_cache_mode', 'force_custom_plan', false),
       -- Ten times the default: starting parallel workers takes milliseconds on every core, which other requests need.
       set_config('parallel_setup_cost', '10000', false),
       -- TimescaleDB refuses statements that decompress more rows than this, however often they are retried; 0 is no
       -- limit, as the statement timeout is one. Versions before 2.11 do not have the setting.
       CASE WHEN current_setting('timescaledb.max_tuples_decompressed_per_dml_transaction', true) IS NOT NULL
            THEN set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', false) END

-- name: set_session_timeouts
SELECT set_config('statement_timeout', %(timeout_ms)s, false),
       set_config('idle_in_transaction_session_timeout', %(timeout_ms)s, false)

-- name: set_transaction_timeouts
SELECT set_config('statement_timeout', %(timeout_ms)s, true),
       set_config('idle_in_transaction_session_timeout', %(timeout_ms)s, true)

-- name: begin_repeatable_read
BEGIN ISOLATION LEVEL REPEATABLE READ

-- name: show_read_only
SHOW transaction_read_only

-- name: ping
SELECT 1

-- name: listen
LISTEN {channel}

-- name: notify
SELECT pg_notify(%(channel)s, %(payload)s)

-- name: count_listeners
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %(listener)s

-- name: insert_cache_report
INSERT INTO tiercel.cache_report (request, process, pid, caches)
VALUES (%(request)s, %(process)s, %(pid)s, %(caches)s)

-- name: list_cache_reports
SELECT process, pid, reported_at, caches
FROM tiercel.cache_report
WHERE request = %(request)s
ORDER BY process, pid

-- name: delete_cache_reports
-- Includes those of requests whose clients have disconnected.
DELETE FROM tiercel.cache_report WHERE request = %(request)s OR reported_at < now() - interval '1 hour'

-- name: enable_connection_check
-- Otherwise a statement of a killed process runs to its end, for hours perhaps, and keeps the lock.
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

-- name: list_migrations
SELECT id, sha256 FROM tiercel.migration

-- name: insert_migration
INSERT INTO tiercel.migration (id, sha256) VALUES (%(id)s, %(sha256)s)

-- name: has_migration_table
SELECT to_regclass('tiercel.migration') IS NOT NULL

-- name: create_database_from_template
CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY

-- name: drop_database
DROP DATABASE IF EXISTS {name} WITH (FORCE)
