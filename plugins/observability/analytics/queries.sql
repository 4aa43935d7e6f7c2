-- Composed by sql_builder.py, all but raise_work_mem. From top to bottom: the opening query of a session and its filters;
-- dimensions that divide requests into groups; conditions for series; what parts select from rollups and from events;
-- what repeats a part; the outer queries, over {parts}.

-- name: raise_work_mem
-- Histograms of many endpoints are some megabytes, and spilling them to disk takes as long as adding them up.
SET LOCAL work_mem = '32MB'

-- name: open_unfiltered
-- Which partitions a query reads depends on its window, so that each execution is planned with its parameters. If only
-- one account has had series, no condition on series is needed. Numbers of series are returned as text here and below:
-- they are only sent back, and the client takes longer to read and to write an array than the server.
SELECT rollups.*, set_config('plan_cache_mode', 'force_custom_plan', true), ({has_continuous_aggregates}),
       CASE WHEN EXISTS (SELECT FROM observability.series_account WHERE account <> %(account)s)
            THEN ARRAY(SELECT id FROM observability.series WHERE account = %(account)s)::text END
FROM ({rollup_state}) AS rollups

-- name: open_filtered
-- Planning a query over the rollups of few series takes longer than running it, and as series are looked up separately,
-- the plan does not depend on them: it is kept. A kept plan has all partitions of the events in it, and locks them each
-- time: good as long as they are few. Where they are columns, a question that reads events of whole days does not gain by it,
-- and to plan once for all chunks takes six times as long as for those that it reads.
SELECT rollups.*, set_config('plan_cache_mode', CASE
    WHEN cardinality(matching.numbers) <= %(few_series_max)s AND (%(approx)s OR NOT ({has_continuous_aggregates}))
        AND (SELECT count(*) FROM pg_inherits WHERE inhparent = 'observability.event'::regclass) <= 60
    THEN 'force_generic_plan' ELSE 'force_custom_plan' END, true),
    ({has_continuous_aggregates}), matching.numbers::text, matching.services, matching.methods
FROM ({rollup_state}) AS rollups, ({series}) AS matching

-- name: filtered_series
WITH matching AS MATERIALIZED (
    SELECT id, service, method FROM observability.series WHERE account = %(account)s AND {filters}
)
SELECT ARRAY(SELECT id FROM matching) AS numbers, coalesce(array_agg(service), '{{}}') AS services,
       coalesce(array_agg(method), '{{}}') AS methods
FROM (SELECT DISTINCT service, method FROM matching) AS pair

-- name: filter_service
service_lower = lower(%(service)s)

-- name: filter_endpoint
endpoint_lower = lower(%(endpoint)s)

-- name: filter_method
method_lower = lower(%(method)s)

-- name: filter_services
service_lower IN (SELECT lower(name) FROM unnest(%(services)s::text[]) AS name)

-- name: filter_visible_sites
site = ANY(%(visible_sites)s::integer[])

-- name: filter_visible_services
service = ANY(%(visible_services)s::text[])

-- name: filter_service_search
service ILIKE ALL (%(service_search)s::text[])

-- name: filter_endpoint_search
-- A term has no blanks: it matches one or the other.
concat(service, ' ', endpoint) ILIKE ALL (%(endpoint_search)s::text[])

-- name: filter_everything
true

-- name: series_of_groups
-- The series of some groups, within the scope.
SELECT coalesce(array_agg(DISTINCT id), '{{}}')::text
FROM observability.series {owners} JOIN unnest({arrays}) AS shown ({names}) ON {matches}
WHERE account = %(account)s AND {filters}

-- name: owners
-- The applications that own a service: none, one or several.
LEFT JOIN unnest(%(owned_services)s::text[], %(owners)s::text[]) AS owner (owned_service, application)
    ON lower(owned_service) = service_lower

-- name: one_series
series = one.number

-- name: few_series
series = ANY(%(series)s::integer[])

-- name: many_series
-- Through the table of series, so that the planner knows what share of all series they are: many, looked up one by one,
-- cost more than reading all events.
series IN (SELECT id FROM observability.series WHERE id = ANY(%(series)s::integer[]))

-- name: all_series
true

-- name: coarse_account
account = %(account)s

-- name: one_method
account = %(account)s AND service = one.service AND method = one.method

-- name: errors_of_rollups
-- Hits with at least that status: status_ends are running totals in order of status_codes.
hits - coalesce(status_ends[width_bucket((%(error_from)s - 1)::smallint, status_codes)], 0)

