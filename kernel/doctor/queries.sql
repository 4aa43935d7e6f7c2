-- name: limit_transaction
-- Of this transaction alone: a pooler may give the session to others after it.
SELECT set_config('statement_timeout', %(timeout_ms)s, true), set_config('lock_timeout', %(lock_timeout_ms)s, true)

-- name: describe_server
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS is_standby,
       pg_postmaster_start_time() AS started_at, pg_conf_load_time() AS configured_at, pg_database_size(current_database()) AS database_bytes,
       (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS transactions_since_freeze

-- name: list_extensions
SELECT extname AS name, extversion AS version FROM pg_extension ORDER BY 1

-- name: list_server_settings
-- Those that decide on speed, room and safety, and none that may hold a password or an address.
SELECT name, current_setting(name, true) AS value, source
FROM pg_settings
WHERE name = ANY ('{autovacuum,autovacuum_max_workers,checkpoint_timeout,default_transaction_read_only,effective_cache_size,fsync,
                    full_page_writes,jit,max_connections,max_locks_per_transaction,max_prepared_transactions,max_wal_size,
                    max_worker_processes,maintenance_work_mem,random_page_cost,reserved_connections,shared_buffers,
                    superuser_reserved_connections,synchronous_commit,wal_compression,wal_level,work_mem,
                    timescaledb.license,timescaledb.max_background_workers,track_io_timing}'::text[])
ORDER BY name

-- name: read_clock
SELECT clock_timestamp()

-- name: count_connections
SELECT CASE WHEN datname = current_database() THEN 'this' WHEN datname IS NULL THEN '(none)' ELSE 'others' END AS database,
       CASE WHEN datname = current_database() OR datname IS NULL THEN application_name END AS application,
       backend_type, state, count(*) AS connections,
       round(extract(epoch FROM clock_timestamp() - min(state_change)), 1)::float8 AS longest_in_state_s
FROM pg_stat_activity
GROUP BY 1, 2, 3, 4
ORDER BY connections DESC, 1, 2, 3, 4
LIMIT 60

-- name: list_statements
-- What runs now, or holds a transaction open, longest first.
SELECT pid, usename AS role, application_name AS application, state, wait_event_type, wait_event,
       round(extract(epoch FROM clock_timestamp() - query_start), 1)::float8 AS statement_s,
       round(extract(epoch FROM clock_timestamp() - xact_start), 1)::float8 AS transaction_s,
       query AS statement
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
ORDER BY xact_start NULLS LAST, query_start
LIMIT 30

-- name: find_statement_statistics
SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_stat_statements'

-- name: list_slow_statements
SELECT calls, round(total_exec_time::numeric, 1)::float8 AS total_ms, round(mean_exec_time::numeric, 2)::float8 AS mean_ms,
       round(max_exec_time::numeric, 1)::float8 AS max_ms, rows, shared_blks_read AS blocks_read, temp_blks_written,
       query AS statement
FROM {statistics}
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY total_exec_time DESC
LIMIT 20

-- name: list_waiting
SELECT waiting.pid, waiting.application_name AS application, wanted.locktype, wanted.mode,
       namespace.nspname || '.' || class.relname AS relation,
       round(extract(epoch FROM clock_timestamp() - waiting.query_start), 1)::float8 AS waits_s,
       pg_blocking_pids(waiting.pid) AS blocked_by, waiting.query AS statement
FROM pg_locks AS wanted
JOIN pg_stat_activity AS waiting ON waiting.pid = wanted.pid
LEFT JOIN pg_class AS class ON class.oid = wanted.relation AND waiting.datname = current_database()
LEFT JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE NOT wanted.granted
ORDER BY waits_s DESC
LIMIT 30

-- name: list_blocking
SELECT pid, usename AS role, application_name AS application, state,
       round(extract(epoch FROM clock_timestamp() - xact_start), 1)::float8 AS transaction_s, query AS statement
FROM pg_stat_activity
WHERE pid = ANY (%(pids)s)

-- name: list_tables
-- With what is partitioned, by a hypertable too, in one row. What somebody has locked exclusively cannot be measured without
-- waiting for him.
WITH RECURSIVE part AS (
    SELECT oid AS root, oid FROM pg_class
    WHERE relkind IN ('r', 'p', 'm') AND relnamespace <> ALL ('{pg_catalog,information_schema}'::regnamespace[])
      AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = pg_class.oid)
    UNION ALL
    SELECT root, inhrelid FROM part JOIN pg_inherits ON inhparent = part.oid
), measured AS (
    SELECT root, oid,
           oid IN (SELECT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL) AS is_locked
    FROM part
)
SELECT namespace.nspname || '.' || class.relname AS "table", count(*) FILTER (WHERE measured.oid <> root) AS partitions,
       coalesce(sum(CASE WHEN NOT is_locked THEN pg_table_size(measured.oid) END), 0)::bigint AS table_bytes,
       coalesce(sum(CASE WHEN NOT is_locked THEN pg_indexes_size(measured.oid) END), 0)::bigint AS index_bytes,
       count(*) FILTER (WHERE is_locked) AS locked_parts,
       sum(n_live_tup)::bigint AS rows_estimated, sum(n_dead_tup)::bigint AS rows_dead
