-- Fragments named filter_* and column_* are composed by filters.py, and {visible} is filled in by queries.py; everything
-- else is a complete statement.

-- name: visible
-- Of the columns of observability.series: what an Access may see. See access.py.
account = %(account)s AND (%(visible_sites)s::integer[] IS NULL OR site = ANY(%(visible_sites)s))
    AND (%(visible_services)s::text[] IS NULL OR service = ANY(%(visible_services)s))

-- name: find_series
-- With the generation of the same snapshot, which is returned alone if no series is found. Whether timed or not: a series
-- has room where the other of its texts exists.
SELECT generation.number, found.*
FROM observability.series_generation AS generation
LEFT JOIN (
    SELECT id, service, endpoint, method, timed
    FROM observability.series
    JOIN unnest(%(services)s::text[], %(endpoints)s::text[], %(methods)s::text[]) AS wanted (service, endpoint, method)
        USING (service, endpoint, method)
    WHERE account = %(account)s AND site = %(site)s) AS found ON true

-- name: lock_series
-- Until the end of the transaction: no other session may insert between the count and the insert.
SELECT pg_advisory_xact_lock(hashtext('observability.series'), %(account)s)

-- name: insert_series
-- Timed or not, series of the same texts of a site count as one.
WITH wanted AS (
    SELECT *, EXISTS (
        SELECT FROM observability.series AS known
        WHERE known.account = %(account)s AND known.site = %(site)s AND known.service = wanted.service
          AND known.endpoint = wanted.endpoint AND known.method = wanted.method) AS is_counted
    FROM unnest(%(services)s::text[], %(endpoints)s::text[], %(methods)s::text[], %(timed)s::boolean[])
        AS wanted (service, endpoint, method, timed)
), numbered AS (
    SELECT *, dense_rank() OVER (PARTITION BY is_counted ORDER BY service, endpoint, method) AS number FROM wanted
)
INSERT INTO observability.series (account, site, service, endpoint, method, timed)
SELECT %(account)s, %(site)s, service, endpoint, method, timed
FROM numbered
WHERE (is_counted OR number <= %(items_max)s - (
        SELECT count(*) FROM (
            SELECT DISTINCT site, service, endpoint, method FROM observability.series
            WHERE account = %(account)s
              AND (endpoint = %(other)s)::int + (endpoint = %(other)s AND service = %(other)s)::int = %(kind)s) AS counted))
  AND NOT EXISTS (
    SELECT FROM observability.series AS known
    WHERE known.account = %(account)s AND known.site = %(site)s AND known.service = numbered.service
      AND known.endpoint = numbered.endpoint AND known.method = numbered.method AND known.timed = numbered.timed)
ORDER BY service, endpoint, method, timed
-- Somebody may insert by hand, without the lock.
ON CONFLICT DO NOTHING

-- name: match_series
-- These filters ignore case, as those of the service that this one replaces do.
SELECT id
FROM observability.series
WHERE {visible}
  AND (%(service)s::text IS NULL OR service_lower = lower(%(service)s))
  AND (%(endpoint)s::text IS NULL OR endpoint_lower = lower(%(endpoint)s))
  AND (%(method)s::text IS NULL OR method_lower = lower(%(method)s))
  AND (%(services)s::text[] IS NULL OR service_lower IN (SELECT lower(name) FROM unnest(%(services)s::text[]) AS name))

-- name: search_series
SELECT id
FROM observability.series
WHERE {visible} AND (service ILIKE %(pattern)s OR endpoint ILIKE %(pattern)s)

-- name: visible_series
-- NULL if there are no others. As text: the client only sends it back, and would need longer for it than the server does.
SELECT numbers::text, cardinality(numbers)
FROM (SELECT CASE WHEN NOT {alone} OR %(visible_sites)s::integer[] IS NOT NULL OR %(visible_services)s::text[] IS NOT NULL
                  THEN ARRAY(SELECT id FROM observability.series WHERE {visible} LIMIT %(limit)s) END) AS found (numbers)

