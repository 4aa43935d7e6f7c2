-- Lock order: a row of the queue before the row of job_run while it waits; the other way round while it runs.

-- name: lock_start
-- Two starts of one job at once must see each other.
SELECT pg_advisory_xact_lock(hashtextextended('tiercel.start.' || %(name)s || '.' || %(lock)s, 0))

-- name: find_waiting
-- One that a worker is taking on right now is locked, and no longer waits.
SELECT run.id, run.parameters
FROM tiercel.job_run AS run JOIN procrastinate.procrastinate_jobs AS queued USING (id)
WHERE run.name = %(name)s AND run.lock = %(lock)s AND run.state = 'waiting' AND queued.status = 'todo'
ORDER BY run.id
LIMIT 1
FOR UPDATE OF queued SKIP LOCKED

-- name: bring_forward
WITH moved AS (
    UPDATE procrastinate.procrastinate_jobs SET scheduled_at = now() + make_interval(secs => %(delay_s)s)
    WHERE id = %(id)s AND status = 'todo' AND scheduled_at > now() + make_interval(secs => %(delay_s)s)
    RETURNING id, scheduled_at
)
UPDATE tiercel.job_run AS run SET due_at = moved.scheduled_at FROM moved WHERE run.id = moved.id

-- name: insert_job
WITH queued AS (
    SELECT unnest(procrastinate.procrastinate_defer_jobs_v1(ARRAY[
        ROW(%(queue)s, %(name)s, %(priority)s, %(lock)s, NULL, '{}',
            CASE WHEN %(delay_s)s > 0 THEN now() + make_interval(secs => %(delay_s)s) END)
    ]::procrastinate.procrastinate_job_to_defer_v1[])) AS id
)
INSERT INTO tiercel.job_run (id, name, lock, parameters, request_id, state, due_at)
SELECT id, %(name)s, %(lock)s, %(parameters)s, %(request_id)s, 'waiting', now() + make_interval(secs => %(delay_s)s)
FROM queued
RETURNING id

-- name: notify_workers
-- procrastinate tells workers of new jobs only.
SELECT pg_notify('procrastinate_queue_v1#' || %(queue)s, '{}')

-- name: claim
SELECT id, name, lock, attempt, failures, request_id, parameters FROM tiercel.claim_job(%(queue)s, %(worker)s)

-- name: fence
-- NO KEY: lines of the log and progress refer to this row meanwhile, from other connections. The advisory lock tells
-- whoever takes the run over which session holds it.
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

-- name: write_line
INSERT INTO tiercel.job_log (job_id, attempt, level, event, fields)
VALUES (%(id)s, %(attempt)s, %(level)s, %(event)s, %(fields)s)

-- name: lock_running
SELECT run.committed_at IS NOT NULL, queued.abort_requested
FROM tiercel.job_run AS run JOIN procrastinate.procrastinate_jobs AS queued USING (id)
WHERE run.id = %(id)s AND run.attempt = %(attempt)s AND run.state = 'running'
FOR NO KEY UPDATE OF run, queued

-- name: finish
WITH mine AS (
    UPDATE tiercel.job_run
    SET state = %(state)s, finished_at = now(), error = %(error)s, result = coalesce(%(result)s, result)
    WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
    RETURNING id
)
SELECT id, procrastinate.procrastinate_finish_job_v1(id, %(status)s, false) FROM mine

-- name: requeue
WITH mine AS (
    UPDATE tiercel.job_run
    SET state = 'waiting', error = %(error)s, due_at = now() + make_interval(secs => %(wait_s)s),
        failures = failures + %(failures)s, deaths = deaths + %(deaths)s
    WHERE id = %(id)s AND attempt = %(attempt)s AND state = 'running'
    RETURNING id, due_at
)
SELECT id, procrastinate.procrastinate_retry_job_v2(id, CASE WHEN due_at > now() THEN due_at END, NULL, NULL, NULL)
FROM mine

-- name: lock_queued
SELECT status::text FROM procrastinate.procrastinate_jobs WHERE id = %(id)s FOR UPDATE

-- name: cancel_queued
SELECT procrastinate.procrastinate_cancel_job_v1(%(id)s, true, false)

-- name: cancel_run
UPDATE tiercel.job_run SET state = 'cancelled', finished_at = now() WHERE id = %(id)s AND state = 'waiting'

-- name: list_jobs
SELECT run.id, run.name, run.state, run.parameters, run.lock, run.request_id, run.attempt, progress.done, progress.total,
       progress.message, run.result, run.error, run.created_at, run.due_at, run.started_at, run.finished_at
