-- Views for people and programs that ask in SQL: apirequest_hourly and apirequest_daily. Like every other answer, they are
-- exact and up to date: hours that the rollups do not know yet are counted in the events, in the same statement.

-- The value of a histogram at a percentile, interpolated between neighbours as percentile_cont does. hits is their number
-- in the histogram. The highest bin comes first in the number: a high percentile is found after a few bins.
CREATE FUNCTION observability.histogram_percentile(histogram numeric, hits bigint, percentile float8) RETURNS float8
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    packed   constant text   := histogram::text;
    bins     constant int    := (length(packed) + 11) / 12;
    -- Of bytes, any part is found at once; of text, its beginning is read each time.
    digits   constant bytea  := convert_to(lpad(packed, 12 * bins, '0'), 'SQL_ASCII');
    rank     constant float8 := percentile / 100 * (hits - 1);
    low      constant bigint := floor(rank);
    high     constant bigint := least(low + 1, hits - 1);
    seen     bigint := 0;
    value_ms float8;
    high_ms  float8;
BEGIN
    FOR place IN 0 .. bins - 1 LOOP
        seen := seen + convert_from(substring(digits FROM 12 * place + 1 FOR 12), 'SQL_ASCII')::bigint;
        CONTINUE WHEN seen < hits - high;
        -- The last bin is that of latency 0, the one before it that of 1 ms. See latency_bin.
        value_ms := CASE WHEN place = bins - 1 THEN 0 ELSE 2 * power(1.02::float8, bins - place - 2) / 2.02 END;
        high_ms := coalesce(high_ms, value_ms);
        IF seen >= hits - low THEN
            RETURN value_ms + (high_ms - value_ms) * (rank - low);
        END IF;
    END LOOP;
    RETURN high_ms;
END
$$;

-- Hours whose rollups do not know every event. Those whose events retention has removed were complete before it did.
CREATE VIEW observability.dirty_hour AS
SELECT DISTINCT hour FROM observability.rollup_touched
WHERE hour >= (SELECT from_time FROM observability.retention WHERE level = 'raw');

-- The requests of each hour and series: from rollups, or from the events of a dirty hour.
CREATE VIEW observability.request_hour AS
SELECT bucket, series, hits,
       hits - coalesce(status_ends[width_bucket(499::smallint, status_codes)], 0) AS errors,
       latency_hits, latency_sum_ms, latency_min_ms, latency_max_ms,
       (SELECT sum(part) FROM unnest(histograms) AS part) AS histogram
FROM observability.both_hour
WHERE bucket >= (SELECT from_time FROM observability.retention WHERE level = 'hour')
  AND bucket NOT IN (SELECT hour FROM observability.dirty_hour)
UNION ALL
SELECT hour, series, sum(hits)::bigint, sum(errors)::bigint, sum(latency_hits)::bigint, sum(latency_sum_ms)::bigint,
       min(latency_ms), max(latency_ms), sum(observability.histogram_of(latency_hits, observability.latency_bin(latency_ms)))
FROM observability.dirty_hour CROSS JOIN LATERAL (
    SELECT series, latency_ms, count(*) AS hits, count(*) FILTER (WHERE status_code >= 500) AS errors,
           count(latency_ms) AS latency_hits, sum(latency_ms) AS latency_sum_ms
    FROM observability.event
    WHERE time >= hour AND time < hour + interval '1 hour'
    GROUP BY series, latency_ms) AS counted
GROUP BY hour, series;

-- The same of each day: from rollups, or from the hours of a day that has a dirty one.
CREATE VIEW observability.request_day AS
SELECT bucket, series, hits,
       hits - coalesce(status_ends[width_bucket(499::smallint, status_codes)], 0) AS errors,
       latency_hits, latency_sum_ms, latency_min_ms, latency_max_ms,
       (SELECT sum(part) FROM unnest(histograms) AS part) AS histogram
FROM observability.both_day
WHERE bucket >= (SELECT from_time FROM observability.retention WHERE level = 'day')
  AND bucket NOT IN (SELECT date_trunc('day', hour, 'UTC') FROM observability.dirty_hour)
UNION ALL
SELECT day, series, hits, errors, latency_hits, latency_sum_ms, latency_min_ms, latency_max_ms, histogram
FROM (SELECT DISTINCT date_trunc('day', hour, 'UTC') AS day FROM observability.dirty_hour) AS dirty_day
-- OFFSET: day by day, so that a condition on the days is one on the hours as well.
CROSS JOIN LATERAL (SELECT * FROM observability.request_hour
                    WHERE bucket >= day AND bucket < day + interval '24 hours' OFFSET 0) AS hour_of_day;

CREATE VIEW observability.apirequest_hourly AS
SELECT bucket, service, endpoint, sum(hits)::bigint AS hits, sum(errors)::bigint AS errors,
       sum(latency_sum_ms)::float8 / nullif(sum(latency_hits), 0)::float8 AS avg_latency_ms,
       max(latency_max_ms) AS max_latency_ms
FROM observability.request_hour JOIN observability.series ON id = series
GROUP BY bucket, service, endpoint;

COMMENT ON VIEW observability.apirequest_hourly IS
    'Requests by hour (UTC), service and endpoint, over all accounts. An error has a status from 500 on.';

CREATE VIEW observability.apirequest_daily AS
SELECT bucket, service, endpoint, sum(hits)::bigint AS hits, sum(errors)::bigint AS errors,
       sum(latency_sum_ms)::float8 / nullif(sum(latency_hits), 0)::float8 AS avg_latency_ms,
       least(greatest(observability.histogram_percentile(sum(histogram), sum(latency_hits)::bigint, 95),
                      min(latency_min_ms)), max(latency_max_ms)) AS p95_latency_ms,
       max(latency_max_ms) AS max_latency_ms
FROM observability.request_day JOIN observability.series ON id = series
GROUP BY bucket, service, endpoint;

COMMENT ON VIEW observability.apirequest_daily IS
    'Requests by day (UTC), service and endpoint, over all accounts. An error has a status from 500 on; '
    'p95_latency_ms is at most 1 % off.';

-- Under their plain names as well, where this role may do that and nobody else has taken them.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['apirequest_hourly', 'apirequest_daily'] LOOP
        IF has_schema_privilege(to_regnamespace('public')::oid, 'CREATE') AND to_regclass('public.' || name) IS NULL THEN
            EXECUTE format('CREATE VIEW public.%1$I AS SELECT * FROM observability.%1$I', name);
        END IF;
    END LOOP;
END
$$;