-- name: alone
-- Whether only one account has had series.
NOT EXISTS (SELECT FROM observability.series_account WHERE account <> %(account)s)

-- name: ensure_partitions
-- Or chunks of long ago, where events are in a hypertable.
SELECT observability.ensure_days(%(days)s::date[])

-- name: measure_partition_locks
-- How many partitions there are, and the locks on them and on their indexes.
SELECT count(DISTINCT inhrelid), count(DISTINCT inhrelid) + count(indexrelid)
FROM pg_inherits LEFT JOIN pg_index ON indrelid = inhrelid
WHERE inhparent = 'observability.event'::regclass

-- name: measure_chunk_locks
-- As of partitions, of hypertables: one question reads events, and rollups by series, of hours and of days. With a chunk
-- that is columns, also the table and the index are locked that have these.
SELECT count(*), coalesce(sum(
           1 + (SELECT count(*) FROM pg_index WHERE indrelid = format('%I.%I', chunk_schema, chunk_name)::regclass)
           + CASE WHEN is_compressed THEN 2 ELSE 0 END), 0)::bigint
FROM timescaledb_information.chunks
WHERE (hypertable_schema, hypertable_name) IN (
    SELECT 'observability', 'event'
    UNION ALL
    SELECT materialization_hypertable_schema, materialization_hypertable_name
    FROM timescaledb_information.continuous_aggregates
    WHERE view_schema = 'observability'
      AND view_name IN ('rollup_hour', 'rollup_day', 'histogram_hour', 'histogram_day'))

-- name: locks_max
-- How many locks the server has for all sessions.
SELECT current_setting('max_locks_per_transaction')::bigint
       * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)

-- name: is_hypertable
SELECT relkind <> 'p' FROM pg_class WHERE oid = 'observability.event'::regclass

-- name: copy_events
COPY observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
FROM STDIN (FORMAT BINARY)

-- name: event_id_services
SELECT from_time FROM observability.event_id_services

-- name: any_moved
SELECT EXISTS (SELECT FROM observability.event_moved WHERE id BETWEEN %(first_id)s AND %(last_id)s)

-- name: create_staging
CREATE TEMPORARY TABLE IF NOT EXISTS event_staging (LIKE observability.event) ON COMMIT {on_commit}

-- name: copy_staging
COPY event_staging (id, time, series, status_code, latency_ms, trace_id, user_ref, tags) FROM STDIN (FORMAT BINARY)

-- name: insert_from_staging
INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
SELECT id, time, series, status_code, latency_ms, trace_id, user_ref, tags
FROM event_staging
WHERE NOT EXISTS (SELECT FROM observability.event_moved AS moved WHERE moved.id = event_staging.id)
-- In one order everywhere, so that two writers of the same rows cannot deadlock.
ORDER BY id
ON CONFLICT (time, id) DO NOTHING

-- name: count_differing
-- Of the rows of staging, those that are stored with other details. The span of time leaves out the other partitions.
SELECT count(*)
FROM event_staging AS new
JOIN observability.event AS e ON e.time = new.time AND e.id = new.id
WHERE e.time BETWEEN (SELECT min(time) FROM event_staging) AND (SELECT max(time) FROM event_staging)
  AND (e.series, e.status_code, e.latency_ms, e.trace_id, e.user_ref, e.tags) IS DISTINCT FROM
      (new.series, new.status_code, new.latency_ms, new.trace_id, new.user_ref, new.tags)

-- name: replace_from_staging
UPDATE observability.event AS e
SET series = new.series, status_code = new.status_code, latency_ms = new.latency_ms,
    trace_id = new.trace_id, user_ref = new.user_ref, tags = new.tags
FROM event_staging AS new
WHERE e.time = new.time AND e.id = new.id
  AND e.time BETWEEN (SELECT min(time) FROM event_staging) AND (SELECT max(time) FROM event_staging)
  AND (e.series, e.status_code, e.latency_ms, e.trace_id, e.user_ref, e.tags) IS DISTINCT FROM
      (new.series, new.status_code, new.latency_ms, new.trace_id, new.user_ref, new.tags)

