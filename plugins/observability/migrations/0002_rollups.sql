-- Rollups by hour and by day, with latency histograms at two levels. On TimescaleDB with its community licence they are
-- continuous aggregates; elsewhere tables that a job keeps. Questions read views, cells*, histograms* and both*, which
-- are alike on each.
-- earlier-checksum: 08d7b581b9a37958451de1b25c900eef0590cecd68ddf2237b04ce235e524876

-- Hours whose rollups do not know every event yet. Appended to in the transaction of each write, so that writers never
-- wait for each other; whoever reads takes these hours from the events themselves.
CREATE TABLE observability.rollup_touched (
    id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hour timestamptz NOT NULL,
    at   timestamptz NOT NULL DEFAULT now()
);

-- From when on there still is everything: what is older was removed, and only coarser levels know it. Entries of the
-- ledger before theirs are summed up by minute.
CREATE TABLE observability.retention (
    level     text        PRIMARY KEY CHECK (level IN ('raw', 'hour', 'day', 'ledger')),
    from_time timestamptz NOT NULL
);

INSERT INTO observability.retention
VALUES ('raw', '-infinity'), ('hour', '-infinity'), ('day', '-infinity'), ('ledger', '-infinity');

-- DDSketch: bin i holds latencies in (1.02^(i-1), 1.02^i] ms, so that the middle of a bin is at most 1 % off.
-- https://www.vldb.org/pvldb/vol12/p2195-masson.pdf. Latency 0 has a bin of its own, below all others. Not STRICT: that
-- would keep the planner from inlining it, and a call for each event takes six times as long. The logarithm never fails,
-- not even of 0, since TimescaleDB evaluates every branch of CASE where it vectorises (from 2.28 on). Not greatest(),
-- which is not vectorised, and would count events without a latency as 1 ms.
CREATE FUNCTION observability.latency_bin(latency_ms integer) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN latency_ms <= 0 THEN -1
                ELSE ceil(ln(int4larger(latency_ms, 1)::float8) / ln(1.02::float8)) END::smallint
$$;

-- A histogram is one number, with twelve digits for each bin: sum() adds histograms up, hundreds of bins at a step,
-- where a row for each bin would take hundreds of steps. No bin reaches 10^12 hits, so that none carries over into the next.
CREATE FUNCTION observability.histogram_of(hits bigint, bin smallint) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hits::text || 'e' || (12 * (bin + 1))::text)::numeric
$$;

-- Continuous aggregates, where the server has them: since 2.13 they join, and stack one on another. They hold only what
-- was materialised: what is not yet, the log says, in the transaction that reads it. A real-time aggregate would look
-- for that above a watermark instead, which knows nothing of late events, and is read at another moment than the rows.
DO $$
DECLARE
    totals constant text := 'count(*) AS hits, sum(latency_ms)::bigint AS latency_sum_ms,
        min(latency_ms) AS latency_min_ms, max(latency_ms) AS latency_max_ms';
    number constant text := 'CASE WHEN latency_ms <= 0 THEN -1
        ELSE ceil(ln(int4larger(latency_ms, 1)::float8) / ln(1.02::float8)) END::smallint';
    aggregate constant text := 'CREATE MATERIALIZED VIEW observability.%I
        WITH (timescaledb.continuous, timescaledb.materialized_only = true) AS %s WITH NO DATA';
    unit text;
