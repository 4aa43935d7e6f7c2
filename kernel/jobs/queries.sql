-- Lock order: a row of job_run before anything that refers to it.
--
-- What requests read and change is limited to their account, and their sites, by `{of_account}`, which is one of these.

-- name: of_any_account
true

-- name: of_account
run.account = %(account)s

-- name: of_sites
run.account = %(account)s AND run.sites <@ %(sites)s::integer[]

-- name: lock_enqueue
-- Two processes that enqueue one job at once must see each other.
SELECT pg_advisory_xact_lock(hashtextextended('tiercel.enqueue.' || %(name)s || '.' || %(lock)s, 0))

-- name: find_waiting
-- A row that is locked is being claimed or cancelled at the moment. Several wait, if they may see different things.
SELECT id, parameters, started_by FROM tiercel.job_run
WHERE name = %(name)s AND lock = %(lock)s AND state = 'waiting'
ORDER BY id
FOR UPDATE SKIP LOCKED

-- name: bring_forward
UPDATE tiercel.job_run SET due_at = now() + make_interval(secs => %(delay_s)s)
WHERE id = %(id)s AND due_at > now() + make_interval(secs => %(delay_s)s)

-- name: insert_waiting
INSERT INTO tiercel.job_run (name, lock, parameters, request_id, state, due_at, is_scheduled, account, sites, started_by,
                             traceparent)
VALUES (%(name)s, %(lock)s, %(parameters)s, %(request_id)s, 'waiting', now() + make_interval(secs => %(delay_s)s),
        %(is_scheduled)s, %(account)s, %(sites)s, %(started_by)s, %(traceparent)s)
RETURNING id

-- name: insert_running
INSERT INTO tiercel.job_run (name, lock, parameters, request_id, state, attempt, started_at, worker, is_inline, account, sites,
                             started_by, traceparent)
VALUES (%(name)s, %(lock)s, %(parameters)s, %(request_id)s, 'running', 1, clock_timestamp(), %(worker)s, true, %(account)s,
        %(sites)s, %(started_by)s, %(traceparent)s)
ON CONFLICT (lock) WHERE state = 'running' DO NOTHING
RETURNING id

-- name: insert_cancelled
INSERT INTO tiercel.job_run (name, lock, parameters, request_id, state, finished_at, is_inline, account, sites, started_by)
VALUES (%(name)s, %(lock)s, %(parameters)s, %(request_id)s, 'cancelled', now(), true, %(account)s, %(sites)s, %(started_by)s)

