-- Fragments, which composing.py puts together: cells*, histograms*, both, split_*, raw_*, events, what they are filled
-- with, and match_*. Everything else has its parts filled in by it.

-- name: make_room_to_sort
-- Histograms of many endpoints are some megabytes, and spilling them to disk costs as much as to add them up.
SET LOCAL work_mem = '32MB'

-- name: match_series
WITH found AS MATERIALIZED (
    SELECT id, service, method FROM observability.series WHERE account = %(account)s AND {filters}
)
SELECT ARRAY(SELECT id FROM found) AS numbers, coalesce(array_agg(service), '{{}}') AS services,
       coalesce(array_agg(method), '{{}}') AS methods
FROM (SELECT DISTINCT service, method FROM found) AS pair

-- name: match_service
lower(service) = lower(%(service)s)

-- name: match_endpoint
lower(endpoint) = lower(%(endpoint)s)

-- name: match_method
lower(method) = lower(%(method)s)

-- name: match_services
lower(service) IN (SELECT lower(name) FROM unnest(%(services)s::text[]) AS name)

-- name: see_everything
-- Time windows decide which partitions are read: the questions themselves are planned with the values at hand. Where
-- everything is of one account, nothing has to be told apart.
SELECT rollups.*, set_config('plan_cache_mode', 'force_custom_plan', true),
       %(account)s = ALL (ARRAY[(SELECT min(account) FROM observability.series),
                                (SELECT max(account) FROM observability.series)])
FROM ({rollups}) AS rollups

-- name: see_some
-- To plan a query about the rollups of few series takes longer than to run it, and as each is looked up by itself, there
-- is one plan. Kept, it has all partitions of the events in it, and locks them each time: good as long as they are few.
SELECT rollups.*, set_config('plan_cache_mode', CASE
    WHEN cardinality(found.numbers) <= %(few_series_max)s
        AND (SELECT count(*) FROM pg_inherits WHERE inhparent = 'observability.event'::regclass) <= 60
    THEN 'force_generic_plan' ELSE 'force_custom_plan' END, true), found.*
FROM ({rollups}) AS rollups, ({series}) AS found

-- name: match_endpoints
SELECT coalesce(array_agg(id), '{}')
FROM observability.series
JOIN unnest(%(shown_services)s::text[], %(shown_endpoints)s::text[]) AS shown (service, endpoint)
    USING (service, endpoint)
WHERE account = %(account)s AND (%(method)s::text IS NULL OR lower(method) = lower(%(method)s))

-- name: of_one_series
series = one.number

-- name: of_series
series = ANY(%(series)s)

-- name: of_many_series
-- Of a table, so that the planner knows how many of all series they are: looked up one by one, many cost more than all
-- events.
series IN (SELECT id FROM observability.series WHERE id = ANY(%(series)s))

-- name: of_account
series IN (SELECT id FROM observability.series WHERE account = %(account)s)

-- name: of_everyone
true

-- name: of_coarse_account
account = %(account)s

-- name: of_one_method
account = %(account)s AND service = one.service AND method = one.method

-- name: errors_of_rollups
-- How many hits have a status from that on.
hits - coalesce(status_ends[width_bucket((%(error_from)s - 1)::smallint, status_codes)], 0)

-- name: errors_of_events
count(*) FILTER (WHERE status_code >= %(error_from)s)

-- name: cells
SELECT bucket AS at, series, hits, {errors} AS errors, latency_sum_ms, latency_max_ms
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {scope}

-- name: cells_coarse
SELECT bucket AS at, hits, {errors} AS errors, latency_sum_ms, latency_max_ms
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {scope}

-- name: histograms
SELECT bucket AS at, series, histograms[1] AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {scope}

-- name: split_histograms
SELECT bucket AS at, series, unnest(histograms) AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {scope}

-- name: histograms_coarse
SELECT bucket AS at, histograms[1] AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {scope}

-- name: both
SELECT hits, {errors} AS errors, latency_sum_ms, latency_max_ms, histograms[1] AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {scope}

-- name: split_both
-- Arrays of one row are unnested side by side, and the shorter ones filled up with NULL, which no sum counts.
SELECT unnest(ARRAY[hits]) AS hits, unnest(ARRAY[{errors}]) AS errors,
       unnest(ARRAY[latency_sum_ms]) AS latency_sum_ms, unnest(ARRAY[latency_max_ms]) AS latency_max_ms,
       unnest(histograms) AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {scope}

-- name: raw_cells
SELECT at, series, count(*) AS hits, {errors} AS errors, sum(latency_ms) AS latency_sum_ms,
       max(latency_ms) AS latency_max_ms
FROM ({events}) AS event GROUP BY 1, 2

-- name: raw_cells_coarse
SELECT at, count(*) AS hits, {errors} AS errors, sum(latency_ms) AS latency_sum_ms, max(latency_ms) AS latency_max_ms
FROM ({events}) AS event GROUP BY 1

-- name: raw_histograms
SELECT at, series, observability.histogram_of(hits, bin) AS histogram
FROM (SELECT at, series, observability.latency_bin(latency_ms) AS bin, count(*) AS hits
      FROM ({events}) AS event GROUP BY 1, 2, 3) AS counted

-- name: raw_histograms_coarse
SELECT at, observability.histogram_of(hits, bin) AS histogram
FROM (SELECT at, observability.latency_bin(latency_ms) AS bin, count(*) AS hits
      FROM ({events}) AS event GROUP BY 1, 2) AS counted