-- name: errors_of_status
-- As errors_of_rollups, where a row has one status.
CASE WHEN status_code >= %(error_from)s THEN hits ELSE 0 END

-- name: errors_of_events
count(*) FILTER (WHERE status_code >= %(error_from)s)

-- name: hits_of_statuses
-- Hits with one of the statuses that are asked for, and errors among them.
coalesce(status_ends[width_bucket((%(status_to)s - 1)::smallint, status_codes)], 0)
- coalesce(status_ends[width_bucket((%(status_from)s - 1)::smallint, status_codes)], 0)

-- name: errors_of_statuses
greatest(coalesce(status_ends[width_bucket((%(status_to)s - 1)::smallint, status_codes)], 0)
    - coalesce(status_ends[width_bucket((greatest(%(status_from)s, %(error_from)s) - 1)::smallint, status_codes)], 0), 0)

-- name: some_statuses
status_code >= %(status_from)s AND status_code < %(status_to)s

-- name: rollup_totals
SELECT bucket AS at, series, hits, {errors} AS errors, latency_hits, latency_sum_ms, latency_min_ms, latency_max_ms
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}

-- name: rollup_totals_coarse
SELECT bucket AS at, hits, {errors} AS errors, latency_hits, latency_sum_ms, latency_min_ms, latency_max_ms
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}

-- name: rollup_totals_of_statuses
-- Rollups know how many requests had a status, but not how long these took.
SELECT at, series, hits, errors, 0 AS latency_hits, NULL::bigint AS latency_sum_ms, NULL::integer AS latency_min_ms,
       NULL::integer AS latency_max_ms
FROM (SELECT bucket AS at, series, {hits} AS hits, {errors} AS errors
      FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}) AS counted
WHERE hits > 0

-- name: rollup_totals_of_statuses_coarse
SELECT at, hits, errors, 0 AS latency_hits, NULL::bigint AS latency_sum_ms, NULL::integer AS latency_min_ms,
       NULL::integer AS latency_max_ms
FROM (SELECT bucket AS at, {hits} AS hits, {errors} AS errors
      FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}) AS counted
WHERE hits > 0

-- name: rollup_totals_by_status
-- Rollups know how many requests had a status, but not how long these took.
SELECT at, series, status_code, hits, CASE WHEN status_code >= %(error_from)s THEN hits ELSE 0 END AS errors,
       0 AS latency_hits, NULL::bigint AS latency_sum_ms, NULL::integer AS latency_min_ms,
       NULL::integer AS latency_max_ms
FROM (SELECT bucket AS at, series, status_codes[number] AS status_code,
             status_ends[number] - coalesce(status_ends[number - 1], 0) AS hits
      FROM {view}, generate_subscripts(status_codes, 1) AS number
      WHERE bucket >= {start} AND bucket < {end} AND {condition}) AS counted
WHERE status_code >= %(status_from)s AND status_code < %(status_to)s

-- name: rollup_totals_by_status_coarse
SELECT at, status_code, hits, CASE WHEN status_code >= %(error_from)s THEN hits ELSE 0 END AS errors,
       0 AS latency_hits, NULL::bigint AS latency_sum_ms, NULL::integer AS latency_min_ms,
       NULL::integer AS latency_max_ms
FROM (SELECT bucket AS at, status_codes[number] AS status_code,
             status_ends[number] - coalesce(status_ends[number - 1], 0) AS hits
      FROM {view}, generate_subscripts(status_codes, 1) AS number
      WHERE bucket >= {start} AND bucket < {end} AND {condition}) AS counted
WHERE status_code >= %(status_from)s AND status_code < %(status_to)s

-- name: rollup_histograms
SELECT bucket AS at, series, histograms[1] AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}

-- name: rollup_histograms_by_bin
-- An hour of one series has its histogram in several numbers, one for each bin.
SELECT bucket AS at, series, unnest(histograms) AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}

-- name: rollup_histograms_coarse
SELECT bucket AS at, histograms[1] AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}

-- name: rollup_both
SELECT hits, {errors} AS errors, latency_hits, latency_sum_ms, latency_min_ms, latency_max_ms,
       histograms[1] AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}