FROM measured
JOIN pg_class AS class ON class.oid = root
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_stat_all_tables AS statistics ON statistics.relid = measured.oid
GROUP BY 1
ORDER BY count(*) FILTER (WHERE is_locked) DESC, sum(CASE WHEN NOT is_locked THEN pg_total_relation_size(measured.oid) END) DESC
LIMIT 60

-- name: list_indexes
SELECT namespace.nspname || '.' || class.relname AS "index", count(*) AS parts,
       sum(pg_relation_size(indexrelid))::bigint AS index_bytes, sum(idx_scan)::bigint AS scans
FROM pg_stat_user_indexes AS statistics
JOIN pg_class AS class ON class.oid = coalesce(pg_partition_root(indexrelid), indexrelid)
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE indexrelid NOT IN (SELECT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL)
GROUP BY 1
ORDER BY index_bytes DESC
LIMIT 40

-- name: list_dead_rows
SELECT schemaname || '.' || relname AS "table", n_live_tup AS rows_live, n_dead_tup AS rows_dead,
       last_vacuum, last_autovacuum, last_autoanalyze, n_mod_since_analyze AS modified_since_analyze
FROM pg_stat_user_tables
WHERE n_dead_tup > 0
ORDER BY n_dead_tup DESC
LIMIT 30

-- name: list_vacuums
SELECT pid, relid::regclass::text AS "table", phase, heap_blks_scanned AS blocks_scanned, heap_blks_total AS blocks
FROM pg_stat_progress_vacuum
WHERE datname = current_database()

-- name: has_timescaledb
SELECT FROM pg_extension WHERE extname = 'timescaledb'

-- name: list_hypertables
SELECT hypertable_schema || '.' || hypertable_name AS hypertable, count(*) AS chunks,
       count(*) FILTER (WHERE is_compressed) AS compressed, min(range_start) AS first, max(range_end) AS last
FROM timescaledb_information.chunks
GROUP BY 1
ORDER BY 1

-- name: list_policies
-- What never was has the time -infinity, which Python does not have.
SELECT job.job_id, job.proc_name AS policy, job.hypertable_name AS hypertable, job.scheduled, statistics.last_run_status,
       nullif(statistics.last_successful_finish, '-infinity') AS last_successful_finish, statistics.total_failures,
       nullif(statistics.next_start, '-infinity') AS next_start
FROM timescaledb_information.jobs AS job
LEFT JOIN timescaledb_information.job_stats AS statistics USING (job_id)
ORDER BY job.job_id

-- name: list_policy_failures
SELECT job_id, proc_name AS policy, finish_time AS failed_at, sqlerrcode AS sqlstate, err_message AS reason
FROM timescaledb_information.job_errors
ORDER BY finish_time DESC
LIMIT 20

-- name: list_applied
SELECT id, applied_at FROM tiercel.migration ORDER BY applied_at, id

-- name: count_jobs
SELECT name, state, count(*) AS jobs, min(due_at) FILTER (WHERE state = 'waiting') AS due_first
FROM tiercel.job_run
WHERE state IN ('waiting', 'running') OR finished_at > now() - interval '1 day'
GROUP BY name, state
ORDER BY name, state

-- name: list_job_workers
SELECT id, round(extract(epoch FROM now() - heartbeat_at), 1)::float8 AS heartbeat_age_s FROM tiercel.job_worker ORDER BY id

-- name: list_running_jobs
-- One is stalled if its worker is gone, or has had no heartbeat for jobs.dead_after_s.
SELECT run.id, run.name, run.attempt, round(extract(epoch FROM now() - run.started_at), 1)::float8 AS running_s,
       worker.id IS NULL OR worker.heartbeat_at < now() - make_interval(secs => %(dead_after_s)s) AS is_stalled
FROM tiercel.job_run AS run
LEFT JOIN tiercel.job_worker AS worker ON worker.id = run.worker
WHERE run.state = 'running'
ORDER BY run.started_at
LIMIT 30

-- name: list_failed_jobs
SELECT id, name, attempt, finished_at, error AS reason
FROM tiercel.job_run
WHERE state = 'failed' AND finished_at > now() - interval '7 days'
ORDER BY finished_at DESC
LIMIT 20

-- name: list_schedules
SELECT name, schedule, last_due FROM tiercel.job_schedule ORDER BY name

-- name: list_datasets
-- What is published for everybody, with the latest attempt; see 0007_owners for the account.
SELECT DISTINCT ON (dataset) dataset, version, at AS attempted_at, outcome, item_count AS items, rejected_count AS rejected,
       reason
FROM tiercel.dataset_publication
WHERE account = -2
ORDER BY dataset, id DESC
