-- delete_hour, insert_hour, delete_day and insert_day are composed by refresh.py, with the fragments counts_* and
-- histogram_*; rollup_state is a fragment of queries of the analytics. Everything else is a complete statement.

-- name: lock_events_shared
-- Taken before the snapshot: a dropped partition disappears from older snapshots as well. Retention waits for this lock.
LOCK TABLE ONLY observability.event IN ACCESS SHARE MODE;
-- For the query of the rollup state, whose plan never depends on its parameters. It sets the mode for those after it.
SET LOCAL plan_cache_mode = 'force_generic_plan'

-- name: rollup_state
SELECT ARRAY(SELECT DISTINCT hour FROM observability.rollup_touched
             WHERE account = %(account)s AND hour >= date_trunc('hour', %(start)s::timestamptz, 'UTC') AND hour < %(end)s),
       (SELECT min(hour) FROM observability.rollup_touched WHERE account = %(account)s),
       ARRAY(SELECT nullif(from_time, '-infinity') FROM observability.retention
             WHERE level <> 'ledger' ORDER BY array_position('{raw,hour,day}', level))

-- name: list_dirty_days
-- Never an hour whose events retention has removed: it could only be computed wrong. Days whose refresh has failed come
-- last: one that ends the process must not keep the others from being computed.
SELECT date_trunc('day', hour, 'UTC') AS day, array_agg(hour ORDER BY hour)
FROM (
    SELECT hour
    FROM observability.rollup_touched
    WHERE hour >= %(start)s AND hour < %(end)s
      AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw')
    GROUP BY hour
    HAVING hour < date_trunc('hour', now(), 'UTC') OR min(at) <= now() - make_interval(secs => %(running_hour_wait_s)s)
) AS due
LEFT JOIN observability.refresh_attempt ON bucket = date_trunc('day', hour, 'UTC')
GROUP BY 1
ORDER BY coalesce(max(attempts), 0), 1

-- name: begin_attempt
-- As the procedure refresh_day does.
INSERT INTO observability.refresh_attempt AS attempt VALUES (%(day)s)
ON CONFLICT (bucket) DO UPDATE SET attempts = attempt.attempts + 1

-- name: fail_attempt
-- There is no entry where the transaction that began the attempt has failed.
INSERT INTO observability.refresh_attempt (bucket, error) VALUES (%(day)s, %(error)s)
ON CONFLICT (bucket) DO UPDATE SET error = excluded.error

-- name: end_attempt
DELETE FROM observability.refresh_attempt WHERE bucket = %(day)s

-- name: list_failed_days
-- Of a day that is no longer dirty, an attempt that failed does not matter. One that does not say why was interrupted,
-- unless it is the first, which may be running.
SELECT bucket, since, attempts, coalesce(error, 'interrupted')
FROM observability.refresh_attempt
WHERE (error IS NOT NULL OR attempts > 1) AND EXISTS (
    SELECT FROM observability.rollup_touched
    WHERE hour >= bucket AND hour < bucket + interval '24 hours'
      AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw'))
ORDER BY bucket

-- name: deduplicate_dirty_hours
-- The oldest entry of an account stays: it says since when the hour has been dirty.
DELETE FROM observability.rollup_touched AS entry
USING (SELECT account, hour, min(id) AS id FROM observability.rollup_touched
       GROUP BY account, hour HAVING count(*) > 1) AS oldest
WHERE entry.account = oldest.account AND entry.hour = oldest.hour AND entry.id > oldest.id

-- name: find_refreshing
-- Who holds the lock. A policy of TimescaleDB has the name of its job, such as User-Defined Action [1000].
SELECT coalesce(nullif(application_name, ''), usename, backend_type), pid
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint) = hashtext('observability.rollups')

-- name: mark_clean
-- Only entries of this snapshot: those that are inserted meanwhile stay.
DELETE FROM observability.rollup_touched WHERE hour = ANY(%(hours)s)

-- name: raise_work_mem
-- There are many groups, and spilling them to disk costs more than the memory. The planner takes them for few: it would
-- compare each with each. Where it has to, the statement seems to cost so much that it would be compiled first, which takes
-- longer than running it.
SELECT set_config('work_mem', '128MB', true), set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)

-- name: create_event_counts
-- Events without a latency are in no bin, and have no sum.
CREATE TEMPORARY TABLE IF NOT EXISTS event_count (
    bucket         timestamptz NOT NULL,
    series         integer     NOT NULL,
    status_code    smallint    NOT NULL,
    bin            smallint,
    hits           bigint      NOT NULL,
    latency_sum_ms bigint,
    latency_min_ms integer,
    latency_max_ms integer
) ON COMMIT {on_commit}