-- name: rollup_both_by_bin
-- Arrays of one row are unnested side by side, and the shorter ones filled up with NULL, which no sum counts.
SELECT unnest(ARRAY[hits]) AS hits, unnest(ARRAY[{errors}]) AS errors, unnest(ARRAY[latency_hits]) AS latency_hits,
       unnest(ARRAY[latency_sum_ms]) AS latency_sum_ms, unnest(ARRAY[latency_min_ms]) AS latency_min_ms,
       unnest(ARRAY[latency_max_ms]) AS latency_max_ms, unnest(histograms) AS histogram
FROM {view} WHERE bucket >= {start} AND bucket < {end} AND {condition}

-- name: event_totals
SELECT at, series, count(*) AS hits, {errors} AS errors, count(latency_ms) AS latency_hits,
       sum(latency_ms) AS latency_sum_ms, min(latency_ms) AS latency_min_ms, max(latency_ms) AS latency_max_ms
FROM ({events}) AS event GROUP BY 1, 2

-- name: event_totals_coarse
SELECT at, count(*) AS hits, {errors} AS errors, count(latency_ms) AS latency_hits,
       sum(latency_ms) AS latency_sum_ms, min(latency_ms) AS latency_min_ms, max(latency_ms) AS latency_max_ms
FROM ({events}) AS event GROUP BY 1

-- name: event_totals_by_status
SELECT at, series, status_code, count(*) AS hits, {errors} AS errors, count(latency_ms) AS latency_hits,
       sum(latency_ms) AS latency_sum_ms, min(latency_ms) AS latency_min_ms, max(latency_ms) AS latency_max_ms
FROM ({events}) AS event GROUP BY 1, 2, 3

-- name: event_totals_by_status_coarse
SELECT at, status_code, count(*) AS hits, {errors} AS errors, count(latency_ms) AS latency_hits,
       sum(latency_ms) AS latency_sum_ms, min(latency_ms) AS latency_min_ms, max(latency_ms) AS latency_max_ms
FROM ({events}) AS event GROUP BY 1, 2

-- name: event_histograms
SELECT at, series, observability.histogram_of(hits, bin) AS histogram
FROM (SELECT at, series, observability.latency_bin(latency_ms) AS bin, count(*) AS hits
      FROM ({events}) AS event GROUP BY 1, 2, 3) AS counted

-- name: event_histograms_coarse
SELECT at, observability.histogram_of(hits, bin) AS histogram
FROM (SELECT at, observability.latency_bin(latency_ms) AS bin, count(*) AS hits
      FROM ({events}) AS event GROUP BY 1, 2) AS counted

-- name: event_both
-- By latency first, so that a logarithm is taken once for each latency, not for each event.
SELECT hits, errors, latency_hits, latency_ms * hits AS latency_sum_ms, latency_ms AS latency_min_ms,
       latency_ms AS latency_max_ms, observability.histogram_of(hits, observability.latency_bin(latency_ms)) AS histogram
FROM (SELECT latency_ms, count(*) AS hits, {errors} AS errors, count(latency_ms) AS latency_hits
      FROM ({events}) AS event GROUP BY 1) AS counted

-- name: event_latencies
SELECT at, series, status_code, latency_ms FROM ({events}) AS event

-- name: events
SELECT {time_group} AS at, series, status_code, latency_ms
FROM observability.event WHERE time >= {start} AND time < {end} AND {condition}

-- name: filtered_events
SELECT at, series, status_code, latency_ms FROM ({events}) AS event WHERE {condition}

-- name: no_time
NULL::timestamptz

-- name: hour_of_event
date_trunc('hour', time, 'UTC')

-- name: step_of_event
date_bin(%(step)s, time, timestamptz '2000-01-01 00:00Z')

-- name: for_each_span
-- Many spans in one part cost the planner as much as one. OFFSET keeps it from choosing another join.
SELECT part.*
FROM unnest({starts}::timestamptz[], {ends}::timestamptz[]) AS span (start_time, end_time)
CROSS JOIN LATERAL ({part} OFFSET 0) AS part

-- name: for_each_series
-- Each series is looked up separately. The planner does not know that the rows of a series lie side by side, and would
-- read those of all series. Not in columns: a batch of hours has many series, and is decompressed for all of them at once.
SELECT part.* FROM unnest(%(series)s::integer[]) AS one (number) CROSS JOIN LATERAL ({part} OFFSET 0) AS part

