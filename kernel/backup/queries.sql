-- name: find_migration_table
SELECT to_regclass('tiercel.migration') IS NOT NULL

-- name: list_applied
SELECT id FROM tiercel.migration ORDER BY id

-- name: describe_server
-- With the role's power, and the size of the databases that it may connect to.
SELECT current_setting('server_version_num')::integer,
       current_setting('server_version'),
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE has_database_privilege(oid, 'CONNECT'))

-- name: create_timescaledb
CREATE EXTENSION IF NOT EXISTS timescaledb VERSION {version}

-- name: prepare_timescaledb
SELECT timescaledb_pre_restore()

-- name: finish_timescaledb
SELECT timescaledb_post_restore()