BEGIN
    IF current_setting('timescaledb.license', true) IS DISTINCT FROM 'timescale' OR NOT EXISTS (
        SELECT FROM pg_extension
        WHERE extname = 'timescaledb'
          AND string_to_array(substring(extversion FROM '^[0-9]+[.][0-9]+'), '.')::integer[] >= ARRAY[2, 13]) THEN
        RETURN;
    END IF;
    EXECUTE format(aggregate, 'rollup_hour', format(
        'SELECT time_bucket(interval ''1 hour'', time) AS bucket, series, status_code, %s
         FROM observability.event GROUP BY 1, 2, 3', totals));
    EXECUTE format(aggregate, 'histogram_hour', format(
        'SELECT time_bucket(interval ''1 hour'', time) AS bucket, series, %s AS bin, count(*) AS hits
         FROM observability.event GROUP BY 1, 2, 3', number));
    EXECUTE format(aggregate, 'coarse_hour', format(
        'SELECT time_bucket(interval ''1 hour'', e.time) AS bucket, s.account, s.service, s.method, %s AS bin,
                count(*) AS hits
         FROM observability.event AS e JOIN observability.series AS s ON s.id = e.series
         GROUP BY 1, 2, 3, 4, 5', number));
    EXECUTE format(aggregate, 'rollup_day',
        'SELECT time_bucket(interval ''1 day'', bucket) AS bucket, series, status_code, sum(hits)::bigint AS hits,
                sum(latency_sum_ms)::bigint AS latency_sum_ms, min(latency_min_ms) AS latency_min_ms,
                max(latency_max_ms) AS latency_max_ms
         FROM observability.rollup_hour GROUP BY 1, 2, 3');
    EXECUTE format(aggregate, 'histogram_day',
        'SELECT time_bucket(interval ''1 day'', bucket) AS bucket, series,
                sum(observability.histogram_of(hits, bin)) AS histogram
         FROM observability.histogram_hour GROUP BY 1, 2');
    EXECUTE format(aggregate, 'coarse_day',
        'SELECT time_bucket(interval ''1 day'', bucket) AS bucket, account, service, method,
                sum(observability.histogram_of(hits, bin)) AS histogram
         FROM observability.coarse_hour GROUP BY 1, 2, 3, 4');
    FOREACH unit IN ARRAY ARRAY['hour', 'day'] LOOP
        EXECUTE format($view$
            CREATE VIEW observability.cells_%1$s AS
            SELECT bucket, series, hits, latency_sum_ms, latency_max_ms,
                   ARRAY[status_code] AS status_codes, ARRAY[hits] AS status_ends
            FROM observability.rollup_%1$s;
            CREATE VIEW observability.cells_coarse_%1$s AS
            SELECT bucket, account, service, method, hits, latency_sum_ms, latency_max_ms, status_codes, status_ends
            -- The site is said so that an index can find a service.
            FROM observability.cells_%1$s JOIN observability.series ON id = series WHERE site = 0;
            CREATE VIEW observability.histograms_%1$s AS
            SELECT bucket, series, ARRAY[%2$s] AS histograms FROM observability.histogram_%1$s;
            CREATE VIEW observability.histograms_coarse_%1$s AS
            SELECT bucket, account, service, method, ARRAY[%2$s] AS histograms FROM observability.coarse_%1$s;
            CREATE VIEW observability.both_%1$s AS
            SELECT *, NULL::numeric[] AS histograms FROM observability.cells_%1$s
            UNION ALL
            SELECT bucket, series, NULL, NULL, NULL, NULL, NULL, histograms FROM observability.histograms_%1$s;
            CREATE VIEW observability.both_coarse_%1$s AS
            SELECT *, NULL::numeric[] AS histograms FROM observability.cells_coarse_%1$s
            UNION ALL
            SELECT bucket, account, service, method, NULL, NULL, NULL, NULL, NULL, histograms
            FROM observability.histograms_coarse_%1$s $view$,
            unit, CASE unit WHEN 'hour' THEN 'observability.histogram_of(hits, bin)' ELSE 'histogram' END);
    END LOOP;
END
$$;

-- Elsewhere tables: one row for all that is known of a series, or of a method of a service, and an hour or a day.
DO $$
DECLARE
    name text;
    keys text;
    unit text;
    kind text;
BEGIN
    IF to_regclass('observability.rollup_hour') IS NOT NULL THEN
        RETURN;
    END IF;
    FOR name, keys IN VALUES ('rollup', 'series'), ('coarse', 'account, service, method') LOOP
        FOREACH unit IN ARRAY ARRAY['hour', 'day'] LOOP
            EXECUTE format($table$
                CREATE TABLE observability.%1$s_%2$s (
                    bucket         timestamptz NOT NULL,
                    %3$s,
                    hits           bigint      NOT NULL,
                    latency_sum_ms bigint      NOT NULL,
                    latency_min_ms integer     NOT NULL,
                    latency_max_ms integer     NOT NULL,
                    -- Ascending, and how many hits have at most that status: hits from any status on are a difference.
                    status_codes   smallint[]  NOT NULL,
                    status_ends    bigint[]    NOT NULL,
                    -- They add up to the histogram. An hour of one series has hits in few bins, far apart: as one
                    -- number it would be mostly zeros.
                    histograms     numeric[]   NOT NULL,
                    PRIMARY KEY (%4$s, bucket));
                CREATE INDEX %1$s_%2$s_bucket ON observability.%1$s_%2$s (bucket) $table$,
                name, unit, CASE name WHEN 'rollup' THEN 'series integer NOT NULL' ELSE
                'account integer NOT NULL, service text NOT NULL, method text NOT NULL' END, keys);
            FOREACH kind IN ARRAY ARRAY['cells', 'histograms', 'both'] LOOP
                EXECUTE format('CREATE VIEW observability.%s%s_%s AS SELECT * FROM observability.%s_%s',
                    kind, CASE name WHEN 'coarse' THEN '_coarse' END, unit, name, unit);
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;

-- What was stored before there were rollups.
INSERT INTO observability.rollup_touched (hour)
SELECT DISTINCT date_trunc('hour', time, 'UTC') FROM observability.event;
