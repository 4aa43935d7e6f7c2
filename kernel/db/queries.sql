-- name: detect_engine
SELECT current_setting('server_version'),
       current_setting('server_version_num'),
       current_database(),
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
       current_setting('timescaledb.license', true)

-- name: identify_session
SELECT pg_backend_pid()

-- name: identify_database
SELECT oid, datname, pg_postmaster_start_time() FROM pg_database WHERE datname = current_database()

-- name: set_time_zone
SELECT set_config('TimeZone', 'UTC', false)

-- name: has_decompression_limit
-- Versions of TimescaleDB before 2.11 do not have the setting.
SELECT current_setting('timescaledb.max_tuples_decompressed_per_dml_transaction', true) IS NOT NULL

-- name: configure
-- The extent is SESSION or LOCAL, for a transaction. SET, unlike set_config(), takes no snapshot, before which LOCK and
-- SET TRANSACTION have to come.
SET {extent} TimeZone = 'UTC';
-- Partitions are pruned by the time range of a query, so plan each with its values.
SET {extent} plan_cache_mode = 'force_custom_plan';
-- Ten times the default: starting parallel workers takes milliseconds on every core, which other requests need.
SET {extent} parallel_setup_cost = 10000;
SET {extent} statement_timeout = {timeout_ms};
SET {extent} idle_in_transaction_session_timeout = {timeout_ms};
SET {extent} tiercel.account = {account};
SET {extent} tiercel.sites = {sites};

-- name: lift_decompression_limit
-- TimescaleDB refuses statements that decompress more rows than this, however often they are retried; 0 is no limit, as
-- the statement timeout is one.
SET {extent} timescaledb.max_tuples_decompressed_per_dml_transaction = 0;

-- name: set_account_scope
SELECT set_config('tiercel.account', %(account)s, false), set_config('tiercel.sites', %(sites)s, false)

-- name: lift_account_scope
SELECT set_config('tiercel.account', '', true), set_config('tiercel.sites', '', true)

-- name: set_session_timeouts
SELECT set_config('statement_timeout', %(timeout_ms)s, false),
       set_config('idle_in_transaction_session_timeout', %(timeout_ms)s, false)

-- name: set_transaction_timeouts
SELECT set_config('statement_timeout', %(timeout_ms)s, true),
       set_config('idle_in_transaction_session_timeout', %(timeout_ms)s, true)

-- name: begin
BEGIN;

-- name: begin_repeatable_read
BEGIN ISOLATION LEVEL REPEATABLE READ;

-- name: try_lock_session
SELECT pg_try_advisory_lock(hashtext(%(name)s))

-- name: unlock_session
SELECT pg_advisory_unlock(hashtext(%(name)s))

-- name: try_lock_transaction
SELECT pg_try_advisory_xact_lock(hashtext({name}))

-- name: show_read_only
SHOW transaction_read_only

-- name: measure_database
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('max_connections')::integer

-- name: size_of_database
SELECT pg_database_size(current_database())

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
SELECT pg_try_advisory_lock({key})

-- name: try_migration_lock_in_transaction
SELECT pg_try_advisory_xact_lock({key})

-- name: allow_idle_transaction
SELECT set_config('idle_in_transaction_session_timeout', '0', true)

-- name: create_extension_timescaledb
-- Only where the server has loaded it; elsewhere CREATE EXTENSION ends the session. shared_preload_libraries is shown to few
-- roles, but a setting of the loader to all.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
       AND current_setting('timescaledb.disable_load', true) IS NOT NULL THEN
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

-- name: add_compatible
-- Version 0.1.0 made the table without it. IF NOT EXISTS alone would lock the table each time.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'tiercel.migration'::regclass AND attname = 'compatible') THEN
        ALTER TABLE tiercel.migration ADD COLUMN compatible text;
    END IF;
END
$$

-- name: set_lock_timeout
SELECT set_config('lock_timeout', %(timeout_ms)s::text, true)

-- name: create_kernel_schema
-- IF NOT EXISTS needs the privilege to create schemas even where somebody else created this one.
DO $$
BEGIN
    IF to_regnamespace('tiercel') IS NULL THEN
        CREATE SCHEMA tiercel;
    END IF;