-- name: clear_staging
TRUNCATE event_staging

-- name: find_event
SELECT e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
       observability.tags_text(e.tags, %(tags_max_bytes)s), s.site
FROM observability.event AS e
JOIN observability.series AS s ON s.id = e.series
WHERE e.time >= %(from_time)s AND e.time < %(to_time)s AND e.id = %(id)s AND {visible}

-- name: lock_event
-- An update that changes nothing: TimescaleDB cannot lock rows of compressed chunks, but decompresses those it updates.
UPDATE observability.event AS e
SET series = e.series
FROM observability.series AS s
WHERE s.id = e.series AND e.time >= %(from_time)s AND e.time < %(to_time)s AND e.id = %(id)s
  AND {visible}
RETURNING e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
          observability.tags_text(e.tags, %(tags_max_bytes)s), s.site

-- name: find_moved
SELECT time FROM observability.event_moved WHERE id = %(id)s

-- name: update_event
UPDATE observability.event
SET series = %(series)s, status_code = %(status_code)s, latency_ms = %(latency_ms)s,
    trace_id = %(trace_id)s, user_ref = %(user_ref)s, tags = %(tags)s::jsonb
WHERE time = %(time)s AND id = %(id)s

-- name: insert_event
INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
VALUES (%(id)s, %(time)s, %(series)s, %(status_code)s, %(latency_ms)s, %(trace_id)s, %(user_ref)s, %(tags)s::jsonb)

-- name: delete_event
DELETE FROM observability.event WHERE time = %(time)s AND id = %(id)s

-- name: batch_end
-- The last time of a batch; no row if it is the last batch. Events of one time are in one batch, however many.
SELECT e.time FROM observability.event AS e WHERE {where} ORDER BY e.time LIMIT 1 OFFSET %(batch_events)s - 1

-- name: allow_decompression
-- TimescaleDB decompresses what it deletes or updates, and by default no more than 100,000 rows in a transaction.
SELECT set_config(name, '0', true)
FROM (VALUES ('timescaledb.max_tuples_decompressed_per_dml_transaction')) AS setting (name)
WHERE current_setting(name, true) IS NOT NULL

-- name: delete_selected
DELETE FROM observability.event AS e WHERE {where} RETURNING e.id, e.time

-- name: delete_all_moved
DELETE FROM observability.event_moved WHERE id = ANY(%(ids)s)

-- name: list_series
SELECT id FROM observability.series WHERE account = %(account)s ORDER BY id

-- name: has_rollup_tables
-- On TimescaleDB, rollups are views.
SELECT relkind = 'r' FROM pg_class WHERE oid = 'observability.rollup_hour'::regclass

-- name: purge_series_rows
DELETE FROM observability.{table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM observability.{table} WHERE series = ANY(%(series)s::integer[]) LIMIT %(limit)s))

-- name: purge_account_rows
DELETE FROM observability.{table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM observability.{table} WHERE account = %(account)s LIMIT %(limit)s))

-- name: raw_watermark
SELECT nullif(from_time, '-infinity') FROM observability.retention WHERE level = 'raw'

-- name: set_moved
INSERT INTO observability.event_moved (id, time) VALUES (%(id)s, %(time)s)
ON CONFLICT (id) DO UPDATE SET time = excluded.time

-- name: delete_moved
DELETE FROM observability.event_moved WHERE id = %(id)s

-- name: touch_hours
WITH touched AS (
    INSERT INTO observability.rollup_touched (account, hour)
    SELECT DISTINCT %(account)s::integer, date_trunc('hour', time, 'UTC') FROM unnest(%(times)s::timestamptz[]) AS time
)
SELECT (SELECT from_time FROM observability.retention WHERE level = 'raw' AND from_time > ANY(%(times)s::timestamptz[])),
       number