-- name: claim
-- In the order in which jobs are due. Those whose lock is held are passed over, so they keep no others waiting. Two jobs
-- of one lock that are claimed at once break the unique index job_run_lock; one of the claims fails.
WITH worker AS (
    -- A worker that was thought dead and forgotten is back.
    INSERT INTO tiercel.job_worker (id) VALUES ({worker}) ON CONFLICT DO NOTHING
)
UPDATE tiercel.job_run
SET state = 'running', attempt = attempt + 1, started_at = clock_timestamp(), worker = {worker}
WHERE id = (
    SELECT id FROM tiercel.job_run
    WHERE state = 'waiting' AND due_at <= now()
      AND lock <> ALL (ARRAY(SELECT lock FROM tiercel.job_run WHERE state = 'running'))
    ORDER BY due_at, id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING id, name, lock, attempt, failures, request_id, parameters, account, sites, started_by, traceparent

-- name: fence
-- NO KEY: lines of the log, progress and cancellations refer to this row meanwhile, from other connections. The advisory
-- lock identifies the session to the worker that takes the job over.
SELECT pg_advisory_xact_lock_shared(hashtextextended('tiercel.run.' || id, 0))
FROM tiercel.job_run
WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
FOR NO KEY UPDATE

-- name: mark_committed
UPDATE tiercel.job_run SET committed_at = now(), result = %(result)s WHERE id = %(id)s

-- name: end_session_of_run
SELECT pg_terminate_backend(held.pid)
FROM pg_locks AS held, hashtextextended('tiercel.run.' || %(id)s::bigint, 0) AS key
WHERE held.locktype = 'advisory' AND held.objsubid = 1
  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (held.classid::bigint << 32 | held.objid::bigint) = key

-- name: write_progress
WITH run AS (
    SELECT id FROM tiercel.job_run WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
)
INSERT INTO tiercel.job_progress AS progress (job_id, attempt, done, total, message)
SELECT id, %(attempt)s, %(done)s, %(total)s, %(message)s FROM run
ON CONFLICT (job_id) DO UPDATE
SET attempt = excluded.attempt, done = excluded.done, total = excluded.total, message = excluded.message
WHERE progress.attempt <= excluded.attempt
RETURNING job_id

-- name: insert_log_line
INSERT INTO tiercel.job_log (job_id, attempt, level, event, fields)
VALUES (%(id)s, %(attempt)s, %(level)s, %(event)s, %(fields)s)

-- name: lock_running
-- Not NO KEY: waits for a cancellation that is being inserted, so that find_cancellation sees it.
SELECT committed_at IS NOT NULL FROM tiercel.job_run
WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
FOR UPDATE

-- name: find_cancellation
SELECT FROM tiercel.job_cancellation WHERE job_id = %(id)s

-- name: finish
UPDATE tiercel.job_run
SET state = %(state)s, finished_at = now(), error = %(error)s, result = coalesce(%(result)s, result)
WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
RETURNING id

-- name: requeue
UPDATE tiercel.job_run
SET state = 'waiting', error = %(error)s, due_at = now() + make_interval(secs => %(wait_s)s),
    failures = failures + %(failures)s, deaths = deaths + %(deaths)s
WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'

-- name: insert_cancellation
-- The foreign key waits for a transaction that is requeuing the job; cancel_waiting then finds it waiting.
INSERT INTO tiercel.job_cancellation AS cancellation (job_id)
SELECT id FROM tiercel.job_run AS run WHERE id = %(id)s AND state IN ('waiting', 'running') AND {of_account}
ON CONFLICT (job_id) DO UPDATE SET requested_at = cancellation.requested_at
RETURNING job_id

-- name: cancel_waiting
UPDATE tiercel.job_run AS run SET state = 'cancelled', finished_at = now()
WHERE id = %(id)s AND state = 'waiting' AND {of_account}
RETURNING id

-- name: matches
{of_account}
  AND (%(id)s::bigint IS NULL OR run.id = %(id)s)
  AND (%(name)s::text IS NULL OR run.name = %(name)s)
  AND (%(state)s::text IS NULL OR run.state = %(state)s)
  AND (%(lock)s::text IS NULL OR run.lock = %(lock)s)
  AND (%(with_routine)s OR NOT (run.is_scheduled AND run.state = 'succeeded'))
  AND (%(of)s::integer IS NULL OR run.account = %(of)s)
  AND (%(start)s::timestamptz IS NULL OR run.created_at >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR run.created_at <= %(end)s)

-- name: all_runs
tiercel.job_run

-- name: latest_runs
-- No index is in the order that is asked for, or has the text that is searched: they are looked at one by one.
(SELECT * FROM tiercel.job_run AS run WHERE {matches} ORDER BY run.id DESC LIMIT %(latest)s)

-- name: prefer_indexes
-- Those that are in the order of ids. The planner takes row-level security for selective, and would read and sort the table
-- to find the latest few thousand jobs.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)

-- name: list_jobs
SELECT run.id, run.name, run.state, run.parameters, run.lock, run.request_id, run.attempt, progress.done, progress.total,
       progress.message, run.result, run.error, run.created_at, run.due_at, run.started_at, run.finished_at,
       run.account, run.sites, run.started_by ->> 'name', run.is_scheduled,
       run.state = 'running' AND EXISTS (SELECT FROM tiercel.job_cancellation WHERE job_id = run.id)
FROM {runs} AS run
LEFT JOIN tiercel.job_progress AS progress ON progress.job_id = run.id AND progress.attempt = run.attempt
WHERE {matches}
  AND (%(search)s::text IS NULL OR strpos(lower(concat_ws(
        ' ', run.name, run.lock, run.request_id,
        -- As they are stored: what is longer would have to be read from elsewhere.
        CASE WHEN pg_column_size(run.error) <= 2048 THEN run.error END,
        CASE WHEN pg_column_size(run.parameters) <= 2048 THEN run.parameters::text END)), lower(%(search)s)) > 0)
  AND (%(boundary_id)s::bigint IS NULL OR ({column}, run.id) {comparison} ({boundary}, %(boundary_id)s::bigint))
ORDER BY {column} {direction}, run.id {direction}
LIMIT %(limit)s

-- Sort keys of jobs, and the same of the job that a page lies beyond. A time that has not come is after all others.
-- name: column_id
run.id

-- name: boundary_id
%(boundary)s::bigint

-- name: column_name
run.name

-- name: boundary_name
%(boundary)s::text

-- name: column_state
run.state

-- name: boundary_state
%(boundary)s::text

-- name: column_created_at
run.created_at

-- name: boundary_created_at
%(boundary)s::timestamptz

-- name: column_started_at
coalesce(run.started_at, 'infinity')

-- name: boundary_started_at
coalesce(%(boundary)s::timestamptz, 'infinity')

-- name: column_finished_at
coalesce(run.finished_at, 'infinity')

-- name: boundary_finished_at
coalesce(%(boundary)s::timestamptz, 'infinity')