-- name: for_each_method
-- As for_each_series, of the coarse rollups.
SELECT part.*
FROM unnest(%(matching_services)s::text[], %(matching_methods)s::text[]) AS one (service, method)
CROSS JOIN LATERAL ({part} OFFSET 0) AS part

-- name: totals
SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(errors), 0)::bigint, coalesce(sum(latency_hits), 0)::bigint,
       coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms)
FROM ({parts}) AS cell

-- name: totals_by_group
-- By series first: numbers compare faster than texts, and fewer rows are joined.
SELECT {group}, sum(hits)::bigint, sum(errors)::bigint, sum(latency_hits)::bigint,
       coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms)
FROM (SELECT {series_group}, sum(hits) AS hits, sum(errors) AS errors, sum(latency_hits) AS latency_hits,
             sum(latency_sum_ms) AS latency_sum_ms, min(latency_min_ms) AS latency_min_ms,
             max(latency_max_ms) AS latency_max_ms
      FROM ({parts}) AS cell
      GROUP BY {series_group}) AS summed
JOIN observability.series ON id = series AND account = %(account)s {owners}
GROUP BY {group}

-- name: totals_by_status
SELECT status_code, sum(hits)::bigint, sum(errors)::bigint, sum(latency_hits)::bigint,
       coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms)
FROM ({parts}) AS cell
GROUP BY status_code

-- name: totals_by_bucket
SELECT date_trunc({bucket}, at, 'UTC') AS bucket, service, endpoint, sum(hits)::bigint, sum(errors)::bigint,
       sum(latency_hits)::bigint, coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms)
FROM ({parts}) AS cell JOIN observability.series ON id = series AND account = %(account)s
GROUP BY 1, service, endpoint
-- COLLATE: the same order on every server, whatever its locale.
ORDER BY 1 DESC, service COLLATE "C", endpoint COLLATE "C"
LIMIT %(limit)s

-- name: totals_and_histogram
SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(errors), 0)::bigint, coalesce(sum(latency_hits), 0)::bigint,
       coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms), sum(histogram)::text
FROM ({parts}) AS part

-- name: totals_and_percentiles
SELECT count(*), count(*) FILTER (WHERE status_code >= %(error_from)s), count(latency_ms),
       coalesce(sum(latency_ms), 0)::bigint, min(latency_ms), max(latency_ms),
       percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event

-- name: histogram
SELECT sum(histogram)::text FROM ({parts}) AS part

-- name: histogram_by_group
-- By series first, as in totals_by_group.
SELECT {group}, sum(histogram)::text
FROM (SELECT series, sum(histogram) AS histogram FROM ({parts}) AS part GROUP BY series) AS summed
JOIN observability.series ON id = series AND account = %(account)s {owners}
GROUP BY {group}

-- name: histogram_by_bucket
SELECT date_trunc({bucket}, at, 'UTC'), service, endpoint, sum(histogram)::text
FROM ({parts}) AS part JOIN observability.series ON id = series AND account = %(account)s
GROUP BY 1, service, endpoint

-- name: latencies_up_to
SELECT count(*) FILTER (WHERE latency_ms <= %(latency_ms)s), count(latency_ms) FROM ({parts}) AS event

-- name: percentiles
SELECT percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms) FROM ({parts}) AS event

-- name: totals_with_percentiles
SELECT totals.*, percentiles.* FROM ({totals}) AS totals, ({percentiles}) AS percentiles

-- name: percentiles_by_group
SELECT {group}, percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event JOIN observability.series ON id = series AND account = %(account)s {owners}
GROUP BY {group}

-- name: percentiles_by_bucket
SELECT date_trunc({bucket}, at, 'UTC'), service, endpoint,
       percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event JOIN observability.series ON id = series AND account = %(account)s
GROUP BY 1, service, endpoint

-- name: totals_by_step
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'), sum(hits)::bigint, sum(errors)::bigint,
       sum(latency_hits)::bigint, coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms)
FROM ({parts}) AS cell
GROUP BY 1

-- name: totals_by_step_and_status
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'), status_code, sum(hits)::bigint, sum(errors)::bigint,
       sum(latency_hits)::bigint, coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms)
FROM ({parts}) AS cell
GROUP BY 1, status_code

-- name: histogram_by_step
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'), sum(histogram)::text
FROM ({parts}) AS part
GROUP BY 1

-- name: percentiles_by_step
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'),
       percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event
GROUP BY 1