FROM observability.series_generation

-- name: any_event
SELECT EXISTS (SELECT FROM observability.event)

-- name: scan_events
SELECT e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
       observability.tags_text(e.tags, %(tags_max_bytes)s)
FROM observability.event AS e
JOIN observability.series AS s ON s.id = e.series
WHERE {where}
ORDER BY {order}

-- name: list_events
-- What tags_text does first is written out: of most tags it is all, and to call it takes longer than the rest of a row.
-- OFFSET keeps the text from being made twice.
SELECT id, time, service, endpoint, method, status_code, latency_ms, trace_id, user_ref,
       CASE WHEN octet_length(tags) <= %(tags_max_bytes)s THEN tags END AS tags
FROM (
    SELECT id, time, service, endpoint, method, status_code, latency_ms, trace_id, user_ref,
           CASE WHEN pg_column_size(stored_tags) < 300 THEN stored_tags::text
                ELSE observability.tags_text(stored_tags, %(tags_max_bytes)s) END AS tags
    FROM ({page}) AS page
    OFFSET 0) AS served

-- name: list_fitting_events
-- The last column tells whether the tags up to here are within the limit of a page; of the others, only the event is sent.
-- A window without an order of its own keeps that of its rows.
SELECT id, time, service, endpoint, method, status_code, latency_ms, trace_id, user_ref,
       CASE WHEN fits THEN tags END, fits
FROM (
    SELECT *, coalesce(sum(octet_length(tags)) OVER (ROWS UNBOUNDED PRECEDING), 0) <= %(page_max_bytes)s AS fits
    FROM ({events} OFFSET 0) AS listed) AS counted

-- name: page_of_events
SELECT e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
       e.tags AS stored_tags
FROM observability.event AS e
{join} observability.series AS s ON s.id = e.series
WHERE {where}
ORDER BY {order}
LIMIT %(limit)s OFFSET %(offset)s

-- name: page_of_few_events
-- Of one trace, found by its index and then sorted. The planner does not know how few they are where chunks are columns, and
-- would read all events in their order. OFFSET keeps it from that.
SELECT e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
       e.tags AS stored_tags
FROM (SELECT * FROM observability.events_of_trace(%(trace_id)s, {start}, {end}) AS e WHERE {where} OFFSET 0) AS e
{join} observability.series AS s ON s.id = e.series
WHERE {conditions}
ORDER BY {order}
LIMIT %(limit)s OFFSET %(offset)s

-- name: page_of_trace
SELECT e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
       e.tags AS stored_tags
FROM (SELECT * FROM observability.events_of_trace(%(trace_id)s, '-infinity', 'infinity') AS e OFFSET 0) AS e
JOIN observability.series AS s ON s.id = e.series
WHERE {visible}
ORDER BY e.time, e.id
LIMIT %(limit)s

-- name: count_events
-- The precondition is apart: beside the others, it would be asked for each partition, and each event would pass there.
-- NULL if it does not hold.
SELECT CASE WHEN {precondition} THEN (SELECT count(*) FROM observability.event AS e WHERE {where}) END

-- name: estimate_events
EXPLAIN (FORMAT JSON) SELECT FROM observability.event AS e WHERE {where}

-- name: filter_series
e.series = ANY(%(series)s::integer[])

-- name: filter_alone
{alone}

-- name: filter_visible
e.series IN (SELECT id FROM observability.series WHERE {visible})

-- name: filter_visible_joined
-- After a left join, which the planner cannot turn round: it reads events in their order until the page is full. What it
-- thinks that the policies of the table of series leave is too little, and it would look up and sort the events of each.
-- CASE, because a condition that no absent series meets makes it an inner join.
CASE WHEN s.id IS NOT NULL AND {visible} THEN true ELSE false END

-- name: join_first
JOIN

-- name: join_last
LEFT JOIN

-- name: filter_trace_id
e.trace_id = %(trace_id)s

-- name: filter_user_ref
e.user_ref = %(user_ref)s

