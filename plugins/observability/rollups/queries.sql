-- Fragments named read_* and cells_* are composed; everything else runs as it stands.

-- name: hold_events
LOCK TABLE ONLY observability.event IN ACCESS SHARE MODE

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
-- The events are read once, for all three tables.
INSERT INTO rollup_cell
SELECT date_trunc('hour', time, 'UTC'), series, status_code, observability.latency_bin(latency_ms),
       count(*), sum(latency_ms), min(latency_ms), max(latency_ms)
FROM observability.event
WHERE time >= %(start)s AND time < %(end)s
GROUP BY 1, 2, 3, 4

-- name: clear_rollup_hours
DELETE FROM observability.rollup_hour WHERE bucket = ANY(%(buckets)s)

-- name: clear_histogram_hours
DELETE FROM observability.histogram_hour WHERE bucket = ANY(%(buckets)s)

-- name: clear_coarse_hours
DELETE FROM observability.coarse_hour WHERE bucket = ANY(%(buckets)s)

-- name: fill_rollup_hours
INSERT INTO observability.rollup_hour
-- In order, so that what is read of a series lies in few pages.
SELECT bucket, series, status_code, sum(hits), sum(latency_sum_ms), min(latency_min_ms), max(latency_max_ms)
FROM rollup_cell GROUP BY 1, 2, 3
ORDER BY 2, 1, 3

-- name: fill_histogram_hours
INSERT INTO observability.histogram_hour
SELECT bucket, series, array_agg(observability.histogram_of(hits, bin))
FROM (SELECT bucket, series, bin, sum(hits)::bigint AS hits FROM rollup_cell GROUP BY 1, 2, 3) AS cell
GROUP BY 1, 2
ORDER BY 2, 1

-- name: fill_coarse_hours
INSERT INTO observability.coarse_hour
WITH cell AS (
    SELECT bucket, account, service, method, status_code, bin, rollup_cell.hits, latency_sum_ms, latency_max_ms
    FROM rollup_cell JOIN observability.series ON id = series
), histogram AS (
    SELECT bucket, account, service, method, sum(observability.histogram_of(hits, bin)) AS histogram
    FROM (SELECT bucket, account, service, method, bin, sum(hits)::bigint AS hits
          FROM cell GROUP BY 1, 2, 3, 4, 5) AS each_bin
    GROUP BY 1, 2, 3, 4
), total AS (
    SELECT bucket, account, service, method, array_agg(status_code) AS status_codes, array_agg(hits) AS status_hits,
           array_agg(latency_sum_ms) AS latency_sums_ms, array_agg(latency_max_ms) AS latency_maxs_ms
    FROM (SELECT bucket, account, service, method, status_code, sum(hits)::bigint AS hits,
                 sum(latency_sum_ms)::bigint AS latency_sum_ms, max(latency_max_ms) AS latency_max_ms
          FROM cell GROUP BY 1, 2, 3, 4, 5) AS each_status
    GROUP BY 1, 2, 3, 4
)
SELECT bucket, account, service, method, histogram, status_codes, status_hits, latency_sums_ms, latency_maxs_ms
FROM histogram JOIN total USING (bucket, account, service, method)

-- name: clear_rollup_day
DELETE FROM observability.rollup_day WHERE bucket = %(day)s

-- name: clear_histogram_day
DELETE FROM observability.histogram_day WHERE bucket = %(day)s

-- name: clear_coarse_day
DELETE FROM observability.coarse_day WHERE bucket = %(day)s

-- name: fill_rollup_day
INSERT INTO observability.rollup_day
SELECT %(day)s, series, status_code, sum(hits), sum(latency_sum_ms), min(latency_min_ms), max(latency_max_ms)
FROM observability.rollup_hour
WHERE bucket >= %(day)s AND bucket < %(day)s + interval '1 day'
GROUP BY series, status_code
ORDER BY series, status_code

-- name: fill_histogram_day
INSERT INTO observability.histogram_day
SELECT %(day)s, series, sum(histogram)
FROM observability.histogram_part_hour
WHERE bucket >= %(day)s AND bucket < %(day)s + interval '1 day'
GROUP BY series

-- name: fill_coarse_day
INSERT INTO observability.coarse_day
WITH histogram AS (
    SELECT account, service, method, sum(histogram) AS histogram
    FROM observability.coarse_part_hour
    WHERE bucket >= %(day)s AND bucket < %(day)s + interval '1 day'
    GROUP BY account, service, method
), total AS (
    SELECT account, service, method, array_agg(status_code) AS status_codes, array_agg(hits) AS status_hits,
           array_agg(latency_sum_ms) AS latency_sums_ms, array_agg(latency_max_ms) AS latency_maxs_ms
    FROM (SELECT account, service, method, status_code, sum(hits)::bigint AS hits,
                 sum(latency_sum_ms)::bigint AS latency_sum_ms, max(latency_max_ms) AS latency_max_ms
          FROM observability.coarse_total_hour
          WHERE bucket >= %(day)s AND bucket < %(day)s + interval '1 day'
          GROUP BY account, service, method, status_code) AS each_status
    GROUP BY account, service, method
)
SELECT %(day)s, account, service, method, histogram, status_codes, status_hits, latency_sums_ms, latency_maxs_ms
FROM histogram JOIN total USING (account, service, method)

-- name: see_one_moment
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ

-- name: has_aggregates
SELECT to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])') IS NOT NULL

-- name: refresh_day
CALL observability.refresh_day(%(day)s, %(hours)s)