-- name: count_events
-- The events are read once, for both tables.
INSERT INTO event_count
SELECT date_trunc('hour', time, 'UTC'), series, status_code, observability.latency_bin(latency_ms),
       count(*), sum(latency_ms), min(latency_ms), max(latency_ms)
FROM observability.event
WHERE time >= %(start)s AND time < %(end)s
GROUP BY 1, 2, 3, 4

-- name: delete_hour
DELETE FROM observability.{table} WHERE bucket = ANY(%(hours)s)

-- name: insert_hour
INSERT INTO observability.{table}
    (bucket, {keys}, hits, latency_sum_ms, latency_min_ms, latency_max_ms, status_codes, status_ends, histograms)
WITH status AS (
    SELECT bucket, {keys}, status_code, sum(hits)::bigint AS hits, sum(latency_sum_ms)::bigint AS latency_sum_ms,
           min(latency_min_ms) AS latency_min_ms, max(latency_max_ms) AS latency_max_ms,
           sum(sum(hits)) OVER (PARTITION BY bucket, {keys} ORDER BY status_code)::bigint AS status_end
    FROM {counts} GROUP BY bucket, {keys}, status_code
), total AS (
    SELECT bucket, {keys}, sum(hits)::bigint AS hits, sum(latency_sum_ms)::bigint AS latency_sum_ms,
           min(latency_min_ms) AS latency_min_ms, max(latency_max_ms) AS latency_max_ms,
           array_agg(status_code ORDER BY status_code) AS status_codes,
           array_agg(status_end ORDER BY status_code) AS status_ends
    FROM status GROUP BY bucket, {keys}
), histogram AS (
    SELECT bucket, {keys}, {histograms} AS histograms
    FROM (SELECT bucket, {keys}, bin, sum(hits)::bigint AS hits FROM {counts} GROUP BY bucket, {keys}, bin) AS counted
    GROUP BY bucket, {keys}
)
SELECT bucket, {keys}, hits, latency_sum_ms, latency_min_ms, latency_max_ms, status_codes, status_ends, histograms
FROM total JOIN histogram USING (bucket, {keys})
-- In this order, the rows of one series lie in few pages.
ORDER BY {keys}, bucket

-- name: histogram_by_bin
-- A number for each bin: an hour of one series has hits in few bins, far apart.
array_agg(observability.histogram_of(hits, bin))

-- name: histogram_of_all_bins
ARRAY[sum(observability.histogram_of(hits, bin))]

-- name: counts_by_series
event_count

-- name: counts_by_method
(SELECT bucket, account, service, method, timed, status_code, bin, hits, latency_sum_ms, latency_min_ms, latency_max_ms
 FROM event_count JOIN observability.series ON id = series) AS counted_by_method

-- name: delete_day
DELETE FROM observability.{table} WHERE bucket = %(day)s

-- name: insert_day
INSERT INTO observability.{table}
    (bucket, {keys}, hits, latency_sum_ms, latency_min_ms, latency_max_ms, status_codes, status_ends, histograms)
WITH hour AS (
    SELECT * FROM observability.{hours} WHERE bucket >= %(day)s AND bucket < %(day)s + interval '24 hours'
), total AS (
    SELECT {keys}, sum(hits)::bigint AS hits, sum(latency_sum_ms)::bigint AS latency_sum_ms,
           min(latency_min_ms) AS latency_min_ms, max(latency_max_ms) AS latency_max_ms
    FROM hour GROUP BY {keys}
), status AS (
    SELECT {keys}, status_codes[number] AS status_code,
           sum(sum(status_ends[number] - coalesce(status_ends[number - 1], 0)))
               OVER (PARTITION BY {keys} ORDER BY status_codes[number])::bigint AS status_end
    FROM hour, generate_subscripts(status_codes, 1) AS number
    GROUP BY {keys}, status_codes[number]
), statuses AS (
    SELECT {keys}, array_agg(status_code ORDER BY status_code) AS status_codes,
           array_agg(status_end ORDER BY status_code) AS status_ends
    FROM status GROUP BY {keys}
), histogram AS (
    SELECT {keys}, ARRAY[sum(number)] AS histograms FROM hour, unnest(histograms) AS number GROUP BY {keys}
)
SELECT %(day)s, {keys}, hits, latency_sum_ms, latency_min_ms, latency_max_ms, status_codes, status_ends, histograms
FROM total JOIN statuses USING ({keys}) JOIN histogram USING ({keys})
ORDER BY {keys}

-- name: set_repeatable_read
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ

-- name: has_dirty_hours
SELECT EXISTS (
    SELECT FROM observability.rollup_touched
    WHERE hour < %(before)s AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw'))

-- name: count_dirty_hours
SELECT count(DISTINCT hour) FROM observability.rollup_touched
WHERE hour < %(before)s AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw')