-- name: filter_status_code
e.status_code = %(status_code)s

-- name: filter_status_codes
e.status_code = ANY(%(status_codes)s)

-- name: filter_status_class
e.status_code >= %(status_from)s AND e.status_code < %(status_to)s

-- name: filter_start
e.time >= %(start)s

-- name: filter_end
e.time <= %(end)s

-- name: filter_latency_min
e.latency_ms >= %(latency_min)s

-- name: filter_latency_max
e.latency_ms <= %(latency_max)s

-- name: filter_search
(e.series = ANY({series}) OR e.trace_id ILIKE {pattern} OR e.user_ref ILIKE {pattern})

-- name: filter_search_series
e.series = ANY({series})

-- name: filter_nothing
FALSE

-- name: filter_kept
e.time >= (SELECT from_time FROM observability.retention WHERE level = 'raw')

-- name: filter_from
e.time >= %(batch_start)s

-- name: filter_until
e.time <= %(batch_end)s

-- name: filter_everything
TRUE

-- name: column_time
e.time

-- name: column_id
e.id

-- name: column_latency_ms
coalesce(e.latency_ms::bigint, {absent})

-- name: column_status_code
e.status_code

-- name: column_service
-- The same order on every server, regardless of its locale.
s.service COLLATE "C"

-- name: column_endpoint
s.endpoint COLLATE "C"

-- name: column_method
s.method COLLATE "C"

-- name: append_ledger
-- Also notes the hours whose rollups have to be computed again, in one statement because a round trip costs as much as
-- the rows. Returns the watermark of retention, if some of these hours lie before it, and the generation of the series.
-- Removal of events or series waits for all writers of events: this statement sees what was removed before it, and
-- nothing is removed between it and the commit.
WITH touched AS (
    INSERT INTO observability.rollup_touched (account, hour) SELECT %(account)s::integer, unnest(%(hours)s::timestamptz[])
), entry AS (
    INSERT INTO observability.ingest_ledger
        (account, site, key, received, stored, duplicate, rejected, capped, deleted, reasons, from_time, to_time)
    VALUES (%(account)s, %(site)s, %(sender)s, %(received)s, %(stored)s, %(duplicate)s, %(rejected)s, %(capped)s, %(deleted)s,
            %(reasons)s::jsonb, %(from_time)s, %(to_time)s)
)
SELECT (SELECT from_time FROM observability.retention WHERE level = 'raw' AND from_time > ANY(%(hours)s::timestamptz[])),
       number
FROM observability.series_generation

-- name: insert_event_with_entry
-- An event and what append_ledger writes for it, in one round trip, which may be the whole transaction: nothing is written
-- if it is too old, or if its series is of another generation. The last column tells whether it is new.
WITH known AS MATERIALIZED (
    SELECT (SELECT from_time FROM observability.retention WHERE level = 'raw' AND from_time > ANY(%(hours)s::timestamptz[]))
               AS since, number
    FROM observability.series_generation
), valid AS MATERIALIZED (
    SELECT FROM known WHERE since IS NULL AND number = %(generation)s
), inserted AS (
    INSERT INTO observability.event (id, time, series, status_code, latency_ms, trace_id, user_ref, tags)
    SELECT %(id)s, %(time)s, %(series)s, %(status_code)s, %(latency_ms)s, %(trace_id)s, %(user_ref)s, %(tags)s::jsonb
    FROM valid
    WHERE NOT EXISTS (SELECT FROM observability.event_moved WHERE id = %(id)s)
    ON CONFLICT (time, id) DO NOTHING
    RETURNING 1
), counted AS MATERIALIZED (
    SELECT count(*) AS events FROM inserted
), touched AS (
    INSERT INTO observability.rollup_touched (account, hour)
    SELECT %(account)s::integer, unnest(%(hours)s::timestamptz[]) FROM valid
), entry AS (
    INSERT INTO observability.ingest_ledger
        (account, site, key, received, stored, duplicate, rejected, capped, deleted, reasons, from_time, to_time)
    SELECT %(account)s::integer, %(site)s::integer, %(sender)s, %(received)s, events, 1 - events, %(rejected)s, %(capped)s,
           0, %(reasons)s::jsonb, %(time)s, %(time)s
    FROM valid, counted
)
SELECT since, number, events FROM known, counted

