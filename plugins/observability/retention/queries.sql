-- name: try_lock_refresh
-- The same lock as refreshes take: what is computed while events are dropped would be wrong.
SELECT pg_try_advisory_xact_lock(hashtext('observability.rollups'))

-- name: set_lock_timeout
-- A session that waits for the lock below makes all later ones wait behind it.
SELECT set_config('lock_timeout', %(timeout_ms)s, true)

-- name: lock_events
-- Writers must not add events of a removed time after the check; REPEATABLE READ transactions keep what they read.
LOCK TABLE ONLY observability.event IN ACCESS EXCLUSIVE MODE

-- name: list_watermarks
SELECT level, nullif(from_time, '-infinity') FROM observability.retention

-- name: advance_watermark
UPDATE observability.retention SET from_time = %(from_time)s WHERE level = %(level)s AND from_time < %(from_time)s

-- name: list_partitions
-- Only those that lie before the time as a whole.
SELECT name, to_time FROM observability.event_partition WHERE to_time <= %(before)s ORDER BY to_time LIMIT %(limit)s

-- name: drop_partition
DROP TABLE IF EXISTS observability.{name}

-- name: delete_partition_entry
DELETE FROM observability.event_partition WHERE name = %(name)s

-- name: count_partitions
SELECT count(*) FROM observability.event_partition WHERE to_time <= %(before)s

-- name: oldest_event
SELECT min(time) FROM observability.event WHERE time < %(before)s

-- name: delete_events
DELETE FROM observability.event WHERE time >= %(start)s AND time < %(end)s

-- name: estimate_events
EXPLAIN (FORMAT JSON) SELECT FROM observability.event WHERE time < %(before)s

-- name: estimate_hours
EXPLAIN (FORMAT JSON) SELECT FROM observability.rollup_hour WHERE bucket < %(before)s

-- name: estimate_days
EXPLAIN (FORMAT JSON) SELECT FROM observability.rollup_day WHERE bucket < %(before)s

-- name: oldest_hour
SELECT min(bucket) FROM observability.rollup_hour WHERE bucket < %(before)s

-- name: oldest_day
SELECT min(bucket) FROM observability.rollup_day WHERE bucket < %(before)s

-- name: delete_rollup_hour
DELETE FROM observability.rollup_hour WHERE bucket >= %(start)s AND bucket < %(end)s

-- name: delete_coarse_hour
DELETE FROM observability.coarse_hour WHERE bucket >= %(start)s AND bucket < %(end)s

-- name: delete_rollup_day
DELETE FROM observability.rollup_day WHERE bucket >= %(start)s AND bucket < %(end)s

-- name: delete_coarse_day
DELETE FROM observability.coarse_day WHERE bucket >= %(start)s AND bucket < %(end)s

-- name: delete_moved
-- An event that was moved to a later time is found by its entry; for one that was moved to an earlier time, the entry
-- keeps a replay from storing it again at its old time, as long as that time is kept.
DELETE FROM observability.event_moved WHERE time < %(before)s AND id < %(first_id)s

-- name: list_unused_series
SELECT id FROM observability.series WHERE NOT observability.is_series_used(id) ORDER BY id

-- name: delete_unused_series
-- The generation tells processes that numbers in their caches may be removed. Checked again under the lock.
WITH deleted AS (
    DELETE FROM observability.series
    WHERE id = ANY(%(ids)s) AND NOT observability.is_series_used(id)
    RETURNING id
), next AS (
    UPDATE observability.series_generation SET number = number + 1 WHERE EXISTS (SELECT FROM deleted)
)
SELECT count(*) FROM deleted

-- name: oldest_ledger_entry
SELECT min(at) FROM observability.ingest_ledger
WHERE at >= (SELECT from_time FROM observability.retention WHERE level = 'ledger') AND at < %(before)s

-- name: count_ledger_entries
SELECT count(*) FROM observability.ingest_ledger WHERE at >= %(start)s AND at < %(end)s

-- name: merge_ledger_entries
-- In one statement: a reader sees all of the old rows, or all of the new.
WITH merged AS (
    DELETE FROM observability.ingest_ledger WHERE at >= %(start)s AND at < %(end)s RETURNING *
), by_reason AS (
    SELECT account, site, key, date_trunc('minute', at) AS minute, reason, sum(items::bigint) AS items
    FROM merged, jsonb_each_text(reasons) AS each (reason, items)
    GROUP BY 1, 2, 3, 4, 5
), counted AS (
    SELECT account, site, key, minute, jsonb_object_agg(reason, items) AS reasons FROM by_reason GROUP BY 1, 2, 3, 4
), summed AS (
    SELECT account, site, key, date_trunc('minute', at) AS minute, min(at) AS at, sum(received) AS received,
           sum(stored) AS stored, sum(duplicate) AS duplicate, sum(rejected) AS rejected, sum(capped) AS capped,
           sum(deleted) AS deleted
    FROM merged GROUP BY 1, 2, 3, 4
)
INSERT INTO observability.ingest_ledger
    (at, account, site, key, received, stored, duplicate, rejected, capped, deleted, reasons, xid)
SELECT at, account, site, key, received, stored, duplicate, rejected, capped, deleted, coalesce(reasons, '{}'), NULL
FROM summed LEFT JOIN counted USING (account, site, key, minute)
