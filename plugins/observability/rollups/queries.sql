-- clear_*, fill_* and what is filled into them are composed by refresh.py; everything else runs as it stands.

-- name: hold_events
-- Keep retention from removing anything.
LOCK TABLE ONLY observability.event IN ACCESS SHARE MODE;
-- What rollups know is looked up in one way, however many questions there are. That says how the question is planned.
SET LOCAL plan_cache_mode = 'force_generic_plan'

-- name: see_rollups
SELECT ARRAY(SELECT DISTINCT hour FROM observability.rollup_touched
             WHERE hour >= date_trunc('hour', %(start)s::timestamptz, 'UTC') AND hour < %(end)s),
       (SELECT min(hour) FROM observability.rollup_touched),
       ARRAY(SELECT nullif(from_time, '-infinity') FROM observability.retention
             WHERE level <> 'ledger' ORDER BY array_position('{raw,hour,day}', level))

-- name: list_days_to_refresh
-- The oldest first: what is complete stays complete. Never an hour of which the events were removed.
SELECT date_trunc('day', hour, 'UTC') AS day, array_agg(hour ORDER BY hour)
FROM (
    SELECT hour
    FROM observability.rollup_touched
    WHERE hour >= %(start)s AND hour < %(end)s
      AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw')
    GROUP BY hour
    HAVING hour < date_trunc('hour', now(), 'UTC') OR min(at) <= now() - make_interval(secs => %(running_wait_s)s)
) AS due
GROUP BY 1
ORDER BY 1

-- name: shorten_touched
-- One entry, the oldest, says as much as many.
DELETE FROM observability.rollup_touched AS entry
USING (SELECT hour, min(id) AS id FROM observability.rollup_touched GROUP BY hour HAVING count(*) > 1) AS oldest
WHERE entry.hour = oldest.hour AND entry.id > oldest.id

-- name: try_refresh_lock
SELECT pg_try_advisory_lock(hashtext('observability.rollups'))

-- name: refresh_unlock
SELECT pg_advisory_unlock(hashtext('observability.rollups'))

-- name: forget_touched
-- Those that this transaction sees: whoever writes meanwhile touches the hour again.
DELETE FROM observability.rollup_touched WHERE hour = ANY(%(hours)s)

-- name: make_room_to_sort
-- Groups are many, and spilling them to disk costs more than the memory.
SELECT set_config('work_mem', '128MB', true)

-- name: create_cells
CREATE TEMPORARY TABLE IF NOT EXISTS rollup_cell (
    bucket         timestamptz NOT NULL,
    series         integer     NOT NULL,
    status_code    smallint    NOT NULL,
    bin            smallint    NOT NULL,
    hits           bigint      NOT NULL,
    latency_sum_ms bigint      NOT NULL,
    latency_min_ms integer     NOT NULL,
    latency_max_ms integer     NOT NULL
) ON COMMIT DELETE ROWS

-- name: fill_cells
-- The events are read once, for both tables.
INSERT INTO rollup_cell
SELECT date_trunc('hour', time, 'UTC'), series, status_code, observability.latency_bin(latency_ms),
       count(*), sum(latency_ms), min(latency_ms), max(latency_ms)
FROM observability.event
WHERE time >= %(start)s AND time < %(end)s
GROUP BY 1, 2, 3, 4

-- name: clear_hour
DELETE FROM observability.{table} WHERE bucket = ANY(%(hours)s)

-- name: fill_hour
-- Whatever the keys are that cells are told apart by.
INSERT INTO observability.{table}
WITH status AS (
    SELECT bucket, {keys}, status_code, sum(hits)::bigint AS hits, sum(latency_sum_ms)::bigint AS latency_sum_ms,
           min(latency_min_ms) AS latency_min_ms, max(latency_max_ms) AS latency_max_ms,
           sum(sum(hits)) OVER (PARTITION BY bucket, {keys} ORDER BY status_code)::bigint AS status_end
    FROM {cells} GROUP BY bucket, {keys}, status_code
), total AS (
    SELECT bucket, {keys}, sum(hits)::bigint AS hits, sum(latency_sum_ms)::bigint AS latency_sum_ms,
           min(latency_min_ms) AS latency_min_ms, max(latency_max_ms) AS latency_max_ms,
           array_agg(status_code ORDER BY status_code) AS status_codes,
           array_agg(status_end ORDER BY status_code) AS status_ends
    FROM status GROUP BY bucket, {keys}
), histogram AS (
    SELECT bucket, {keys}, {histograms} AS histograms
    FROM (SELECT bucket, {keys}, bin, sum(hits)::bigint AS hits FROM {cells} GROUP BY bucket, {keys}, bin) AS counted
    GROUP BY bucket, {keys}
)
SELECT bucket, {keys}, hits, latency_sum_ms, latency_min_ms, latency_max_ms, status_codes, status_ends, histograms
FROM total JOIN histogram USING (bucket, {keys})
-- In order, so that what is read of a series lies in few pages.
ORDER BY {keys}, bucket

-- name: number_for_each_bin
array_agg(observability.histogram_of(hits, bin))

-- name: one_number
ARRAY[sum(observability.histogram_of(hits, bin))]

-- name: cells_of_series
rollup_cell

-- name: cells_of_methods
(SELECT bucket, account, service, method, status_code, bin, hits, latency_sum_ms, latency_min_ms, latency_max_ms
 FROM rollup_cell JOIN observability.series ON id = series) AS cell

-- name: clear_day
DELETE FROM observability.{table} WHERE bucket = %(day)s

-- name: fill_day
INSERT INTO observability.{table}
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

-- name: see_one_moment
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ

-- name: has_aggregates
SELECT to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])') IS NOT NULL

-- name: refresh_day
CALL observability.refresh_day(%(day)s, %(hours)s)