-- name: sum_ledger
SELECT coalesce(sum(received), 0), coalesce(sum(stored), 0), coalesce(sum(duplicate), 0), coalesce(sum(rejected), 0),
       coalesce(sum(capped), 0), coalesce(sum(deleted), 0)
FROM observability.ingest_ledger
WHERE account = %(account)s AND (%(visible_sites)s::integer[] IS NULL OR site = ANY(%(visible_sites)s))
  AND at BETWEEN %(start)s AND %(end)s AND (%(sender)s::text IS NULL OR key = %(sender)s)
  AND (%(only_sender)s::text IS NULL OR key = %(only_sender)s)

-- name: arrivals_now
SELECT pg_current_snapshot()::text, extract(epoch FROM now())::float8

-- name: list_arrived_batches
-- Of transactions that a snapshot did not see: those that had not begun, and those that were running. Those that have not
-- begun now either are of another server, which a dump was made of.
SELECT xid::text, from_time, to_time, stored
FROM observability.ingest_ledger
WHERE account = %(account)s AND (%(visible_sites)s::integer[] IS NULL OR site = ANY(%(visible_sites)s))
  AND (xid >= %(next_xid)s::text::xid8 OR xid = ANY(%(running_xids)s::text[]::xid8[]))
  AND xid < pg_snapshot_xmax(pg_current_snapshot())
  AND stored > 0 AND at >= %(since)s
LIMIT %(limit)s

-- name: end_of_columns
-- Up to where events of TimescaleDB may be in columnar chunks; NULL if none are.
SELECT max(range_end) FROM timescaledb_information.chunks
WHERE hypertable_schema = 'observability' AND hypertable_name = 'event' AND is_compressed

-- name: list_arrived_events
-- The keys of events that some transactions stored and some conditions select, in order of time: all of them, or as many,
-- evenly spread. With how many there are, and how many events were looked at for them. Where rows begin is a constant, not a
-- parameter: a plan that has a columnar chunk is refused, whatever it would read of it.
WITH scanned AS MATERIALIZED (
    SELECT e.*
    FROM unnest(%(from_times)s::timestamptz[], %(to_times)s::timestamptz[]) AS span (from_time, to_time)
    CROSS JOIN LATERAL (
        SELECT event.id, event.time, event.series, event.status_code, event.latency_ms, event.trace_id, event.user_ref,
               event.xmin AS xid
        FROM observability.event
        WHERE event.time BETWEEN span.from_time AND span.to_time AND event.time >= {rows_from}
        ORDER BY event.time DESC, event.id
        LIMIT %(scan_max)s) AS e
    LIMIT %(scan_max)s
), matched AS (
    SELECT e.id, e.time, row_number() OVER (ORDER BY e.time, e.id) AS number, count(*) OVER () AS total
    FROM scanned AS e
    WHERE e.xid = ANY(%(xids)s::text[]::xid[]) AND {where}
)
SELECT id, time, total, (SELECT count(*) FROM scanned)
FROM (SELECT) AS always
LEFT JOIN matched ON number * %(limit)s / greatest(total, %(limit)s) > (number - 1) * %(limit)s / greatest(total, %(limit)s)
ORDER BY number

-- name: page_of_keys
SELECT e.id, e.time, s.service, s.endpoint, s.method, e.status_code, e.latency_ms, e.trace_id, e.user_ref,
       e.tags AS stored_tags
FROM unnest(%(ids)s::uuid[], %(times)s::timestamptz[]) AS key (id, time)
JOIN observability.event AS e ON e.time = key.time AND e.id = key.id
JOIN observability.series AS s ON s.id = e.series
WHERE {visible}
ORDER BY e.time, e.id