-- name: list_log_lines
SELECT line.id, line.attempt, line.at, line.level, line.event, line.fields
FROM tiercel.job_run AS run
JOIN tiercel.job_log AS line ON line.job_id = run.id
WHERE run.id = %(id)s AND {of_account} AND line.id > %(after)s
ORDER BY line.id {direction}
LIMIT %(limit)s

-- name: heartbeat
-- Also of a worker that was thought dead and forgotten.
INSERT INTO tiercel.job_worker (id) VALUES (%(worker)s) ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()

-- name: poll_cancellation
SELECT run.attempt = %(attempt)s AND run.state = 'running',
       EXISTS (SELECT FROM tiercel.job_cancellation WHERE job_id = run.id)
FROM tiercel.job_run AS run
WHERE run.id = %(id)s

-- name: delete_worker
DELETE FROM tiercel.job_worker WHERE id = %(worker)s

-- name: delete_dead_workers
DELETE FROM tiercel.job_worker AS worker
WHERE heartbeat_at < now() - make_interval(secs => %(dead_after_s)s)
  AND NOT EXISTS (SELECT FROM tiercel.job_run WHERE state = 'running' AND job_run.worker = worker.id)

-- name: list_stalled
SELECT run.id
FROM tiercel.job_run AS run
LEFT JOIN tiercel.job_worker AS worker ON worker.id = run.worker
WHERE run.state = 'running'
  AND (run.worker = %(worker)s OR worker.id IS NULL
       OR worker.heartbeat_at < now() - make_interval(secs => %(dead_after_s)s))

-- name: lock_stalled
-- Waits for a worker that is taking the job over, or committing it, at the moment.
SELECT run.attempt, run.deaths, run.committed_at IS NOT NULL, run.is_inline
FROM tiercel.job_run AS run
LEFT JOIN tiercel.job_worker AS worker ON worker.id = run.worker
WHERE run.id = %(id)s AND run.state = 'running'
  AND (run.worker = %(worker)s OR worker.id IS NULL
       OR worker.heartbeat_at < now() - make_interval(secs => %(dead_after_s)s))
FOR UPDATE OF run SKIP LOCKED

-- name: insert_schedule
INSERT INTO tiercel.job_schedule (name, schedule, last_due) VALUES (%(name)s, %(schedule)s, %(now)s)
ON CONFLICT (name) DO NOTHING

-- name: lock_schedule
SELECT schedule, last_due FROM tiercel.job_schedule WHERE name = %(name)s FOR UPDATE

-- name: advance_schedule
UPDATE tiercel.job_schedule SET schedule = %(schedule)s, last_due = %(due)s WHERE name = %(name)s

-- name: delete_old
-- Progress, log lines and cancellations go with it.
DELETE FROM tiercel.job_run
WHERE id IN (
    SELECT id FROM tiercel.job_run WHERE finished_at < now() - make_interval(days => %(keep_days)s)
    ORDER BY finished_at LIMIT %(limit)s
)

-- name: purge_jobs
DELETE FROM tiercel.job_run
WHERE id IN (SELECT id FROM tiercel.job_run WHERE account = %(account)s AND state <> 'running' LIMIT %(limit)s)

-- name: count_by_name
-- Of what is finished, the failures of the last day: there may be many of the others.
SELECT name, state, count(*)
FROM tiercel.job_run
WHERE state IN ('waiting', 'running') OR (state = 'failed' AND finished_at > now() - interval '1 day')
GROUP BY name, state

-- name: count_workers
SELECT count(*) FROM tiercel.job_worker WHERE heartbeat_at > now() - make_interval(secs => %(dead_after_s)s)

-- name: list_schedules
SELECT name, schedule, last_due FROM tiercel.job_schedule

-- name: read_figures
-- A job that waits for its next attempt is not late.
SELECT count(*) FILTER (WHERE state = 'waiting'),
       count(*) FILTER (WHERE state = 'running'),
       count(*) FILTER (WHERE state = 'failed'),
       coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE state = 'waiting' AND due_at <= now())), 0)::float8
FROM tiercel.job_run
WHERE state IN ('waiting', 'running') OR (state = 'failed' AND finished_at > now() - interval '1 day')

-- name: list_failing
-- One look into the index job_run_last_end for each job. Cancelled runs say nothing of a job.
SELECT job.name, last.id
FROM unnest(%(names)s::text[]) AS job (name)
CROSS JOIN LATERAL (
    SELECT id, state FROM tiercel.job_run
    WHERE name = job.name AND state IN ('succeeded', 'failed')
    ORDER BY finished_at DESC, id DESC
    LIMIT 1
) AS last
WHERE last.state = 'failed'
ORDER BY job.name

-- name: read_health
SELECT EXISTS (SELECT FROM tiercel.job_worker WHERE heartbeat_at > now() - make_interval(secs => %(dead_after_s)s)),
       EXISTS (SELECT FROM tiercel.job_run WHERE state = 'waiting')