-- name: raw_both
-- The events are read once, and a logarithm is taken once for each latency.
SELECT hits, errors, latency_ms * hits AS latency_sum_ms, latency_ms AS latency_max_ms,
       observability.histogram_of(hits, observability.latency_bin(latency_ms)) AS histogram
FROM (SELECT latency_ms, count(*) AS hits, {errors} AS errors FROM ({events}) AS event GROUP BY 1) AS counted

-- name: raw_latencies
SELECT at, series, status_code, latency_ms FROM ({events}) AS event

-- name: events
SELECT {at} AS at, series, status_code, latency_ms
FROM observability.event WHERE time >= {start} AND time < {end} AND {scope}

-- name: events_of_many
-- The series are looked up once, not once for each span.
SELECT at, series, status_code, latency_ms FROM ({events}) AS event WHERE {scope}

-- name: any_time
NULL::timestamptz

-- name: hour_of_event
date_trunc('hour', time, 'UTC')

-- name: step_of_event
date_bin(%(step)s, time, timestamptz '2000-01-01 00:00Z')

-- name: each_span
-- Many spans in one part: it costs the planner as much as one. OFFSET keeps it from joining in any other way.
SELECT part.*
FROM unnest({starts}::timestamptz[], {ends}::timestamptz[]) AS span (start_time, end_time)
CROSS JOIN LATERAL ({part} OFFSET 0) AS part

-- name: each_series
-- Each is looked up by itself. The planner does not know that the rollups of one lie side by side, and would rather
-- read those of all series.
SELECT part.* FROM unnest(%(series)s::integer[]) AS one (number) CROSS JOIN LATERAL ({part} OFFSET 0) AS part

-- name: each_method
-- The same, of the coarser level.
SELECT part.*
FROM unnest(%(found_services)s::text[], %(found_methods)s::text[]) AS one (service, method)
CROSS JOIN LATERAL ({part} OFFSET 0) AS part

-- name: totals
SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(errors), 0)::bigint, coalesce(sum(latency_sum_ms), 0)::bigint,
       max(latency_max_ms)
FROM ({parts}) AS cell

-- name: totals_by_endpoint
-- By series first: numbers are compared quicker than texts, and there are fewer rows to join.
SELECT service, endpoint, sum(hits)::bigint, sum(errors)::bigint, sum(latency_sum_ms)::bigint, max(latency_max_ms)
FROM (SELECT series, sum(hits) AS hits, sum(errors) AS errors, sum(latency_sum_ms) AS latency_sum_ms,
             max(latency_max_ms) AS latency_max_ms
      FROM ({parts}) AS cell
      GROUP BY series) AS summed
JOIN observability.series ON id = series
GROUP BY service, endpoint

-- name: totals_by_bucket
SELECT date_trunc({unit}, at, 'UTC') AS bucket, service, endpoint, sum(hits)::bigint, sum(errors)::bigint,
       sum(latency_sum_ms)::bigint, max(latency_max_ms)
FROM ({parts}) AS cell JOIN observability.series ON id = series
GROUP BY 1, service, endpoint
-- The same order on every server, whatever its locale.
ORDER BY 1 DESC, service COLLATE "C", endpoint COLLATE "C"
LIMIT %(limit)s

-- name: totals_and_histogram
SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(errors), 0)::bigint, coalesce(sum(latency_sum_ms), 0)::bigint,
       max(latency_max_ms), sum(histogram)::text
FROM ({parts}) AS part

-- name: totals_and_percentiles
SELECT count(*), count(*) FILTER (WHERE status_code >= %(error_from)s), coalesce(sum(latency_ms), 0)::bigint,
       max(latency_ms), percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event

-- name: histogram
SELECT sum(histogram)::text FROM ({parts}) AS part

-- name: histogram_by_endpoint
-- By series first, as above.
SELECT service, endpoint, sum(histogram)::text
FROM (SELECT series, sum(histogram) AS histogram FROM ({parts}) AS part GROUP BY series) AS summed
JOIN observability.series ON id = series
GROUP BY service, endpoint

-- name: histogram_by_bucket
SELECT date_trunc({unit}, at, 'UTC'), service, endpoint, sum(histogram)::text
FROM ({parts}) AS part JOIN observability.series ON id = series
GROUP BY 1, service, endpoint

-- name: percentiles
SELECT percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms) FROM ({parts}) AS event

-- name: totals_beside_percentiles
SELECT totals.*, percentiles.* FROM ({totals}) AS totals, ({percentiles}) AS percentiles

-- name: percentiles_by_endpoint
SELECT service, endpoint, percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event JOIN observability.series ON id = series
GROUP BY service, endpoint

-- name: percentiles_by_bucket
SELECT date_trunc({unit}, at, 'UTC'), service, endpoint,
       percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event JOIN observability.series ON id = series
GROUP BY 1, service, endpoint

-- name: totals_by_step
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'), sum(hits)::bigint, sum(errors)::bigint,
       sum(latency_sum_ms)::bigint, max(latency_max_ms)
FROM ({parts}) AS cell
GROUP BY 1

-- name: histogram_by_step
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'), sum(histogram)::text
FROM ({parts}) AS part
GROUP BY 1

-- name: percentiles_by_step
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'),
       percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event
GROUP BY 1