-- name: sum_ledger_by_sender
SELECT key, min(at), max(at), sum(received)::bigint, sum(stored)::bigint, sum(duplicate)::bigint, sum(rejected)::bigint,
       sum(capped)::bigint, sum(deleted)::bigint
FROM observability.ingest_ledger
WHERE account = %(account)s AND (%(visible_sites)s::integer[] IS NULL OR site = ANY(%(visible_sites)s))
  AND at BETWEEN %(start)s AND %(end)s AND (%(sender)s::text IS NULL OR key = %(sender)s)
  AND (%(only_sender)s::text IS NULL OR key = %(only_sender)s)
GROUP BY key
ORDER BY sum(received) DESC, key
LIMIT %(limit)s

-- name: sum_ledger_by_step
SELECT date_bin(%(step)s, at, %(origin)s), sum(stored)::bigint, sum(duplicate)::bigint, sum(rejected)::bigint
FROM observability.ingest_ledger
WHERE account = %(account)s AND (%(visible_sites)s::integer[] IS NULL OR site = ANY(%(visible_sites)s))
  AND at BETWEEN %(start)s AND %(end)s AND (%(sender)s::text IS NULL OR key = %(sender)s)
  AND (%(only_sender)s::text IS NULL OR key = %(only_sender)s)
GROUP BY 1
ORDER BY 1

-- name: list_capped_senders
-- Of all accounts: most have none, and each is one look into the index.
SELECT account, key, sum(capped)
FROM observability.ingest_ledger
WHERE account IN (SELECT account FROM observability.series_account) AND at > now() - interval '1 day' AND capped > 0
GROUP BY account, key
ORDER BY sum(capped) DESC, account, key
LIMIT %(limit)s

-- name: sum_refused
SELECT sum(received), sum(rejected) FROM observability.ingest_ledger WHERE at > now() - interval '1 day'

-- name: list_refusals
SELECT reason, sum(items::bigint)
FROM observability.ingest_ledger, jsonb_each_text(reasons) AS each (reason, items)
WHERE at > now() - interval '1 day' AND rejected > 0
GROUP BY reason
ORDER BY sum(items::bigint) DESC, reason
LIMIT %(limit)s

-- name: list_ledger
WITH entry AS (
    SELECT date_trunc('minute', at) AS minute, account, key, received, stored, duplicate, rejected, capped, deleted,
           reasons
    FROM observability.ingest_ledger
    WHERE account = %(account)s AND (%(visible_sites)s::integer[] IS NULL OR site = ANY(%(visible_sites)s))
  AND at BETWEEN %(start)s AND %(end)s AND (%(sender)s::text IS NULL OR key = %(sender)s)
  AND (%(only_sender)s::text IS NULL OR key = %(only_sender)s) AND (NOT %(refused)s OR rejected > 0)
), counted AS (
    SELECT minute, key, jsonb_object_agg(reason, items) AS reasons
    FROM (SELECT minute, key, reason, sum(items::bigint) AS items
          FROM entry, jsonb_each_text(reasons) AS each (reason, items)
          GROUP BY minute, key, reason) AS by_reason
    GROUP BY minute, key
)
SELECT minute, account, key, sum(received), sum(stored), sum(duplicate), sum(rejected), sum(capped), sum(deleted),
       coalesce(counted.reasons, '{}')::text
FROM entry LEFT JOIN counted USING (minute, key)
GROUP BY minute, account, key, counted.reasons
ORDER BY minute DESC, key
LIMIT %(limit)s

-- name: limit_export_pauses
-- The server ends the session of an export whose client has stopped reading.
SELECT set_config('idle_in_transaction_session_timeout', %(pause_ms)s, true)

-- name: has_continuous_aggregates
SELECT to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])') IS NOT NULL