END
$$

-- name: find_missing_privileges
-- What the current role lacks to apply migrations: to create those of the schemas that do not exist, to create objects in
-- those that do, and to change the objects in them, which only a member of the owning role may.
WITH wanted AS (
    SELECT name, to_regnamespace(quote_ident(name))::oid AS oid FROM unnest(%(schemas)s::text[]) AS name
), object AS (
    SELECT relnamespace AS schema, relowner AS owner FROM pg_class
    UNION SELECT pronamespace, proowner FROM pg_proc
)
SELECT 'database' AS kind, quote_ident(current_database()) AS name, NULL AS owner
WHERE EXISTS (SELECT FROM wanted WHERE oid IS NULL) AND NOT has_database_privilege(current_database(), 'CREATE')
UNION ALL
SELECT 'schema', quote_ident(wanted.name), quote_ident(pg_get_userbyid(nspowner))
FROM wanted JOIN pg_namespace USING (oid)
WHERE NOT (has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE'))
UNION ALL
SELECT 'objects', quote_ident(wanted.name), quote_ident(pg_get_userbyid(owner))
FROM wanted JOIN object ON object.schema = wanted.oid
WHERE NOT pg_has_role(owner, 'USAGE')
ORDER BY 1, 2, 3

-- name: find_role
SELECT quote_ident(current_user), quote_ident(current_database())

-- name: find_unusable
-- Schemas of which the current role may not use a table, and whether it may not create temporary tables.
SELECT 'schema' AS kind, quote_ident(nspname) AS name
FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid
WHERE nspname = ANY (%(schemas)s) AND relkind IN ('r', 'p') AND NOT relispartition AND NOT (
    has_schema_privilege(pg_namespace.oid, 'USAGE') AND has_table_privilege(pg_class.oid, 'SELECT')
    AND has_table_privilege(pg_class.oid, 'INSERT') AND has_table_privilege(pg_class.oid, 'UPDATE')
    AND has_table_privilege(pg_class.oid, 'DELETE'))
GROUP BY 2
UNION ALL
SELECT 'temporary', NULL WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
ORDER BY 1, 2

-- name: find_timescaledb
-- Whether the server has loaded TimescaleDB, this database has it, the current role may create it, and the service has
-- applied migrations without it.
SELECT current_setting('timescaledb.disable_load', true) IS NOT NULL,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb'),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       OR (NOT superuser OR trusted) AND has_database_privilege(current_database(), 'CREATE'),
       EXISTS (SELECT FROM pg_tables WHERE schemaname = 'tiercel' AND tablename = 'migration')
FROM pg_available_extensions AS available
JOIN pg_available_extension_versions AS version ON version.name = available.name AND version = default_version
WHERE available.name = 'timescaledb'

-- name: list_own_schemas
-- Of the schemas that migrations create, those that were created: a migration of their owner was applied.
SELECT DISTINCT wanted.schema
FROM unnest(%(schemas)s::text[], %(owners)s::text[]) AS wanted (schema, owner)
JOIN tiercel.migration ON split_part(id, '/', 1) = wanted.owner
WHERE to_regnamespace(quote_ident(wanted.schema)) IS NOT NULL
ORDER BY 1

-- name: count_own_sessions
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND starts_with(application_name, 'tiercel') AND pid <> pg_backend_pid()

-- name: drop_schemas
DROP SCHEMA {schemas} CASCADE

-- name: list_migrations
-- NULL where the table does not have the column yet: only migrating changes it.
SELECT id, sha256, to_jsonb(migration) ->> 'compatible' FROM tiercel.migration

-- name: insert_migration
INSERT INTO tiercel.migration (id, sha256, compatible) VALUES (%(id)s, %(sha256)s, %(compatible)s)

-- name: has_migration_table
SELECT to_regclass('tiercel.migration') IS NOT NULL

-- name: create_database_from_template
CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY

-- name: drop_database
DROP DATABASE IF EXISTS {name} WITH (FORCE)