-- name: totals_by_step_and_group
-- By series first, as in totals_by_group.
SELECT start, {group}, sum(hits)::bigint, sum(errors)::bigint, sum(latency_hits)::bigint,
       coalesce(sum(latency_sum_ms), 0)::bigint, min(latency_min_ms), max(latency_max_ms)
FROM (SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z') AS start, {series_group}, sum(hits) AS hits,
             sum(errors) AS errors, sum(latency_hits) AS latency_hits, sum(latency_sum_ms) AS latency_sum_ms,
             min(latency_min_ms) AS latency_min_ms, max(latency_max_ms) AS latency_max_ms
      FROM ({parts}) AS cell
      GROUP BY start, {series_group}) AS summed
JOIN observability.series ON id = series AND account = %(account)s {owners}
GROUP BY start, {group}

-- name: histogram_by_step_and_group
SELECT start, {group}, sum(histogram)::text
FROM (SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z') AS start, series, sum(histogram) AS histogram
      FROM ({parts}) AS part
      GROUP BY start, series) AS summed
JOIN observability.series ON id = series AND account = %(account)s {owners}
GROUP BY start, {group}

-- name: percentiles_by_step_and_group
SELECT date_bin(%(step)s, at, timestamptz '2000-01-01 00:00Z'), {group},
       percentile_cont(%(fractions)s::float8[]) WITHIN GROUP (ORDER BY latency_ms)
FROM ({parts}) AS event JOIN observability.series ON id = series AND account = %(account)s {owners}
GROUP BY 1, {group}

-- name: activity_by_group
-- Groups with their first and last event. A series has its first event in its first bucket, which begins at first_at and
-- is a day long at most: where seen_day does not tell, an index of events finds it there. Of removed events, only the
-- bucket is known.
WITH summed AS MATERIALIZED (
    SELECT series, sum(hits) AS hits, sum(errors) AS errors, min(at) AS first_at, max(at) AS last_at
    FROM ({parts}) AS cell
    GROUP BY series
), seen AS MATERIALIZED (
    -- Of days that are read as a whole: the other buckets of their series are none of these.
    SELECT bucket, series, first_seen, last_seen
    FROM observability.seen_day
    JOIN unnest(%(seen_starts)s::timestamptz[], %(seen_ends)s::timestamptz[]) AS span (start_time, end_time)
        ON bucket >= start_time AND bucket < end_time
    WHERE bucket = ANY(ARRAY(SELECT first_at FROM summed UNION SELECT last_at FROM summed))
)
SELECT {group}, count(*) OVER () AS groups, count(DISTINCT endpoint) AS endpoints,
       array_agg(DISTINCT method ORDER BY method) AS methods, sum(hits)::bigint AS hits, sum(errors)::bigint AS errors,
       sum(errors)::float8 / sum(hits)::float8 AS error_rate, min(first_seen) AS first_seen, max(last_seen) AS last_seen
FROM (SELECT summed.series, hits, errors,
             coalesce(first_day.first_seen,
                      (SELECT time FROM observability.event
                       WHERE event.series = summed.series AND time >= greatest(first_at, %(start)s)
                           AND time < least(first_at + interval '24 hours', %(end)s)
                       ORDER BY time LIMIT 1),
                      (SELECT bucket FROM observability.cells_hour AS cell
                       WHERE cell.series = summed.series AND bucket >= first_at
                           AND bucket < first_at + interval '24 hours'
                       ORDER BY bucket LIMIT 1),
                      first_at) AS first_seen,
             coalesce(last_day.last_seen,
                      (SELECT time FROM observability.event
                       WHERE event.series = summed.series AND time >= greatest(last_at, %(start)s)
                           AND time < least(last_at + interval '24 hours', %(end)s)
                       ORDER BY time DESC LIMIT 1),
                      (SELECT bucket FROM observability.cells_hour AS cell
                       WHERE cell.series = summed.series AND bucket >= last_at
                           AND bucket < last_at + interval '24 hours'
                       ORDER BY bucket DESC LIMIT 1),
                      last_at) AS last_seen
      FROM summed
      LEFT JOIN seen AS first_day ON first_day.series = summed.series AND first_day.bucket = first_at
      LEFT JOIN seen AS last_day ON last_day.series = summed.series AND last_day.bucket = last_at) AS active
JOIN observability.series ON id = series AND account = %(account)s
GROUP BY {group}
ORDER BY {order}
LIMIT %(limit)s OFFSET %(offset)s