-- name: find_lost_license
-- The setting, where continuous aggregates show that it was another one when the tables were made.
SELECT coalesce(current_setting('timescaledb.license', true), 'unknown')
WHERE to_regprocedure('observability.refresh_day(timestamptz, timestamptz[])') IS NOT NULL
  AND current_setting('timescaledb.license', true) IS DISTINCT FROM 'timescale'

-- name: refresh_continuous_aggregates
CALL observability.refresh_day(%(day)s, %(hours)s)

-- name: drop_chunks
SELECT count(*) FROM drop_chunks(%(table)s::regclass, older_than => %(before)s::timestamptz)

-- name: count_chunks
SELECT count(*) FROM show_chunks(%(table)s::regclass, older_than => %(before)s::timestamptz)

-- name: followed_file
SELECT format, head_sha, head_bytes, position_bytes, last_lines_before
FROM observability.followed_file
WHERE account = %(account)s AND host = %(host)s AND path = %(path)s AND service = %(service)s;

-- name: save_followed_file
INSERT INTO observability.followed_file
    (account, host, path, service, format, head_sha, head_bytes, position_bytes, last_lines_before)
VALUES (%(account)s, %(host)s, %(path)s, %(service)s, %(format)s, %(head_sha)s, %(head_bytes)s, %(position_bytes)s,
        %(last_lines_before)s)
ON CONFLICT (account, host, path, service) DO UPDATE
SET format = excluded.format, head_sha = excluded.head_sha, head_bytes = excluded.head_bytes,
    position_bytes = excluded.position_bytes, last_lines_before = excluded.last_lines_before, updated_at = now();

-- name: measure_store
-- Of hours that a refresh can compute; bounded, because there are most when nothing refreshes.
SELECT (SELECT count(*) FROM (
            SELECT DISTINCT hour FROM (
                SELECT hour FROM observability.rollup_touched ORDER BY id LIMIT 100000) AS first_ones
            WHERE hour < date_trunc('hour', now(), 'UTC')
              AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw')
            LIMIT 1000) AS hours),
       coalesce((SELECT extract(epoch FROM now() - at) FROM observability.rollup_touched
                 WHERE hour < date_trunc('hour', now(), 'UTC')
                   AND hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw')
                 ORDER BY id LIMIT 1), 0)::float8,
       (SELECT count(*) FROM observability.event_partition),
       (SELECT extract(epoch FROM max(to_time) - now())::float8 FROM observability.event_partition)

-- name: measure_watermarks
SELECT level, extract(epoch FROM from_time)::float8 FROM observability.retention
WHERE level <> 'ledger' AND from_time > '-infinity'

-- name: measure_series
SELECT coalesce(sum(number), 0)::bigint, coalesce(max(number), 0)
FROM (SELECT count(*) AS number FROM (SELECT DISTINCT account, site, service, endpoint, method
                                      FROM observability.series WHERE endpoint <> '__other__') AS counted
      GROUP BY account) AS of_accounts

-- name: list_marks
SELECT time, title, service, url FROM observability.mark
WHERE account = %(account)s AND time >= %(start)s AND time < %(end)s
  AND (%(visible_services)s::text[] IS NULL OR service = ANY(%(visible_services)s::text[]))
  AND (%(services)s::text[] IS NULL OR service IS NULL
       OR lower(service) IN (SELECT lower(name) FROM unnest(%(services)s::text[]) AS name))
ORDER BY time DESC, id DESC
LIMIT %(limit)s

-- name: suggest_texts
-- Names in existing series, for forms: a few of each.
SELECT ARRAY(SELECT DISTINCT service FROM observability.series WHERE {visible} ORDER BY service LIMIT %(limit)s),
       ARRAY(SELECT DISTINCT endpoint FROM observability.series
             WHERE {visible} AND (%(service)s::text IS NULL OR service_lower = lower(%(service)s))
             ORDER BY endpoint LIMIT %(limit)s),
       ARRAY(SELECT DISTINCT method FROM observability.series WHERE {visible} ORDER BY method LIMIT %(limit)s)