FROM tiercel.job_run AS run
LEFT JOIN tiercel.job_progress AS progress ON progress.job_id = run.id AND progress.attempt = run.attempt
WHERE (%(id)s::bigint IS NULL OR run.id = %(id)s)
  AND (%(name)s::text IS NULL OR run.name = %(name)s)
  AND (%(state)s::text IS NULL OR run.state = %(state)s)
  AND (%(lock)s::text IS NULL OR run.lock = %(lock)s)
  AND (%(before)s::bigint IS NULL OR run.id < %(before)s)
  AND (%(after)s::bigint IS NULL OR run.id > %(after)s)
ORDER BY run.id {direction}
LIMIT %(limit)s

-- name: list_lines
SELECT id, attempt, at, level, event, fields FROM tiercel.job_log
WHERE job_id = %(id)s AND id > %(after)s ORDER BY id LIMIT %(limit)s

-- name: heartbeat
-- Also for a worker that was thought dead and forgotten.
INSERT INTO procrastinate.procrastinate_workers (id, last_heartbeat) OVERRIDING SYSTEM VALUE VALUES (%(worker)s, now())
ON CONFLICT (id) DO UPDATE SET last_heartbeat = now()

-- name: read_wish
SELECT run.attempt = %(attempt)s AND run.state = 'running', queued.abort_requested
FROM tiercel.job_run AS run JOIN procrastinate.procrastinate_jobs AS queued USING (id)
WHERE run.id = %(id)s

-- name: listen
LISTEN {channel}

-- name: unregister
SELECT procrastinate.procrastinate_unregister_worker_v1(%(worker)s)

-- name: prune_workers
DELETE FROM procrastinate.procrastinate_workers AS worker
WHERE last_heartbeat < now() - make_interval(secs => %(dead_after_s)s)
  AND NOT EXISTS (SELECT FROM procrastinate.procrastinate_jobs WHERE worker_id = worker.id AND status = 'doing')

-- name: list_abandoned
SELECT queued.id
FROM procrastinate.procrastinate_jobs AS queued
LEFT JOIN procrastinate.procrastinate_workers AS worker ON worker.id = queued.worker_id
WHERE queued.status = 'doing'
  AND (queued.worker_id = %(worker)s OR worker.id IS NULL
       OR worker.last_heartbeat < now() - make_interval(secs => %(dead_after_s)s))

-- name: lock_abandoned
-- Whoever is at it already, or commits right now, comes first.
SELECT run.attempt, run.deaths, run.committed_at IS NOT NULL, queued.abort_requested, queued.queue_name
FROM tiercel.job_run AS run JOIN procrastinate.procrastinate_jobs AS queued USING (id)
LEFT JOIN procrastinate.procrastinate_workers AS worker ON worker.id = queued.worker_id
WHERE run.id = %(id)s AND run.state = 'running' AND queued.status = 'doing'
  AND (queued.worker_id = %(worker)s OR worker.id IS NULL
       OR worker.last_heartbeat < now() - make_interval(secs => %(dead_after_s)s))
FOR NO KEY UPDATE OF run, queued SKIP LOCKED

-- name: insert_schedule
INSERT INTO tiercel.job_schedule (name, schedule, last_due) VALUES (%(name)s, %(schedule)s, %(now)s)
ON CONFLICT (name) DO NOTHING

-- name: lock_schedule
SELECT schedule, last_due FROM tiercel.job_schedule WHERE name = %(name)s FOR UPDATE

-- name: advance_schedule
UPDATE tiercel.job_schedule SET schedule = %(schedule)s, last_due = %(due)s WHERE name = %(name)s

-- name: delete_old
-- Records, lines and progress go with it.
DELETE FROM procrastinate.procrastinate_jobs
WHERE id IN (
    SELECT id FROM tiercel.job_run WHERE finished_at < now() - make_interval(days => %(keep_days)s)
    ORDER BY finished_at LIMIT %(limit)s
)

-- name: read_figures
-- One that waits for its next attempt is not late.
SELECT count(*) FILTER (WHERE state = 'waiting'),
       count(*) FILTER (WHERE state = 'running'),
       count(*) FILTER (WHERE state = 'failed'),
       coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE state = 'waiting' AND due_at <= now())), 0)::float8
FROM tiercel.job_run
WHERE state IN ('waiting', 'running') OR (state = 'failed' AND finished_at > now() - interval '1 day')

-- name: read_health
SELECT EXISTS (SELECT FROM procrastinate.procrastinate_workers
               WHERE last_heartbeat > now() - make_interval(secs => %(dead_after_s)s)),
       EXISTS (SELECT FROM tiercel.job_run WHERE state = 'waiting')
